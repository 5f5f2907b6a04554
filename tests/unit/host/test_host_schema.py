"""cllm.json's JSON Schema: it takes what the tables take, and each key's mistake is named."""

import json
import re

import jsonschema
import pytest
from cllm import TOP, CllmError, cli, config, schema
from cllm.guest_keys import keys
from cllm.key_texts import TEXTS

DOCUMENT = schema.document()
VALIDATOR = jsonschema.Draft202012Validator(DOCUMENT)


def leaves(about=DOCUMENT, path=()):
    """Yield (path, schema) of every key that is no section."""
    for name, member in about["properties"].items():
        if name == "$schema":
            continue
        if "properties" in member:
            yield from leaves(member, (*path, name))
        else:
            yield (*path, name), member


KEYS = list(leaves())
IDS = [".".join(path) for path, _ in KEYS]


PAIR = {"cert": "cert.pem", "key": "key.pem"}  # what the section "tls" cannot be without


def nest(path, value):
    for name in reversed(path):
        value = {name: value}
    if path[0] == "tls" and len(path) == 2:
        given = {k: v for k, v in value["tls"].items() if v is not None or k not in PAIR}
        value["tls"] = {**PAIR, **given}
    return value


PATHS_OF_TLS = [("tls", key) for key in PAIR]


def wrong_values(member):
    """Return values that a key's own schema refuses."""
    tries = [{}, "no such word", -1, 1 << 40, 0.5, True, ["x", 5], [""], "\u0661"]
    mine = jsonschema.Draft202012Validator(member)
    return [value for value in tries if not mine.is_valid(value)]


def check(tmp_path, content):
    file = tmp_path / "cllm.json"
    file.write_text(json.dumps(content))
    return config.read(file)


def test_it_is_a_schema_and_the_file_in_docs_is_it():
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    assert (TOP / "docs" / "cllm.schema.json").read_text() == schema.text()


def test_every_key_has_words_and_no_words_are_left():
    assert {".".join(path) for path, _ in KEYS} | set(config.GUEST_SECTIONS) == set(TEXTS)


@pytest.mark.parametrize(("path", "member"), KEYS, ids=IDS)
def test_one_mistake_in_each_key_is_named(tmp_path, path, member):
    values = wrong_values(member)
    assert len(values) >= 4
    for value in values:
        content = nest(path, value)
        assert not VALIDATOR.is_valid(content)
        with pytest.raises(CllmError) as error:
            check(tmp_path, content)
        words = str(error.value)
        assert f'"{".".join(path)}" must be ' in words
        # It names the value, but no secret: /health shows the reason to everybody.
        shown = " and is " in words
        assert shown == (path != ("keys",)), words


@pytest.mark.parametrize(("path", "member"), KEYS, ids=IDS)
def test_examples_and_defaults_are_right(tmp_path, path, member):
    for value in [
        None,
        *member["examples"],
        *([member["default"]] if "default" in member else []),
    ]:
        content = nest(path, value)
        assert VALIDATOR.is_valid(content)
        if value == 8 and path == ("slots",):
            content["n_batch"] = 64
        check(tmp_path, content)


@pytest.mark.parametrize(("path", "member"), KEYS, ids=IDS)
def test_every_key_changes_what_holds(tmp_path, path, member):
    settings, guest = check(tmp_path, nest(path, member["examples"][0]))
    assert (settings, guest) != config.read(None)
    if path[0] not in config.DEFAULTS:
        keys.check(guest)
        found = {**guest, **guest.get("model", {})}
        for name in path:
            found = found[name]
        example = member["examples"][0]
        if path in PATHS_OF_TLS:
            example = str(tmp_path / example)
        if path == ("lora",):
            example = [str(tmp_path / name) for name in example]
        assert found == example


@pytest.mark.parametrize("path", [path for path, _ in KEYS], ids=IDS)
def test_a_letter_too_many_finds_the_key(tmp_path, path):
    wrong = (*path[:-1], path[-1] + "z")
    content = nest(wrong, 1)
    assert not VALIDATOR.is_valid(content)
    with pytest.raises(CllmError, match=f'is unknown, did you mean "{path[-1]}"'):
        check(tmp_path, content)


ADDRESSES = [
    "1.2.3.4",
    "255.255.255.255",
    "256.1.1.1",
    "1.2.3",
    "01.2.3.4",
    "1.2.3.4.5",
    "a.b.c.d",
]


