"""TCP/IP in Python, sans-I/O.

Wire formats parse and emit bytes and keep no state: `ethernet arp ipv4 icmp udp tcp.wire
dhcp_message dns_message`. The other files hold state, take the time in milliseconds as an argument
and never read a clock: `timers buffers neighbours fragments tcp dhcp dns ntp stack`. `host` alone
knows the machine: it joins one Stack to the clock, the alarm and a network card.

Addresses are 32-bit integers, hardware addresses are bytes of length 6, TCP sequence numbers
are unwrapped (see `tcp.sequence`), times are integers of milliseconds.
"""
