"""MicroPython's `network` module: one Ethernet interface, `LAN(0)`.

As documented for MicroPython 1.25: `active isconnected status ifconfig ipconfig config`, and
`hostname()` and `ipconfig()` of the module. IPv6 is off until `use_ipv6()`, which main.py calls,
or `ipconfig(autoconf6=True)`.
"""
# SPDX-License-Identifier: MIT

import sys
import time

import drivers
import micropython
from micropython import const
from net import family, host, ipv4, ipv6
from net.dhcp import BOUND, REBINDING, REBOOTING, RENEWING, Client

# LAN.status(), as the ports with lwIP number it.
STAT_LINK_DOWN = const(0)
STAT_NO_NETWORK = const(1)
STAT_NO_IP = const(2)
STAT_GOT_IP = const(3)

# The DHCP client's states in which there is an address.
_LEASED = (BOUND, RENEWING, REBINDING, REBOOTING)

_ENODEV = const(19)
_MAX_HOSTNAME = const(32)

_card = None
# Of the card that runs: (its driver, its bus address).
_name = None
_dhcp = None
# (address, netmask, gateway) set by hand, for whenever the interface is active.
_static = None
_dns = None
# None: no IPv6; (): as routers say; else (address, bits, gateway or None, servers).
_ipv6 = None
# Whether hostname() has set the name: no lease changes it then.
_named = False
_ntp = None  # time servers that were set, as integers


class _Client(Client):
    """A DHCP client whose leases count the machine's pauses, which the stack's time leaves out."""

    def paused(self, ms, now):
        """Take `ms` off the lease, and ask the server whether it still holds (RFC 2131 3.7)."""
        if self._expires is not None:
            self._renew_at -= ms
            self._rebind_at -= ms
            self._expires -= ms
        self.link_up(now)


class LAN:
    """The Ethernet interface. All objects of this class are the same interface.

    Args: id: 0, the only one.
    """

    def __init__(self, id=0):
        if id != 0:
            raise ValueError("no such LAN")

    def active(self, on=None):
        """Return whether the interface runs, or start or stop it.

        Starting looks for a card on the PCI bus and, unless an address was set, asks for one by
        DHCP. OSError ENODEV: no driver knows a card.
        """
        if on is None:
            return _card is not None
        if bool(on) != (_card is not None):
            if on:
                _start()
            else:
                _stop()
        return None

    def isconnected(self):
        """Return whether the cable is connected and there is an address."""
        return self.status() == STAT_GOT_IP

    def status(self):
        """Return 0 without a link, 2 without an address, 3 with both."""
        if _card is None or not _card.link_up():
            return STAT_LINK_DOWN
        has_address = host.stack.address or host.stack.six.has_global()
        return STAT_GOT_IP if has_address else STAT_NO_IP

    def ifconfig(self, config=None):
        """Return (address, netmask, gateway, dns) as texts, or set them; "dhcp" asks for them."""
        if config is None:
            stack = host.stack
            dns = stack.dns_servers[0] if stack.dns_servers else 0
            return tuple(
                family.address_text(value)
                for value in (stack.address, stack.netmask, stack.gateway, dns)
            )
        if config == "dhcp":
            _use_dhcp()
            return None
        address, netmask, gateway, dns = [ipv4.address(text) for text in config]
        ipv4.prefix_length(netmask)
        _use_static(address, netmask, gateway)
        _set_dns(dns)
        return None

    def ipconfig(self, *args, **kwargs):
        """Return the value of one name, or set some.

        Of IPv4: "addr4", "gw4", "dhcp4", "has_dhcp4". addr4 is a pair of texts (address, netmask);
        "address/bits" sets it too. gw4=None is no gateway. Setting an address ends DHCP.

        Of IPv6: "addr6", "gw6", "autoconf6", "has_autoconf6". addr6 is a list of (address, state,
        preferred, valid), with 0x30 for a state without blemish, and seconds or None for no end;
        "address/bits" sets one. gw6 is a text, or None.

        The names with "has" are read only. ValueError: no such name, or not an address.
        """
        stack = host.stack
        if args:
            if kwargs or len(args) != 1:
                raise TypeError("one name, or values by keyword")
            if args[0] == "addr4":
                return ipv4.address_text(stack.address), ipv4.address_text(stack.netmask)
            if args[0] == "gw4":
                return ipv4.address_text(stack.gateway)
            if args[0] == "dhcp4":
                return _dhcp is not None
            if args[0] == "has_dhcp4":
                return _dhcp is not None and _dhcp.state in _LEASED
            return _ipconfig6(args[0])
        for name in kwargs:
            if name not in ("addr4", "gw4", "dhcp4", "addr6", "gw6", "autoconf6"):
                raise ValueError("unknown config param")
        if "addr6" in kwargs or "gw6" in kwargs or "autoconf6" in kwargs:
            _set_ipconfig6(kwargs)
            for name in ("addr6", "gw6", "autoconf6"):
                kwargs.pop(name, None)
        address, netmask, gateway = _static or (stack.address, stack.netmask, stack.gateway)
        if "addr4" in kwargs:
            address, netmask = _parse_interface(kwargs["addr4"])
        if "gw4" in kwargs:
            gateway = ipv4.address(kwargs["gw4"]) if kwargs["gw4"] else 0
        if kwargs.get("dhcp4"):
            _use_dhcp()
        elif kwargs:
            _use_static(address, netmask, gateway)
        return None

    def config(self, *args, **kwargs):
        """Return config("mac") as bytes. ValueError: any other name."""
        if kwargs or args != ("mac",):
            raise ValueError("unknown config param")
        if _card is None:
            raise OSError(_ENODEV)
        return _card.mac


