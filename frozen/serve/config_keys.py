"""Every key of a machine's configuration, once: its type, range and default.

The host checks a --config file by these tables before it boots anything (host/cllm/config.py), the
guest the config.json that it is given (settings.py): neither takes what the other refuses. Plain
Python that imports nothing, for CPython and for the image.
"""
# SPDX-License-Identifier: MIT


class ConfigError(Exception):
    """A key is unknown or has a wrong value. path: the names from the outermost object to the key,
    () for none; words: what is wrong with it.
    """

    def __init__(self, path, words):
        name = ".".join([part[:64] for part in path])
        super().__init__('"%s" %s' % (name, words) if path else words)
        self.path = path
        self.words = words


class Integer:
    """A whole number from `least` to `most`."""

    def __init__(self, least, most, default=None):
        self.least = least
        self.most = most
        self.default = default
        self.words = "a whole number from %d to %d" % (least, most)

    def takes(self, value):
        """Return whether `value`, of a JSON file, is one; as for all kinds."""
        return type(value) is int and self.least <= value <= self.most  # a bool is no number


class Seconds:
    """A time above 0, of at most `most` seconds; fractions are allowed."""

    def __init__(self, most, default):
        self.most = most
        self.default = default
        self.words = "a number above 0, at most %d" % most

    def takes(self, value):
        return type(value) in (int, float) and 0 < value <= self.most


class Flag:
    """true or false."""

    words = "true or false"

    def __init__(self, default):
        self.default = default

    def takes(self, value):
        return isinstance(value, bool)


class Text:
    """A string, which may be empty."""

    words = "a string"

    def __init__(self, default=None):
        self.default = default

    def takes(self, value):
        return isinstance(value, str)


class Choice:
    """One of some words, of which the first is the default."""

    def __init__(self, *choices):
        self.choices = choices
        self.default = choices[0]
        self.words = "one of " + ", ".join(choices)

    def takes(self, value):
        return isinstance(value, str) and value in self.choices


class Texts:
    """An array of strings that are not empty."""

    words = "an array of strings that are not empty"
    default = ()

    def takes(self, value):
        return isinstance(value, (list, tuple)) and all([isinstance(v, str) and v for v in value])


class Shares:
    """An array of at most `most` numbers from 0 on, not all of them 0."""

    default = None

    def __init__(self, most):
        self.most = most
        self.words = "an array of up to %d numbers from 0 to 1000000, not all 0" % most

    def takes(self, value):
        return (
            isinstance(value, list)
            and 0 < len(value) <= self.most
            and all([type(v) in (int, float) and 0 <= v <= 1000000 for v in value])
            and any(value)
        )


class Addresses:
    """An array of IPv4 addresses."""

    words = 'an array of IPv4 addresses such as ["192.0.2.1"]'
    default = None

    def takes(self, value):
        return isinstance(value, list) and all([_is_address(v) for v in value])


class Digest:
    """A SHA-256 as a string of 64 hexadecimal digits."""

    words = "a SHA-256: 64 hexadecimal digits"
    default = None

    def takes(self, value):
        return isinstance(value, str) and len(value) == 64 and not value.strip(_HEX)


class Url:
    """A URL of a server."""

    words = 'a URL that begins with "http://" or "https://"'
    default = None

    def takes(self, value):
        return (
            isinstance(value, str)
            and value.startswith(("http://", "https://"))
            and len(value) > 8
            and not any([c <= " " or c > "~" for c in value])
        )


_HEX = "0123456789abcdefABCDEF"


class Ports:
    """An array of at most 8 ports."""

    words = "an array of at most 8 whole numbers from 1 to 65535"
    default = ()  # as a list in a file

    def takes(self, value):
        return (
            isinstance(value, (list, tuple))
            and len(value) <= 8
            and all([type(v) is int and 1 <= v <= 65535 for v in value])
        )


