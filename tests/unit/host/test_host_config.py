"""Settings of a run: flags over file over defaults, and every mistake named."""

import json

import pytest
from cllm import CllmError, config
from cllm.guest_keys import keys


def write(folder, content):
    path = folder / "my.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_defaults():
    settings, guest = config.settings({})
    assert settings == config.DEFAULTS and guest == {}


def test_flags_win_over_the_file(tmp_path):
    file = write(tmp_path, {"port": 9000, "smp": 2, "serial": "pty"})
    settings, _ = config.settings({"port": 9001, "smp": None}, file)
    assert (settings["port"], settings["smp"], settings["serial"]) == (9001, 2, "pty")


def test_paths_in_the_file_are_relative_to_it(tmp_path):
    file = write(tmp_path, {"model": "m.gguf", "app": "sub/app.py", "pcap": "/abs/x.pcap"})
    settings, _ = config.settings({}, file)
    assert settings["model"] == str(tmp_path / "m.gguf")
    assert settings["app"] == str(tmp_path / "sub" / "app.py")
    assert settings["pcap"] == "/abs/x.pcap"


def test_the_guests_part_is_sorted_as_the_guest_reads_it(tmp_path):
    file = write(
        tmp_path,
        {
            "network": {"address": "192.0.2.1/24"},
            "limits": {"body": 1},
            "keys": ["k"],
            "n_ctx": 512,
            "slots": 2,
            "alias": "tiny",
            "cors": None,
            "n_batch": None,
        },
    )
    _, guest = config.settings({}, file)
    assert guest == {
        "network": {"address": "192.0.2.1/24"},
        "limits": {"body": 1},
        "keys": ["k"],
        "model": {"n_ctx": 512, "slots": 2, "alias": "tiny"},
    }


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"port": 1,\n "smp": }', "line 2, column 9"),
        ("[1]", "one JSON object"),
        (
            {"prot": 1},
            'line 1: "prot" is unknown, did you mean "port"?; known are accel, access_log, alias',
        ),
        ({"p" * 1000: 1}, f'"{"p" * 64}" is unknown'),
        ({"port": "80"}, '"port" must be a whole number from 0 to 65535'),
        ({"port": 65536}, '"port" must be a whole number'),
        ({"smp": True}, '"smp" must be a whole number'),
        ({"memory": 1}, '"memory" must be a whole number from 40'),
        ({"accel": "fast"}, '"accel" must be one of auto, tcg, kvm'),
        ({"model": 3}, '"model" must be a string'),
        ({"network": []}, '"network" must be an object'),
        ({"keys": "k"}, '"keys" must be an array'),
        ({"n_ctx": True}, '"n_ctx" must be a whole number'),
        ({"n_ctx": 0}, '"n_ctx" must be a whole number from 1 to 1048576'),
        ({"n_ctx": 10**30}, '"n_ctx" must be a whole number from 1'),
        ({"slots": 253}, '"slots" must be a whole number from 1 to 252'),
        ({"n_batch": -1}, '"n_batch" must be a whole number from 1 to 4096'),
        ({"slots": 64}, '"slots" (64) needs an "n_batch" of at least 128, which is 64'),
        ({"watchdog": -1}, '"watchdog" must be a whole number from 0'),
        ({"pooling": "max"}, '"pooling" must be one of model, mean, cls, last'),
        ({"keys": ["a", 5]}, '"keys" must be an array of strings'),
        ({"keys": [""]}, '"keys" must be an array of strings that are not empty'),
        (
            '{"limits":\n {"queue": 5,\n "queue_s": "x"}}',
            'line 3: "limits.queue_s" must be a whole',
        ),
        ('{"limits":\n {"head_s": 0}}', 'line 2: "limits.head_s" must be a number above 0'),
        ('{"alias": "{\\"",\n "keys": [{"a": 1}],\n "port": 5}', 'line 2: "keys" must be'),
        ('{"limits": {"body": 5},\n "bodyy": 1}', 'line 2: "bodyy" is unknown'),
        ('{\n"limits": {"port": 5}}', 'line 2: "limits.port" is unknown; known are backlog, body'),
        ('{"network":\n {"address": "10.0.0.1"}}', 'line 2: "network.address" must be an IPv4'),
        ('{"network":\n {"dhcp": true}}', 'line 2: "network.dhcp" is unknown; known are address'),
        ('{"n_ctx": 5,\n "slots": 33}', 'line 2: "slots" (33) needs an "n_batch" of at least 66'),
        ('{"limits": ' + '{"a":' * 100_000 + "1" + "}" * 100_001, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"port": ' + "9" * 5000 + "}", "digits"),
        ('{"limits": {"body": NaN}}', "NaN is no number"),
        ('{"limits": {"body": -Infinity}}', "-Infinity is no number"),
        ('{"limits": {"body": 1e999}}', "1e999 is no number"),
        ('{"alias": "\\ud800"}', "surrogate pair"),
        ('{"keys": ["\\udfff"]}', "surrogate pair"),
        ('{"port": 1, "port": 2}', '"port" is there twice'),
        ('{"limits": {"a": 1, "a": 2}}', '"a" is there twice'),
    ],
)
def test_mistakes_are_named(tmp_path, content, words):
    file = write(tmp_path, content)
    with pytest.raises(CllmError) as stop:
        config.settings({}, file)
    assert words in str(stop.value) and str(file) in str(stop.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(CllmError, match="cannot read .*none.json: No such file"):
        config.settings({}, tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"alias": "\xe9"}')
    with pytest.raises(CllmError, match="cannot read .*latin.json"):
        config.settings({}, tmp_path / "latin.json")


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"port": 5}')
    assert config.settings({}, tmp_path / "bom.json")[0]["port"] == 5


def test_a_file_that_no_system_call_takes():
    with pytest.raises(CllmError, match="cannot read"):
        config.settings({}, "a\0b")


@pytest.mark.parametrize("key", config.PATHS)
def test_an_empty_path_is_not_none(key):
    with pytest.raises(CllmError, match=f'"{key}" is empty'):
        config.settings({key: ""})


def test_every_setting_of_the_host_has_a_kind():
    assert set(config.HOST) == set(config.DEFAULTS)


def test_what_the_host_takes_the_guest_takes(tmp_path):
    file = write(
        tmp_path,
        {
            "n_ctx": 1,
            "slots": 252,
            "n_batch": 256,
            "limits": {"write_s": 0.5},
            "watchdog": 0,
            "network": {"address": "192.0.2.1/24", "gateway": None},
            "pooling": "cls",
        },
    )
    _, guest = config.settings({}, file)
    keys.check(guest)
    assert guest["model"]["slots"] == 252
