"""TCP over net.stack, sans-I/O (RFC 9293). What is read first, from the wire up:

`wire` parses and emits segments. `ports` gives them to a `listener` (SYN `cookies` beyond its
limit) or a `connection`. `inbound` takes a connection's segments, `outbound` sends them,
`timeouts` acts when its `timer` fires. Types for what travels together: `round_trip`,
`timestamps`, `window`, `reassembly`, `recovery` with the `sack` scoreboard, `congestion`. All
share `sequence`, `ranges` and `states`.

Fields with a default of their class cost a new connection nothing; those that the hot path reads
are set in __init__, because MicroPython finds them there first.
"""
