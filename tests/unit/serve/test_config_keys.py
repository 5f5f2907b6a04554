"""The table of configuration keys: what it takes, and that it is true of what it describes."""

import re
from pathlib import Path

import pytest
from httpd import Limits
from serve import config_keys as keys
from serve import settings
from serve.config_keys import ConfigError
from serve.scheduling.scheduler import Bounds
from serve.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "config, words",
    [
        ({"port": "x"}, '"port" must be a whole number from 1 to 65535'),
        ({"port": 70000}, '"port" must be a whole number'),
        ({"port": True}, '"port" must be a whole number'),
        (
            {"prot": 1},
            '"prot" is unknown, did you mean "port"?; known are accel, access_log, alias',
        ),
        ({"limits": []}, '"limits" must be an object'),
        (
            {"limits": {"bodyy": 1}},
            '"limits.bodyy" is unknown, did you mean "body"?; known are backlog, body',
        ),
        ({"limits": {"body": 1.5}}, '"limits.body" must be a whole number'),
        ({"limits": {"head_s": 0}}, '"limits.head_s" must be a number above 0'),
        ({"limits": {"head_s": float("nan")}}, '"limits.head_s" must be a number above 0'),
        ({"limits": {"drain_s": -1}}, '"limits.drain_s"'),
        ({"limits": {"drain_s": 86401}}, '"limits.drain_s"'),
        ({"limits": {"drain_s": "7"}}, '"limits.drain_s"'),
        ({"network": {"address": "192.0.2.1"}}, '"network.address" must be an IPv4 address'),
        ({"network": {"address": "192.0.2.1/33"}}, '"network.address"'),
        ({"network": {"address": "192.0.2.256/24"}}, '"network.address"'),
        ({"network": {"address": "192.0.2.1/\u0661"}}, '"network.address"'),
        ({"network": {"gateway": "192.0.2"}}, '"network.gateway" must be an IPv4 address'),
        ({"network": {"gateway": ["192.0.2.1"]}}, '"network.gateway"'),
        (
            {"network": {"dhcp": True}},
            '"network.dhcp" is unknown; known are address, card, dns, gateway, hostname',
        ),
        ({"keys": "k"}, '"keys" must be an array of strings'),
        ({"keys": [""]}, '"keys" must be an array of strings that are not empty'),
        ({"cors": 1}, '"cors" must be a string'),
        ({"access_log": 1}, '"access_log" must be true or false'),
        ({"watchdog": -1}, '"watchdog" must be a whole number from 0 to 86400'),
        ({"model": 3}, '"model" must be an object'),
        ({"model": {"n_ctx": 0}}, '"model.n_ctx" must be a whole number from 1 to 1048576'),
        ({"model": {"file": 1}}, '"model.file" must be a string'),
        ({"model": {"pooling": "max"}}, '"model.pooling" must be one of model, mean, cls, last'),
        ({"model": {"kernels": []}}, '"model.kernels" must be one of auto, ggml, tcg, exact'),
        ({"model": {"slots": 33}}, '"model.slots" (33) needs an "n_batch" of at least 66'),
        ({"tls": {"cert": "cert.pem"}}, '"tls.key" is missing'),
        ({"model": {"url": "https://a/b"}}, '"model.sha256" is missing: an https:// URL needs'),
        ({"url": "https://a/b"}, '"sha256" is missing'),
        ({"url": "ftp://a/b"}, 'must be a URL that begins with "http://" or "https://"'),
        ([], "must be an object"),
    ],
)
def test_mistakes_are_named(config, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        keys.check(config)
    with pytest.raises(ConfigError):
        Settings(config)


def test_what_is_right_passes():
    keys.check({})
    keys.check(dict.fromkeys([*keys.SERVER, *keys.SECTIONS]))
    for name, table in {"": keys.SERVER, **keys.SECTIONS}.items():
        values = {key: kind.default for key, kind in table.items() if kind.default != ()}
        if name == "tls":
            values.update(cert="cert.pem", key="key.pem")
        keys.check({name: values} if name else values)
    keys.check({"network": {"address": "192.0.2.1/24", "gateway": "192.0.2.254"}})
    keys.check({"limits": {"head_s": 0.5}, "model": {"slots": 252, "n_batch": 256}})


def test_the_defaults_are_those_of_the_parts():
    assert {name: kind.default for name, kind in keys.HTTP_LIMITS.items()} == vars(Limits())
    bounds = vars(Bounds())
    for name, kind in keys.REQUEST_LIMITS.items():
        assert bounds.pop(name) == kind.default, name
    for name in ("slots", "speculate"):
        assert bounds.pop(name) == keys.MODEL[name].default
    assert bounds == {"kept_cells": None}  # all else is in the table


def test_the_engine_numbers_choices_as_the_table_does():
    header = (ROOT / "native/engine/engine.h").read_text()
    for key in ("pooling", "kernels", "split_mode"):
        prefix = key.removesuffix("_mode").upper()
        numbers = dict(re.findall(rf"ENGINE_{prefix}_(\w+) = (\d+)", header))
        choices = keys.MODEL[key].choices
        assert {name.lower(): int(n) for name, n in numbers.items()} == {
            choice: i for i, choice in enumerate(choices)
        }


def test_every_build_of_the_cpu_code_has_a_name():
    cmake = (ROOT / "native/CMakeLists.txt").read_text()
    variants = re.findall(r"^ *add_cpu_variant\(([\w-]+)", cmake, re.MULTILINE)
    assert sorted(keys.MODEL["cpu_variant"].choices) == sorted(["auto", *variants])


def test_settings(tmp_path):
    found = Settings({})
    assert found.port == 80 and found.path == "/boot/model.gguf" and found.draft is None
    assert found.mistake is None and found.address is None and found.watchdog == 60
    assert found.options["pooling"] == found.options["kernels"] == 0 and "cpu" not in found.options
    found = Settings(
        {
            "model": {
                "slots": 2,
                "kernels": "exact",
                "pooling": "last",
                "cpu_variant": "avx2",
                "file": "/m.gguf",
                "draft": "d.gguf",
                "threads": 3,
                "split_mode": "tensor",
                "tensor_split": [3, 1],
            },
            "limits": {"queue": 3, "body": 9, "job_ms": 7},
            "network": {"address": "192.0.2.1/24"},
            "keys": None,
        }
    )
    assert found.bounds.slots == 2 and found.bounds.queue == 3 and found.limits.body == 9
    assert found.address == "192.0.2.1/24" and found.gateway is None
    assert found.path == "/m.gguf" and found.draft == "/boot/d.gguf"
    options = {"n_seq": 6, "kernels": 3, "pooling": 3, "cpu": "avx2", "n_threads": 3, "job_ms": 7}
    options.update(split_mode=2, main_gpu=0, tensor_split=[3, 1])
    assert options.items() <= found.options.items()


def test_the_file(tmp_path):
    path = tmp_path / "config.json"
    assert settings.read_config(str(path)) == {}
    path.write_text('{"port": 8080}')
    assert settings.read_config(str(path)) == {"port": 8080}
    assert settings.read_settings(str(path)).port == 8080
    path.write_text("{")
    with pytest.raises(ConfigError):
        settings.read_config(str(path))
    assert settings.read_settings(str(path)).mistake
    path.write_text('{"port": 8080, "network": {"address": "192.0.2.1/24"}, "keys": 5}')
    found = settings.read_settings(str(path))
    assert '"keys" must be' in found.mistake
    assert (found.port, found.address) == (8080, "192.0.2.1/24"), (
        "the reason can be asked for there"
    )
    path.write_text('{"port": 8080, "network": {"address": "here"}}')
    found = settings.read_settings(str(path))
    assert (found.port, found.address) == (8080, None) and "network.address" in found.mistake
