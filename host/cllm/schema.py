"""The JSON Schema of cllm.json, and `cllm config`: all from the tables of keys and their texts.

docs/cllm.schema.json is what document() returns; `cllm config schema` prints it, and a test fails
where the two differ.
"""

import json
from pathlib import Path
from typing import Any

from . import CllmError, config
from .guest_keys import keys
from .key_texts import TEXTS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = "cllm.json"
# Of the host's keys that nobody has to look up: a new file begins with these.
FIRST = ("model", "n_ctx", "slots", "keys", "network", "limits")


def document() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a --config file."""
    properties: dict[str, Any] = {
        "$schema": {"type": "string", "description": "names this schema, for editors"}
    }
    tables: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((), {**config.HOST, **config.GUEST, **config.GUEST_MODEL})
    ]
    tables += [((name,), keys.SECTIONS[name]) for name in config.GUEST_SECTIONS]
    for path, table in tables:
        members = {key: _property((*path, key), kind) for key, kind in table.items()}
        if path:
            properties[path[0]] = {
                "type": ["object", "null"],
                "description": TEXTS[path[0]][0],
                "properties": members,
                "additionalProperties": False,
            }
        else:
            properties.update(members)
    return {
        "$schema": DIALECT,
        "title": "cllm.json: the configuration of a cllm machine",
        "type": "object",
        "properties": dict(sorted(properties.items())),
        "additionalProperties": False,
    }


def _property(path: tuple[str, ...], kind: Any) -> dict[str, Any]:
    words, unit, example = TEXTS[".".join(path)]
    found: dict[str, Any] = {"description": words + (f" ({unit})" if unit else "")}
    found.update(_values_of(kind))
    default = config.DEFAULTS[path[0]] if len(path) == 1 and path[0] in config.DEFAULTS else None
    if default is None:
        default = kind.default
    if default is not None:
        found["default"] = list(default) if isinstance(default, tuple) else default
    found["examples"] = [example]
    return found


OCTET = "(25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
ADDRESS = rf"{OCTET}(\.{OCTET}){{3}}"


def _values_of(kind: Any) -> dict[str, Any]:
    """Return what a kind of keys takes, as JSON Schema; null stands for the default everywhere."""
    text = {"type": ["string", "null"]}
    if isinstance(kind, keys.Integer):
        bounds = {"minimum": kind.least, "maximum": kind.most}
        return {"type": ["integer", "null"], **bounds}
    if isinstance(kind, keys.Seconds):
        return {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": kind.most}
    if isinstance(kind, keys.Flag):
        return {"type": ["boolean", "null"]}
    if isinstance(kind, keys.Choice):
        return {"enum": [*kind.choices, None]}
    if isinstance(kind, keys.Texts):
        return {"type": ["array", "null"], "items": {"type": "string", "minLength": 1}}
    if isinstance(kind, keys.Shares):
        share = {"type": "number", "minimum": 0}
        some = {"contains": {"type": "number", "exclusiveMinimum": 0}}
        return {"type": ["array", "null"], "items": share, "maxItems": kind.most, **some}
    if isinstance(kind, keys.Ports):
        port = {"type": "integer", "minimum": 1, "maximum": 65535}
        return {"type": ["array", "null"], "items": port, "maxItems": 8}
    if isinstance(kind, keys.Addresses):
        items = {"type": "string", "pattern": f"^{ADDRESS}$"}
        return {"type": ["array", "null"], "items": items}
    if isinstance(kind, keys.Address):
        bits = "/0?(3[0-2]|[0-2]?[0-9])" if kind.prefix else ""
        return {**text, "pattern": f"^{ADDRESS}{bits}$"}
    if isinstance(kind, keys.IPv6):
        return _ipv6()
    if isinstance(kind, keys.HostName):
        return {**text, "pattern": "^[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?$"}
    if isinstance(kind, keys.Digest):
        return {**text, "pattern": "^[0-9A-Fa-f]{64}$"}
    if isinstance(kind, keys.Url):
        return {**text, "pattern": "^https?://[!-~]+$"}
    if isinstance(kind, keys.Text):
        return text
    raise TypeError(f"no schema for {type(kind).__name__}")


def _ipv6() -> dict[str, Any]:
    # Which texts are addresses, only the guest's table says.
    address = {"type": "string", "pattern": "^[0-9A-Fa-f:]{2,39}$"}
    members = {
        "address": {"type": "string", "pattern": "^[0-9A-Fa-f:]{2,39}/[0-9]{1,3}$"},
        "gateway": {**address, "type": ["string", "null"]},
        "dns": {"type": ["array", "null"], "items": address},
    }
    by_hand = {
        "type": "object",
        "properties": members,
        "required": ["address"],
        "additionalProperties": False,
    }
    return {"anyOf": [{"enum": ["auto", "off", None]}, by_hand]}


def text() -> str:
    """Return docs/cllm.schema.json."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def new_file() -> str:
    """Return a first cllm.json, which `cllm config check` takes."""
    properties = document()["properties"]
    content: dict[str, Any] = {"$schema": "cllm.schema.json"}
    for key in FIRST:
        about = properties[key]
        if "properties" in about:
            content[key] = {
                name: member["default"]
                for name, member in about["properties"].items()
                if name in ("hostname", "mdns", "queue", "request_s")
            }
        else:
            content[key] = about.get("default", config.DEFAULT_MODEL)
    return json.dumps(content, indent=2) + "\n"


