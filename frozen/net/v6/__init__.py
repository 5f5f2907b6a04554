"""What IPv6 has in place of ARP, DHCP, ICMP and IGMP.

Wire formats without state: `icmp extensions discovery_message mld`. State: `neighbours autoconf
interface`. `selection` orders addresses. Addresses are bytes of length 16, see net.family.
"""
