"""The machine's configuration, checked, as what the parts of the server are constructed with."""
# SPDX-License-Identifier: MIT

import _x86
from httpd import Limits, jsonio

from . import config_keys as keys
from . import config_sources, secure
from .apis.access import Access
from .config_keys import ConfigError
from .scheduling.scheduler import Bounds

BOOT = "/boot/"
VOLUME = "/disk/"  # the FAT volume of a disk (boot/disks.py)
FLASH = "/flash/"


FW_CFG = "fw_cfg opt/cllm/config"
CMDLINE = "the command line"


def configs():
    """Return the names of configurations. Each is laid over those before it."""
    volume, boot = VOLUME + "cllm.json", BOOT + "config.json"
    data = _content(boot)
    # The loader of a disk made by `cllm image` hands over the volume's file, which is no more than
    # that file because of it.
    if data is not None and data == _content(volume):
        return boot, FLASH + "config.json", FW_CFG, CMDLINE
    return volume, FLASH + "config.json", boot, FW_CFG, CMDLINE


def _content(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return None


def read_config(path=None):
    """Return the configuration called `path`, {} if there is none. Raise ConfigError if it is no
    JSON.
    """
    path = path or BOOT + "config.json"
    if path == CMDLINE:
        return config_sources.of_command_line(_x86.cmdline())
    if path == FW_CFG:
        data = config_sources.of_fw_cfg()
    else:
        data = _content(path)
    if not data:
        return {}
    try:
        return jsonio.loads(data)
    except ValueError as exc:
        raise ConfigError((), str(exc))


def merge(config, other):
    """Lay `other` over `config`, key by key, also within sections. null stands for a default."""
    if not isinstance(other, dict):
        raise ConfigError((), "the configuration must be an object")
    for name in other:
        mine = config.get(name)
        if isinstance(mine, dict) and isinstance(other[name], dict):
            mine.update(other[name])
        else:
            config[name] = other[name]


def merge_configs(config, paths):
    """Lay the configurations called `paths` over `config`. Raise ConfigError for the first mistake,
    after all that is right of the port and the network.
    """
    mistake = None
    for path in paths:
        try:
            found = None
            found = read_config(path)
            keys.check(found)
            merge(config, keys.of_guest(found))
        except ConfigError as exc:
            merge(config, _reachable(found))
            mistake = mistake or ConfigError((), "%s: %s" % (path, exc))
    if mistake:
        raise mistake


def _file(name):
    if not name:
        return None
    return name if name.startswith("/") else BOOT + name


class Settings:
    """The configuration that `config` (a dict) describes. Raise ConfigError for a mistake in it.
    make_context: see secure.Tls.

    port; ports: it and all others; watchdog (seconds, 0 for none); address, gateway, dns, ntp,
    hostname: as in the configuration, or None; ipv6: as there; limits: httpd.Limits; bounds:
    scheduler.Bounds; drain_s: seconds for what runs when the machine is to end; access: Access;
    tls: secure.Tls, or None; hidden: names of routes that do not answer; path, alias, tags, lora,
    options: of the model, for EngineHost; draft: path of a small model, or None; mistake: what was
    wrong with a configuration that has been set aside, or None.
    """

    def __init__(self, config, make_context=None):
        keys.check(config)
        config = keys.of_guest(config)
        self.mistake = None
        server = {name: keys.get(config, keys.SERVER, name) for name in keys.SERVER}
        self.port = server["port"]
        self.ports = [self.port] + [port for port in server["ports"] if port != self.port]
        self.watchdog = server["watchdog"]
        self.access = Access(server["keys"], server["cors"], server["access_log"])
        self.tls = None
        if config.get("tls") is not None:
            self.tls = secure.Tls(_values(config["tls"], keys.TLS), _file, make_context)
        self.hidden = [name for name in ("metrics", "slot_list") if not server[name]]
        network = config.get("network") or {}
        self.address = network.get("address")
        self.gateway = network.get("gateway")
        self.dns = network.get("dns")
        self.ntp = network.get("ntp")
        self.card = network.get("card")
        self.hostname = network.get("hostname")
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
        self.tags = model["tags"]
        self.lora = [_file(name) for name in model["lora"]]
        self.path = _file(model["file"] or keys.MODEL["file"].default)
        if model["url"]:
            self.path = model["url"].split("#")[0]
            if model["sha256"]:
                self.path += "#sha256=" + model["sha256"]
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
            "split_mode": keys.MODEL["split_mode"].choices.index(model["split_mode"]),
            "main_gpu": model["main_gpu"],
            "tensor_split": model["tensor_split"],
        }
        if model["cpu_variant"] != "auto":
            self.options["cpu"] = model["cpu_variant"]


def _values(section, table):
    # Everything that the table has, with its defaults.
    return {name: keys.get(section, table, name) for name in table}


def read_settings(path=None, make_context=None):
    """Return the Settings of the machine. Where the configuration has a mistake, they are the
    defaults with that `mistake`, and with what is right of the port and the network, so that the
    reason can be asked for where the machine is expected.
    """
    config = {}
    try:
        merge_configs(config, (path,) if path else configs())
        return Settings(config, make_context)
    except ConfigError as exc:
        settings = Settings(_reachable(config))
        settings.mistake = str(exc)
        return settings


def _reachable(config):
    found = {}
    for name in ("port", "network") if isinstance(config, dict) else ():
        if name not in config:
            continue
        part = {name: config[name]}
        try:
            keys.check(part)
        except ConfigError:
            continue
        found.update(part)
    return found