class Address:
    """An IPv4 address as a string; with `prefix`, of an interface: "a.b.c.d/bits"."""

    default = None

    def __init__(self, prefix=False):
        self.prefix = prefix
        self.words = 'an IPv4 address such as "192.0.2.1%s"' % ("/24" if prefix else "")

    def takes(self, value):
        if not isinstance(value, str):
            return False
        if self.prefix:
            value, _, bits = value.partition("/")
            if not _is_number(bits, 32):
                return False
        return _is_address(value)


def _is_address(value):
    parts = value.split(".") if isinstance(value, str) else ()
    return len(parts) == 4 and all([_is_number(part, 255) for part in parts])


class IPv6:
    """How the machine uses IPv6: "auto", "off", or an object with an address set by hand."""

    default = "auto"
    words = (
        '"auto", "off", or an object with "address" such as "2001:db8::2/64", and maybe "gateway" '
        'such as "fe80::1" and "dns", an array of addresses'
    )

    def takes(self, value):
        if not isinstance(value, dict):
            return value in ("auto", "off")
        for name in value:
            if name not in ("address", "gateway", "dns"):
                return False
        address, gateway, servers = value.get("address"), value.get("gateway"), value.get("dns")
        if not isinstance(address, str):
            return False
        address, _, bits = address.partition("/")
        return (
            _is_number(bits, 128)
            and int(bits) > 0
            and _is_ipv6(address)
            and (gateway is None or _is_ipv6(gateway))
            and (servers is None or isinstance(servers, list))
            and all([_is_ipv6(server) for server in servers or ()])
        )


def _is_ipv6(text):
    # RFC 4291 2.2, without IPv4's in it.
    if not isinstance(text, str):
        return False
    head, gap, tail = text.partition("::")
    groups = (head.split(":") if head else []) + (tail.split(":") if tail else [])
    if len(groups) > 7 if gap else len(groups) != 8:
        return False
    return all([0 < len(g) <= 4 and not g.strip("0123456789abcdefABCDEF") for g in groups])


def _is_number(text, most):
    # Digits of other scripts are digits for Python, too.
    return 0 < len(text) <= 3 and not text.strip("0123456789") and int(text) <= most


_SIZE = 1 << 30  # bytes
_DAY = 86400  # seconds

# The guest's keys outside of any section. `port` is the guest's own: the host forwards another to
# it.
SERVER = {
    "port": Integer(1, 65535, 80),
    "keys": Texts(),
    "ports": Ports(),  # beside `port`
    "cors": Text("*"),  # origins with commas; "*" any, "localhost" the browser's own machine
    "access_log": Flag(False),
    # Whether these routes answer; without, 501.
    "metrics": Flag(True),
    "slot_list": Flag(True),
    # Nothing in the event loop blocks for nearly as long: the engine has threads of its own.
    "watchdog": Integer(0, _DAY, 60),
}


class HostName:
    """A host's name of one label: RFC 952, with the digits of RFC 1123 2.1."""

    words = "up to 32 letters, digits and hyphens, no hyphen first or last"

    def __init__(self, default):
        self.default = default

    def takes(self, value):
        return (
            isinstance(value, str)
            and 0 < len(value) <= 32
            and all([c in _HOST_NAME for c in value])
            and value[0] != "-" != value[-1]
        )


_HOST_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

NETWORK = {
    "address": Address(prefix=True),  # without one, DHCP is asked
    "gateway": Address(),
    "dns": Addresses(),  # without them, those of DHCP
    "ntp": Addresses(),  # likewise
    "ipv6": IPv6(),
    "card": Text(),  # a driver's name, or a bus address
    "hostname": HostName("cllm"),
    "mdns": Flag(True),
}

# Of requests for the model: scheduling.scheduler.Bounds.
REQUEST_LIMITS = {
    "queue": Integer(1, 4096, 64),
    "per_client": Integer(0, 4096, 0),
    "queue_s": Integer(0, _DAY, 0),
    "request_s": Integer(0, _DAY, 0),
    "step_ms": Integer(1, 60000, 500),
    "sample_ms": Integer(1, 60000, 1000),
    "job_ms": Integer(1, 60000, 1000),
    "stored": Integer(0, _SIZE, 1 << 20),
    "streams": Integer(0, _SIZE, 4 << 20),
    "saved": Integer(0, _SIZE, 64 << 20),
}