@pytest.mark.parametrize("key", ["address", "gateway", "dns", "hostname"])
def test_the_schema_takes_what_the_table_takes(key):
    kind, member = keys.NETWORK[key], DOCUMENT["properties"]["network"]["properties"][key]
    mine = jsonschema.Draft202012Validator(member)
    values = ADDRESSES + [f"1.2.3.4/{bits}" for bits in ("0", "8", "32", "33", "032", "0032", "x")]
    values += ["-a", "a-", "a", "a" * 32, "a" * 33, "", "a.b", "\u0661"]
    for value in values:
        if key == "dns":
            value = [value]
        assert kind.takes(value) == mine.is_valid(value), value


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "init"]) == 0
    content = json.loads((tmp_path / "cllm.json").read_text())
    assert VALIDATOR.is_valid(content) and content["$schema"] == "cllm.schema.json"
    assert json.loads((tmp_path / "cllm.schema.json").read_text()) == DOCUMENT
    assert cli.main(["config", "init"]) == 1
    assert cli.main(["config", "check"]) == 0
    content.update(keys=["secret-1"], limits={"queue": 7}, n_ctx=512)
    (tmp_path / "cllm.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert cli.main(["config", "show"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["limits"]["queue"] == 7 and shown["limits"]["body"] == 2 << 20
    assert shown["n_ctx"] == 512 and shown["slots"] == 4 and shown["keys"] == ["(secret)"]
    content["limits"]["quue"] = 1
    (tmp_path / "cllm.json").write_text(json.dumps(content, indent=1))
    assert cli.main(["config", "check"]) == 1
    words = capsys.readouterr().err
    assert re.search(r'line \d+: "limits.quue" is unknown, did you mean "queue"', words)


def environment_of(monkeypatch, variables, *flags):
    """Return what `cllm run` boots with, given CLLM_* variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = {}
    monkeypatch.setattr(cli.run, "run", lambda settings, guest, **_: found.update(settings) or 0)
    assert cli.main(["run", *flags]) == 0
    return found


def test_variables_stand_for_flags(monkeypatch, tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"smp": 2, "port": 1000, "memory": 99}')
    variables = {
        "CLLM_CONFIG": str(file), "CLLM_SMP": "3", "CLLM_PORT": "1001", "CLLM_KERNELS": "exact",
        "CLLM_OFFLINE": "1", "CLLM_ON_CRASH": "",
    }  # fmt: skip
    found = environment_of(monkeypatch, variables, "--port", "1002")
    # Flags win over variables, those over the file, that over defaults.
    assert (found["port"], found["smp"], found["memory"]) == (1002, 3, 99)
    assert found["kernels"] == "exact" and found["offline"] is True
    assert found["on_crash"] == "exit"


@pytest.mark.parametrize(
    ("name", "value"), [("CLLM_SMP", "many"), ("CLLM_ACCEL", "fast"), ("CLLM_OFFLINE", "yes")]
)
def test_a_wrong_variable_is_named(monkeypatch, capsys, name, value):
    with pytest.raises(SystemExit):
        environment_of(monkeypatch, {name: value})
    assert name in capsys.readouterr().err


def test_every_flag_has_a_variable():
    parser = cli.make_parser().parse_args(["run"]).parser
    names = {cli.variable_of(a) for a in parser._actions if a.option_strings and a.dest != "help"}
    assert {"CLLM_MODEL", "CLLM_HF_REPO", "CLLM_MODEL_URL", "CLLM_GPU_MEMORY"} <= names
    assert len(names) == len(parser._actions) - 1


@pytest.mark.parametrize(
    "value, right",
    [
        ("auto", True),
        ("off", True),
        ("on", False),
        (1, False),
        ({"address": "2001:db8::2/64"}, True),
        ({"address": "2001:db8::2/64", "gateway": "fe80::1", "dns": ["2001:db8::53"]}, True),
        ({"address": "2001:db8::2/64", "gateway": None, "dns": None}, True),
        ({}, False),
        ({"address": "2001:db8::2"}, False),
        ({"address": "2001:db8::2/64", "dns": "2001:db8::53"}, False),
        ({"address": "192.0.2.1/24"}, False),
        ({"address": "2001:db8::2/64", "more": 1}, False),
    ],
)
def test_the_schema_and_the_table_agree_on_ipv6(value, right):
    member = DOCUMENT["properties"]["network"]["properties"]["ipv6"]
    assert keys.NETWORK["ipv6"].takes(value) == right
    assert jsonschema.Draft202012Validator(member).is_valid(value) == right


@pytest.mark.parametrize(
    "text", ["1:2:3:4:5:6:7", "1::2::3", "g::", ":1::", "1:2:3:4:5:6:7:8:9", "12345::", ":::"]
)
def test_what_only_the_table_knows_to_be_no_address(text):
    assert not keys.NETWORK["ipv6"].takes({"address": text + "/64"})
    assert not keys.NETWORK["ipv6"].takes({"address": "::/64", "gateway": text})
