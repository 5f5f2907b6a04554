"""TCP/IP in Python, without input or output of its own.

Two kinds of files. Wire formats, which turn bytes into numbers and back and keep nothing:
`ethernet arp ipv4 icmp udp tcp dhcp_message dns_message`. State, which is told the time in
milliseconds and never reads a clock: `timers buffers neighbours tcp_connection dhcp dns stack`.
`host` alone knows the machine: it joins one Stack to the clock, the alarm and a network card.

Addresses are 32-bit integers, hardware addresses are bytes of length 6, TCP sequence numbers
are kept unwrapped (see `tcp_connection`), times are integers of milliseconds.
"""