# Of HTTP: httpd.Limits.
HTTP_LIMITS = {
    "line": Integer(1, _SIZE, 8192),
    "head": Integer(1, _SIZE, 16384),
    "headers": Integer(1, _SIZE, 100),
    "body": Integer(1, _SIZE, 2 << 20),
    "json_memory": Integer(1, _SIZE, 12 << 20),
    "json_containers": Integer(1, _SIZE, 16384),
    "connections": Integer(1, 65535, 64),
    "backlog": Integer(1, 65535, 16),
    "idle_s": Seconds(_DAY, 60),
    "head_s": Seconds(_DAY, 15),
    "body_s": Seconds(_DAY, 20),
    "write_s": Seconds(_DAY, 30),
    "linger_s": Seconds(_DAY, 3),
}

LIMITS = {"drain_s": Integer(0, _DAY, 30)}
LIMITS.update(REQUEST_LIMITS)
LIMITS.update(HTTP_LIMITS)

# A --config file has these of the model outside of any section, but for `file`, its "model".
MODEL = {
    "file": Text("model.gguf"),
    "url": Url(),  # of a file that the guest downloads
    "sha256": Digest(),  # of that file
    "draft": Text(),
    "alias": Text(),  # or several with commas
    "tags": Text(),  # likewise
    "lora": Texts(),  # files of adapters
    "n_ctx": Integer(1, 1 << 20, 2048),
    "n_batch": Integer(1, 4096, 64),
    "slots": Integer(1, 252, 4),
    "threads": Integer(1, 256),  # without it, as many as there are cores
    "speculate": Flag(True),
    # In the order of engine.h's ENGINE_POOLING_* and ENGINE_KERNELS_*.
    "pooling": Choice("model", "mean", "cls", "last", "none", "rank"),
    "kernels": Choice("auto", "ggml", "tcg", "exact"),
    # Layers that a GPU computes, of the draft model too; without it, all where there is a GPU.
    "gpu_layers": Integer(0, 1 << 16),
    # How several GPUs share the model, by llama.cpp's names, in the order of ENGINE_SPLIT_*.
    "split_mode": Choice("layer", "none", "tensor"),
    "main_gpu": Integer(0, 15, 0),  # of "none"
    "tensor_split": Shares(16),  # for each GPU; without it, by free memory
    # Builds of ggml's CPU code in the image (native/CMakeLists.txt).
    "cpu_variant": Choice("auto", "sse42", "avx2", "avx512", "avx512-vnni", "avx512-bf16"),
}

# Names of files: on the host paths, in the guest boot modules.
TLS = {
    "cert": Text(),
    "key": Text(),
    "port": Integer(1, 65535, 443),
    # What `port` of the server does then: sends clients to the encrypted one, serves, or nothing.
    "plain": Choice("redirect", "serve", "off"),
    "version": Choice("1.2", "1.3"),  # the least
}

# Keys of a --config file that are for QEMU only. A guest that reads such a file, from a disk say,
# passes over them.
HOST_ONLY = (
    "accel", "app", "disk", "gpu", "gpu_memory", "machine", "memory", "nic", "offline", "on_crash",
    "pcap", "serial", "smp", "tls_port",
)  # fmt: skip

SECTIONS = {"network": NETWORK, "limits": LIMITS, "model": MODEL, "tls": TLS}


def sequences(slots):
    """Return how many sequences the engine has: one a slot, and as many for kept prefixes."""
    return min(256, slots + max(4, slots))


def unknown(path, known):
    """Return the ConfigError for a key that is none of `known`."""
    near = nearest(path[-1], known)
    words = ', did you mean "%s"?' % near if near else ""
    return ConfigError(path, "is unknown%s; known are %s" % (words, ", ".join(sorted(known))))