def hostname(name=None):
    """Return the name for DHCP servers and .local, or set it; else a lease may.

    ValueError: longer than 32 bytes.
    """
    if name is None:
        return host.stack.hostname
    global _named
    if not 0 < len(name) <= _MAX_HOSTNAME:
        raise ValueError("host name of 1 to 32 characters")
    _named = True
    if name != host.stack.hostname:
        host.stack.hostname = name
        host.enter()
        try:
            now = time.ticks_ms()
            if _dhcp is not None:
                _dhcp.link_up(now)  # asks for the lease again, under the new name
            if host.stack.responder:
                host.stack.responder.start(now)
        finally:
            host.leave()
    return None


def advertise(port, text=()):
    """Answer multicast DNS: this host is its host name in .local, with an HTTP server.

    Args: port: the server's; text: ["key=value"] of its TXT record.
    """
    from net.mdns import Responder

    host.enter()
    try:
        Responder(host.stack, "_http._tcp", port, text).start(time.ticks_ms())
    finally:
        host.leave()


def withdraw():
    """Take back what advertise() said, if it was called."""
    if host.stack.responder:
        host.enter()
        try:
            host.stack.responder.close()
        finally:
            host.leave()


def ipconfig(*args, **kwargs):
    """Return ipconfig("dns"), the server's address as a text, or set ipconfig(dns=...)."""
    if args == ("dns",) and not kwargs:
        servers = host.stack.name_servers()
        return family.address_text(servers[0] if servers else 0)
    if args or list(kwargs) != ["dns"]:
        raise ValueError("unknown config param")
    _set_dns(family.address(kwargs["dns"]))
    return None


def use_ipv6(how):
    """Use IPv6 as the configuration's `network.ipv6` says, from now on and whenever active.

    Args: how: "auto", "off", or {"address": "address/bits", "gateway": text, "dns": [text]}.
    ValueError: not an address.
    """
    global _ipv6
    if how == "off":
        wanted = None
    elif how == "auto":
        wanted = ()
    else:
        value, bits = ipv6.interface(how["address"])
        gateway = how.get("gateway")
        servers = [ipv6.address(text) for text in how.get("dns") or ()]
        wanted = (value, bits, ipv6.address(gateway) if gateway else None, servers)
    _ipv6 = wanted
    host.enter()
    try:
        if wanted is None:
            host.stack.six.stop()
        else:
            host.stack.six.start(time.ticks_ms(), *wanted)
    finally:
        host.leave()


def _ipconfig6(name):
    six = host.stack.six
    if name == "addr6":
        return [(ipv6.address_text(one[0]),) + one[1:] for one in six.described(time.ticks_ms())]
    if name == "gw6":
        gateway = six.autoconf.gateway()
        return ipv6.address_text(gateway) if gateway else None
    if name == "autoconf6":
        return _ipv6 == ()
    if name == "has_autoconf6":
        return _ipv6 == () and six.has_global()
    raise ValueError("unknown config param")


def _set_ipconfig6(values):
    if values.get("autoconf6") or not ("addr6" in values or _ipv6):
        use_ipv6("auto" if values.get("autoconf6") else "off")
        return
    how = {"address": values.get("addr6"), "gateway": values.get("gw6")}
    if how["address"] is None:
        how["address"] = "%s/%d" % (ipv6.address_text(_ipv6[0]), _ipv6[1])
    elif "/" not in how["address"]:
        how["address"] += "/64"
    if "gw6" not in values and _ipv6 and _ipv6[2]:
        how["gateway"] = ipv6.address_text(_ipv6[2])
    use_ipv6(how)