def init(file: str) -> int:
    """Write a first configuration, and its schema beside it for editors."""
    path = Path(file)
    beside = path.with_name("cllm.schema.json")
    try:
        with open(path, "x", encoding="utf-8") as new:
            new.write(new_file())
    except FileExistsError:
        raise CllmError(f"{path} is there already, and stays as it is") from None
    beside.write_text(text(), encoding="utf-8")
    print(f"wrote {path} and {beside}; `cllm run --config {path}` takes it")
    return 0


def check(file: str) -> int:
    """Check a configuration; CllmError names the first mistake. Downloads nothing."""
    config.read(file)
    print(f"{file}: right")
    return 0


def show(file: str | None) -> int:
    """Print what holds: defaults, and what the file says."""
    settings, guest = config.read(file)
    model = {**_defaults(config.GUEST_MODEL), **guest.get("model", {})}
    whole = {**_defaults(config.GUEST), **settings, **model}
    for name in config.GUEST_SECTIONS:
        whole[name] = {**_defaults(keys.SECTIONS[name]), **(guest.get(name) or {})}
    whole.update({key: value for key, value in guest.items() if key in config.GUEST})
    if whole["keys"]:
        whole["keys"] = ["(secret)"] * len(whole["keys"])
    print(json.dumps(dict(sorted(whole.items())), indent=2, default=list))
    return 0


def _defaults(table: dict[str, Any]) -> dict[str, Any]:
    return {key: kind.default for key, kind in table.items()}


def command(arguments: Any) -> int:
    """Do what `cllm config` was asked."""
    file = arguments.file or FILE
    if arguments.what == "init":
        return init(file)
    if arguments.what == "check":
        return check(file)
    if arguments.what == "schema":
        print(text(), end="")
        return 0
    return show(arguments.file or (FILE if Path(FILE).is_file() else None))


def add_command(commands: Any) -> None:
    """Add the parser of `cllm config` to the `cllm` command's."""
    parser = commands.add_parser("config", help="make, check or show a configuration")
    parser.add_argument(
        "what",
        choices=("init", "check", "show", "schema"),
        help="init: write a first one; check: name its first mistake; show: what holds, defaults "
        "too; schema: its JSON Schema",
    )
    parser.add_argument("file", nargs="?", help=f"default {FILE}")