def nearest(name, known):
    """Return which of `known` was meant by `name`, None if none is similar."""
    best = None
    least = 1 + min(len(name), 64) // 3  # more edits than that are another word
    for other in sorted(known):
        edits = _edits(name[:64], other)
        if edits <= least:
            best = other
            least = edits - 1
    return best


def _edits(one, two):
    # Levenshtein's distance: letters to insert, delete or replace.
    row = list(range(len(two) + 1))
    for i in range(len(one)):
        last = row
        row = [i + 1]
        for j in range(len(two)):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (one[i] != two[j])))
    return row[-1]


def check_value(path, kind, value):
    """Raise ConfigError unless `value` is of `kind`; null stands for the default."""
    if value is not None and not kind.takes(value):
        secret = "keys" in path  # /health gives the reason to everybody
        raise ConfigError(
            path, "must be %s" % kind.words + ("" if secret else ", and is %s" % _shown(value))
        )


def _shown(value):
    text = '"%s"' % value if isinstance(value, str) else str(value)
    return text if len(text) <= 64 else text[:60] + " ..."


def check_section(name, section):
    """Raise ConfigError for the first mistake in the object `section`, called `name`."""
    if section is None:
        return
    if not isinstance(section, dict):
        raise ConfigError((name,), "must be an object")
    known = SECTIONS[name]
    for key in section:
        if key not in known:
            raise unknown((name, key), known)
        check_value((name, key), known[key], section[key])


def check_tls(tls):
    """Raise ConfigError if the section `tls`, None for none, lacks the certificate or its key."""
    for key in ("cert", "key") if tls is not None else ():
        if not tls.get(key):
            raise ConfigError(("tls", key), "is missing: name the file, in PEM")


def check_url(model, path=()):
    """Raise ConfigError if the model comes by TLS without the hash that vouches for it."""
    url = model.get("url")
    if url and url.startswith("https://") and not model.get("sha256"):
        raise ConfigError(path + ("sha256",), "is missing: an https:// URL needs the file's hash")


def check_batch(model, path=()):
    """Raise ConfigError if the model's batches are too small for its slots. path: of its keys."""
    slots = get(model, MODEL, "slots")
    n_batch = get(model, MODEL, "n_batch")
    if n_batch < sequences(slots):
        raise ConfigError(
            path + ("slots",),
            '(%d) needs an "n_batch" of at least %d, which is %d'
            % (slots, sequences(slots), n_batch),
        )


def check(config):
    """Raise ConfigError for the first mistake in `config`, a guest's whole configuration."""
    if not isinstance(config, dict):
        raise ConfigError((), "the configuration must be an object")
    for name in config:
        if name == "model" and isinstance(config[name], str):
            continue
        if name in SECTIONS:
            check_section(name, config[name])
        elif name in SERVER:
            check_value((name,), SERVER[name], config[name])
        elif name in MODEL and name != "file":
            check_value((name,), MODEL[name], config[name])
        elif name not in HOST_ONLY and name != "$schema":
            known = list(SERVER) + list(SECTIONS) + list(HOST_ONLY) + list(MODEL)
            raise unknown((name,), [key for key in known if key != "file"])
    model = config.get("model")
    if isinstance(model, dict):
        check_batch(model, ("model",))
        check_url(model, ("model",))
    else:
        check_batch(config)
        check_url(config)
    check_tls(config.get("tls"))


def of_guest(config):
    """Return a checked configuration as its sections: what a --config file has of the model at the
    top moves into "model", and what is QEMU's is left out.
    """
    found = {}
    model = {}
    for name in config:
        value = config[name]
        if name == "model" and isinstance(value, str):
            if value.startswith(("http://", "https://")):
                model["url"] = value
            elif value.endswith(".gguf") and ":" not in value:
                model["file"] = value.split("/")[-1]
        elif name in SECTIONS or name in SERVER:
            found[name] = value
        elif name in MODEL:
            model[name] = value
    if model:
        model.update(found.get("model") or {})
        found["model"] = model
    return found


def get(values, keys, name):
    """Return the checked value of `name` in an object, or its default in the table `keys`."""
    value = values.get(name)
    return keys[name].default if value is None else value