def describe():
    """Return what /health says of the network: names, addresses, routers, servers."""
    stack = host.stack
    addresses = []
    if stack.address:
        bits = ipv4.prefix_length(stack.netmask)
        addresses.append("%s/%d" % (ipv4.address_text(stack.address), bits))
    for address in stack.six.autoconf.addresses:
        if address.value in stack.six.own:
            addresses.append("%s/%d" % (ipv6.address_text(address.value), address.bits))
    gateways = [stack.gateway, stack.six.autoconf.gateway()]
    return {
        "hostname": stack.hostname,
        "addresses": addresses,
        "gateways": [family.address_text(gateway) for gateway in gateways if gateway],
        "dns": [family.address_text(server) for server in stack.name_servers()],
    }


def _parse_interface(value):
    """Return (address, netmask) of "a.b.c.d/bits", or of a pair of texts."""
    if isinstance(value, str):
        text, _, bits = value.partition("/")
        if not bits.isdigit() or int(bits) > 32:
            raise ValueError("not address/bits: " + value)
        return ipv4.address(text), ipv4.mask(int(bits))
    text, mask_text = value
    netmask = ipv4.address(mask_text)
    ipv4.prefix_length(netmask)
    return ipv4.address(text), netmask


def _start(wanted=None):
    global _card, _name
    found = drivers.find_cards(wanted)
    if not found:
        raise OSError(_ENODEV)
    # The one that runs goes on if another does not start.
    card = drivers.open_card(*found[0])
    if _card is not None:
        _stop()
    _card = card
    _name = found[0]
    host.attach(_card, _on_link)
    if _static:
        _configure()
    else:
        _use_dhcp()


def use_card(wanted):
    """Change to another network card. OSError ENODEV: there is none, and the one in use stays.

    Args: wanted: the name of its driver, or its bus address as "00:03.0".
    """
    if _name not in drivers.find_cards(wanted):
        _start(wanted)


def _stop():
    global _card, _name
    card, _card, _name = _card, None, None
    _stop_dhcp()
    host.attach(None)
    card.stop()


def _on_link(now):
    # Called within the stack's guard. The cable may lead to another network now.
    if _dhcp is not None:
        _dhcp.link_up(now)
    else:
        host.stack.neighbours.announce(now)


def paused(ms):
    """Correct for a pause of the machine of `ms`: leases ran on, and clocks stood still."""
    if _card is None:
        return
    host.enter()
    try:
        now = time.ticks_ms()
        host.stack.link_up(now)
        host.stack.six.autoconf.paused(ms, now)
        if _dhcp is not None:
            _dhcp.paused(ms, now)
        else:
            host.stack.neighbours.announce(now)
    finally:
        host.leave()
    if "ntptime" in sys.modules:
        sys.modules["ntptime"].ask_again()


def _use_dhcp():
    global _dhcp, _static
    _static = None
    if _card is None or _dhcp is not None:
        return
    host.enter()
    try:
        _dhcp = _Client(host.stack, _use_time_servers, _use_name)
        _dhcp.start(time.ticks_ms())
    finally:
        host.leave()


def _stop_dhcp():
    global _dhcp
    if _dhcp is None:
        return
    host.enter()
    try:
        _dhcp.stop()
        _dhcp = None
    finally:
        host.leave()


def _use_time_servers(servers):
    # Called within the stack's guard.
    if _ntp is None:
        _start_clock(servers)


def _start_clock(servers):
    # Few networks name time servers, so import late. start() enters the stack's guard: schedule it.
    import ntptime

    micropython.schedule(ntptime.start, servers)


def _use_name(name, now):
    # Called within the stack's guard. A name that somebody chose here stays.
    if not _named and name != host.stack.hostname:
        host.stack.hostname = name
        if host.stack.responder:
            host.stack.responder.start(now)


def _use_static(address, netmask, gateway):
    global _static
    _stop_dhcp()
    _static = (address, netmask, gateway)
    _configure()


def _set_dns(server):
    _set_servers([server] if server else [])


def _set_servers(servers):
    global _dns
    _dns = servers
    host.stack.dns_servers = servers


def name_servers(addresses):
    """Ask these for names, whatever DHCP says. Args: addresses: texts."""
    host.stack.fixed_dns = [family.address(text) for text in addresses]
    _set_servers(host.stack.fixed_dns)


def time_servers(addresses):
    """Keep the clock set by these, whatever DHCP says. Args: addresses: texts."""
    global _ntp
    _ntp = [ipv4.address(text) for text in addresses]
    _start_clock(_ntp)


def _configure():
    if _card is None:
        return
    host.enter()
    try:
        address, netmask, gateway = _static
        servers = host.stack.dns_servers if _dns is None else _dns
        host.stack.configure(address, netmask, gateway, servers)
    finally:
        host.leave()
