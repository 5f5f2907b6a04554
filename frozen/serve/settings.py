"""The machine's configuration, checked, as what the parts of the server are constructed with."""
# SPDX-License-Identifier: MIT

import _x86
from httpd import Limits, jsonio

from . import config_keys as keys
from .apis.access import Access
from .config_keys import ConfigError
from .scheduling.scheduler import Bounds

BOOT = "/boot/"


def read_config(path=None):
    """Return the configuration, {} without a file. Raise ConfigError if it is no JSON."""
    path = path or BOOT + "config.json"
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError:
        return {}
    try:
        return jsonio.loads(data)
    except ValueError as exc:
        raise ConfigError((), str(exc))


def _file(name):
    if not name:
        return None
    return name if name.startswith("/") else BOOT + name


class Settings:
    """The configuration that `config` (a dict) describes. Raise ConfigError for a mistake in it.

    port, watchdog (seconds, 0 for none); address, gateway: as in the configuration, or None; ipv6:
    as there;
    limits: httpd.Limits; bounds: scheduler.Bounds; drain_s: seconds for what runs when the machine
    is to end; access: Access; path, alias, options: of the model, for EngineHost; draft: path of a
    small model, or None; mistake: what was wrong with a configuration that has been set aside, or
    None.
    """

    def __init__(self, config):
        keys.check(config)
        self.mistake = None
        server = {name: keys.get(config, keys.SERVER, name) for name in keys.SERVER}
        self.port = server["port"]
        self.watchdog = server["watchdog"]
        self.access = Access(server["keys"], server["cors"], server["access_log"])
        network = config.get("network") or {}
        self.address = network.get("address")
        self.gateway = network.get("gateway")
        self.card = network.get("card")
        self.hostname = keys.get(network, keys.NETWORK, "hostname")
        self.ipv6 = keys.get(network, keys.NETWORK, "ipv6")
        self.mdns = keys.get(network, keys.NETWORK, "mdns")
        limits = config.get("limits") or {}
        model = config.get("model") or {}
        self.drain_s = keys.get(limits, keys.LIMITS, "drain_s")
        self.limits = Limits(**_values(limits, keys.HTTP_LIMITS))
        self.bounds = Bounds(
            slots=keys.get(model, keys.MODEL, "slots"),
            speculate=keys.get(model, keys.MODEL, "speculate"),
            **_values(limits, keys.REQUEST_LIMITS),
        )
        self._model(_values(model, keys.MODEL))

    def _model(self, model):
        self.alias = model["alias"]
        self.path = _file(model["file"] or keys.MODEL["file"].default)
        self.draft = _file(model["draft"])
        self.options = {
            "n_ctx": model["n_ctx"],
            "n_batch": model["n_batch"],
            "n_seq": keys.sequences(model["slots"]),
            "n_threads": model["threads"] or _x86.cpu_count(),
            "sample_ms": self.bounds.sample_ms,
            "job_ms": self.bounds.job_ms,
            "pooling": keys.MODEL["pooling"].choices.index(model["pooling"]),
            "kernels": keys.MODEL["kernels"].choices.index(model["kernels"]),
            "gpu_layers": -1 if model["gpu_layers"] is None else model["gpu_layers"],
        }
        if model["cpu_variant"] != "auto":
            self.options["cpu"] = model["cpu_variant"]


def _values(section, table):
    # Everything that the table has, with its defaults.
    return {name: keys.get(section, table, name) for name in table}


def read_settings(path=None):
    """Return the Settings of the machine. Where the configuration has a mistake, they are the
    defaults with that `mistake`, and with what is right of the port and the network, so that the
    reason can be asked for where the machine is expected.
    """
    config = {}
    try:
        config = read_config(path)
        return Settings(config)
    except ConfigError as exc:
        settings = Settings(_reachable(config))
        settings.mistake = str(exc)
        return settings


def _reachable(config):
    found = {}
    for name in ("port", "network") if isinstance(config, dict) else ():
        part = {name: config.get(name)}
        try:
            keys.check(part)
        except ConfigError:
            continue
        found.update(part)
    return found
