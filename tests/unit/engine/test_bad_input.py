"""Wrong arguments, wrong JSON and damaged files give an error with the reason, and do no harm."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import tiny_model
from support.engine_library import LIBRARY, Engine, EngineFailure

EINVAL, EFAIL, EASSERT, ENUMBERS = -1, -2, -5, -6
FUZZ = Path(__file__).resolve().parent / "fuzz_file.py"


@pytest.mark.parametrize(
    "batch, reason",
    [
        (([], [], [], []), "1..64 tokens, not 0"),
        (([5] * 65, list(range(65)), [0] * 65, [0] * 65), "1..64 tokens, not 65"),
        (([-1], [0], [0], [1]), "token -1 is not in"),
        (([100000], [0], [0], [1]), "token 100000 is not in"),
        (([2**31 - 1], [0], [0], [1]), "token 2147483647"),
        (([5], [-1], [0], [1]), "continues at position 3, not -1"),
        (([5], [2], [0], [1]), "continues at position 3, not 2"),
        (([5], [4], [0], [1]), "continues at position 3, not 4"),
        (([5], [2**31 - 1], [0], [1]), "continues at position 3"),
        (([5, 5], [3, 3], [0, 0], [0, 1]), "continues at position 4, not 3"),
        (([5, 5], [4, 3], [0, 0], [0, 1]), "continues at position 3, not 4"),
        (([5], [1], [1], [1]), "sequence 1 continues at position 0"),
        (([5], [0], [4], [1]), "sequence 4 is not in 0..3"),
        (([5], [0], [-1], [1]), "sequence -1 is not in 0..3"),
    ],
)
def test_batch(engine, batch, reason):
    engine.prompt([5, 6, 7])
    with pytest.raises(EngineFailure, match=reason) as failure:
        engine.decode(*batch)
    assert failure.value.code == EINVAL
    assert engine.seq_pos_max(0) == 2
    engine.decode([8], [3], [0], [1])


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda e: e.piece(-1), "token -1"),
        (lambda e: e.piece(99999), "token 99999"),
        (lambda e: e.is_eog(-5), "token -5"),
        (lambda e: e.detokenize([5, 99999]), "token 99999"),
        (lambda e: e.seq_rm(4), "sequence 4"),
        (lambda e: e.seq_rm(-1), "sequence -1"),
        (lambda e: e.seq_cp(0, 4), "sequence 4"),
        (lambda e: e.seq_cp(9, 1), "sequence 9"),
        (lambda e: e.seq_cp(0, 0), "sequence 0 is not empty"),
        (lambda e: e.seq_pos_max(256), "sequence 256"),
        (lambda e: e.sampler().sample(0), "entry 0 of the last decode has no logits"),
        (lambda e: e.sampler().sample(3), "entry 3"),
        (lambda e: e.sampler().sample(2**64 - 1), "entry 18446744073709551615"),
        (lambda e: e.sampler().accept(-1), "token -1"),
    ],
)
def test_arguments(engine, call, reason):
    engine.prompt([5, 6, 7])
    with pytest.raises(EngineFailure, match=reason) as failure:
        call(engine)
    assert failure.value.code == EINVAL
    assert len(engine.generate([5], 2, seq=1)) == 2


def test_no_logits_after_a_failed_decode(engine):
    engine.prompt([5, 6, 7])
    for start in range(3, 256 - 64, 64):
        engine.prompt([5] * 64, start=start)
    with pytest.raises(EngineFailure):
        engine.prompt([5] * 64, start=engine.seq_pos_max(0) + 1)
        engine.prompt([5] * 64, start=engine.seq_pos_max(0) + 1)
    with pytest.raises(EngineFailure, match="no logits"):
        engine.sampler().sample(63)


@pytest.mark.parametrize(
    "params, reason",
    [
        ("", "parse error"),
        ("[", "parse error"),
        ("[]", "not a JSON object"),
        ("7", "not a JSON object"),
        ('{"top_k": 5', "parse error"),
        ('{"nonsense": 1}', "nonsense: no such"),
        ('{"top_k": "5"}', "top_k: not a number"),
        ('{"top_k": null}', "top_k: not a number"),
        ('{"top_k": 1.5}', "top_k: not a whole number"),
        ('{"top_k": -1}', "top_k: out of range"),
        ('{"top_k": 1e300}', "top_k: out of range"),
        ('{"top_p": 1.01}', "top_p: out of range"),
        ('{"temperature": 1e39}', "temperature: out of range"),
        ('{"temperature": 1e999}', "out_of_range|out of range"),
        ('{"repeat_penalty": 0}', "repeat_penalty: out of range"),
        ('{"repeat_last_n": 2000000000}', "repeat_last_n: out of range"),
        ('{"seed": 4294967296}', "seed"),
        ('{"seed": -2}', "seed"),
        ('{"seed": 0.5}', "seed"),
        ('{"top_k": ' + "[" * 100000, "nested too deeply"),
        ('{"\udcff": 1}', "UTF-8"),
        ('{"mirostat": 3}', "mirostat: out of range"),
        ('{"xtc_probability": 1.5}', "xtc_probability: out of range"),
        ('{"adaptive_decay": 1}', "adaptive_decay: out of range"),
        ('{"min_tokens": -1}', "min_tokens: out of range"),
        ('{"ignore_eos": 1}', "ignore_eos: not a boolean"),
        ('{"samplers": 5}', "samplers: not an array"),
        ('{"samplers": [5]}', "samplers: not an array of strings"),
        ('{"samplers": "' + "k" * 1000 + '"}', "samplers: too many"),
        ('{"dry_sequence_breakers": []}', "must not be empty"),
        ('{"dry_sequence_breakers": ["' + "x" * 1000 + '"]}', "too long"),
        ('{"logit_bias": 5}', "logit_bias: neither"),
        ('{"logit_bias": {"5": 1e30}}', "logit_bias: out of range"),
        ('{"logit_bias": {"' + "word " * 5000 + '": 1}}', "logit_bias: too many"),
        ('{"grammar": 5}', "grammar: not a string"),
        ('{"grammar": "root ::= ("}', "failed to parse grammar"),
        ('{"grammar": "no ::= 1"}', "grammar"),
        ('{"grammar": "root ::= root"}', "left recursion"),
        ('{"grammar": "root ::= ' + "(" * 100 + '"}', "nested too deeply"),
        ('{"grammar": "root ::= ' + "a" * 70000 + '"}', "longer than"),
        ('{"grammar": "%llguidance {}"}', "llguidance"),
        ('{"grammar": "root ::= (\\"a\\"{1,1000}){1,1000}"}', "failed to parse grammar"),
        ('{"json_schema": 5}', "json_schema: not a JSON object"),
        ('{"json_schema": {"type": "poem"}}', "."),
        ('{"json_schema": {"$ref": "https://example.com/x"}}', "."),
        ('{"json_schema": {"type": "string", "pattern": "^(((((($"}}', "."),
    ],
)
def test_sampler_parameters(engine, params, reason):
    with pytest.raises(EngineFailure, match=reason) as failure:
        out = engine.ffi.new("struct engine_sampler **")
        text = params.encode(errors="surrogateescape")
        engine.call("engine_sampler_open", text, len(text), engine.ffi.NULL, out)
    assert failure.value.code == EINVAL


USER = '[{"role": "user", "content": "x"}]'


def conversation(messages, rest=""):
    return '{"messages": ' + messages + rest + "}"


TOOL = ', "tools": [{"type": "function", "function": {"name": "f", "parameters": %s}}]'


@pytest.mark.parametrize(
    "request_, reason",
    [
        ("", "parse error"),
        ("[]", "no messages"),
        ("{}", "no messages"),
        (conversation("[{]"), "parse error"),
        (conversation("{}"), "array"),
        (conversation("[]"), "must not be empty"),
        (conversation('"text"'), "array"),
        (conversation("[1]"), "object"),
        (conversation('[{"content": "x"}]'), "role"),
        (conversation('[{"role": "user"}]'), "content"),
        (conversation('[{"role": 5, "content": "x"}]'), "string"),
        (conversation('[{"role": "user", "content": 5}]'), "content"),
        (conversation('[{"role": "user", "content": [{"type": "image_url"}]}]'), "content part"),
        (conversation('[{"role": "user", "content": [{"type": "text"}]}]'), "text"),
        (conversation("[" * 100000), "nested too deeply"),
        (
            conversation('[{"role": "user", "content": ' + "[" * 30000 + "]" * 30000 + "}]"),
            "nested",
        ),
        (conversation(USER, ', "no": 1'), "no: no such option"),
        (conversation(USER, ', "add_generation_prompt": "yes"'), "boolean"),
        (conversation(USER, ', "chat_template_kwargs": 5'), "chat_template_kwargs"),
        (conversation(USER, ', "tools": 5'), "tools"),
        (conversation(USER, ', "tools": [5]'), "."),
        (conversation(USER, ', "tools": [{}]'), "."),
        (conversation(USER, TOOL % "{}" + ', "tool_choice": "perhaps"'), "tool_choice"),
        (conversation(USER, ', "json_schema": 5'), "json_schema"),
        (conversation(USER, ', "json_schema": {"type": "poem"}'), "."),
        (conversation(USER, ', "reasoning_format": "loud"'), "."),
        (conversation(USER, ', "reasoning_budget_tokens": 1e30'), "out of range"),
        (conversation(USER, ', "continue_final_message": true'), "Cannot set both"),
    ],
)
def test_conversation(engine, request_, reason):
    with pytest.raises(EngineFailure, match=reason) as failure:
        engine.chat(request_)
    assert failure.value.code == EINVAL
    assert "x" in engine.apply_template(USER)


def test_reply_of_brackets(library, tmp_path):
    """What a model can be made to say must not overflow the stack of the parser."""
    path = tmp_path / "tools.gguf"
    tiny_model.make(path, template=tiny_model.TOOLS)
    with Engine(library, path) as engine:
        with engine.chat(conversation(USER, TOOL % '{"type": "object"}')) as chat:
            for text in (
                "[" * 100000,
                '<tool_call>\n{"name": "f", "arguments": ' + "[" * 100000,
                '<tool_call>\n{"name": "f", "arguments": ' + '{"a":' * 100000,
            ):
                reply = chat.reply()
                with pytest.raises(EngineFailure, match="nested too deeply"):
                    reply.push(text)
                reply.close()


def test_reason_is_short_utf8_in_one_line(engine):
    with pytest.raises(EngineFailure) as failure:
        engine.apply_template(json.dumps({"é\n": "🙂" * 5000}, ensure_ascii=False))
    reason = str(failure.value)  # decoded strictly
    assert 100 < len(reason.encode()) < 1024
    assert "\n" not in reason


def test_template_that_refuses(library, tmp_path):
    path = tmp_path / "strict.gguf"
    tiny_model.make(path, template="{{ raise_exception('Roles must alternate') }}")
    with Engine(library, path) as engine:
        with pytest.raises(EngineFailure, match="Roles must alternate"):
            engine.apply_template(USER)


@pytest.mark.parametrize("template", ["{% for %}", "{{ ", "{% endif %}", "{{ x | nonsense(1) }}"])
def test_broken_template(library, tmp_path, template):
    path = tmp_path / "broken.gguf"
    tiny_model.make(path, template=template)
    with Engine(library, path) as engine:
        with pytest.raises(EngineFailure, match="."):
            engine.apply_template(USER)
        assert len(engine.generate([5], 2)) == 2, "completions need no template"


def test_no_template_means_chatml(library, tmp_path):
    path = tmp_path / "bare.gguf"
    tiny_model.make(path, template=None)
    with Engine(library, path) as engine:
        assert not engine.info.has_chat_template
        assert engine.ffi.string(engine.info.chat_template) == b""
        assert "<|im_start|>user" in engine.apply_template(USER)


@pytest.mark.parametrize(
    "params, reason",
    [
        ({"n_batch": 0}, "n_batch"),
        ({"n_batch": 2**31}, "n_batch"),
        ({"n_seq": 0}, "n_seq"),
        ({"n_seq": 257}, "n_seq"),
        ({"n_threads": 0}, "n_threads"),
        ({"n_threads": 10**6}, "n_thr"),
        ({"n_ctx": 2**31}, "n_ctx"),
    ],
)
def test_parameters(library, tiny, params, reason):
    with pytest.raises(EngineFailure, match=reason) as failure:
        Engine(library, tiny, **params)
    assert failure.value.code == EINVAL


@pytest.mark.parametrize(
    "path, reason",
    [("", "empty"), ("/nonexistent/x.gguf", "No such file"), ("/", "directory|read")],
)
def test_path(library, path, reason):
    with pytest.raises(EngineFailure, match=reason):
        Engine(library, path)


@pytest.mark.parametrize(
    "what, arguments, reason",
    [
        ("architecture", {"architecture": "cathedral"}, "unknown model architecture: 'cathedral'"),
        ("tokenizer", {"tokenizer": "abacus"}, "unknown tokenizer: 'abacus'"),
        ("no tokenizer", {"tokenizer": "no_vocab"}, "no tokenizer|vocab"),
        ("tensor", {"omit": ["blk.1.ffn_up.weight"]}, "tensor 'blk.1.ffn_up.weight' not found"),
        ("embedding", {"omit": ["token_embd.weight"]}, "tensor 'token_embd.weight' not found"),
    ],
)
def test_unfit_model(library, tmp_path, what, arguments, reason):
    path = tmp_path / "unfit.gguf"
    tiny_model.make(path, **arguments)
    with pytest.raises(EngineFailure, match=reason) as failure:
        Engine(library, path)
    assert failure.value.code == EFAIL


def test_damaged_files(library, tiny, tmp_path):
    path = tmp_path / "damaged.gguf"
    for what, content, reason in tiny_model.damaged(tiny.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(EngineFailure, match=f"(?i){reason}") as failure:
            Engine(library, path)
        assert failure.value.code == EFAIL, what


def test_assertion_becomes_an_error(library, tiny, tmp_path):
    """llama.cpp asserts that no token occurs twice; it must not take the process along."""
    path = tmp_path / "twice.gguf"
    length = (5).to_bytes(8, "little")
    content = tiny.read_bytes()
    assert content.count(length + b"world") == 1
    path.write_bytes(content.replace(length + b"world", length + b"Hello"))
    with pytest.raises(EngineFailure, match=r"llama\.cpp/src/llama-vocab.*GGML_ASSERT") as failure:
        Engine(library, path)
    assert failure.value.code == EFAIL
    assert not re.search(r"\s/\S", str(failure.value)), "no path of the build machine"
    Engine(library, tiny).close()


def test_assertion_in_a_sampler(library, tiny):
    """llama.cpp aborts when an end of text does not fit the grammar. Only the sampler is lost."""
    with Engine(library, tiny) as engine:
        expected = engine.generate([5, 6, 7], 4)
        engine.clear()
        sampler = engine.sampler(json.dumps({"grammar": 'root ::= "ab"'}))
        with pytest.raises(EngineFailure, match=r"llama-grammar\.cpp:\d+: fatal error") as failure:
            sampler.accept(tiny_model.EOS, is_prompt=False)
        assert failure.value.code == EASSERT
        with pytest.raises(EngineFailure, match="failed before") as failure:
            sampler.accept(tiny_model.EOS, is_prompt=False)
        assert failure.value.code == EINVAL
        sampler.close()
        assert engine.generate([5, 6, 7], 4) == expected


def test_weights_that_are_not_numbers(library, tiny, tmp_path):
    path = tmp_path / "nan.gguf"
    content = tiny.read_bytes()
    # The last tensor is output.weight in half precision; this is the row of one token.
    path.write_bytes(content[: -2 * tiny_model.N_EMBD] + b"\xff" * (2 * tiny_model.N_EMBD))
    with Engine(library, path) as engine:
        engine.prompt([5, 6, 7])
        sampler = engine.sampler("{}")
        for call in (lambda: sampler.sample(2), lambda: engine.logprobs(2, 5, 1)):
            with pytest.raises(EngineFailure, match="not numbers") as failure:
                call()
            assert failure.value.code == ENUMBERS
        sampler.close()
        engine.clear()
        engine.prompt([5, 6, 7])


def test_flipped_bits(library, tiny):
    """Whatever is wrong in a file, the process lives. Run apart, so that a crash is a failure."""
    result = subprocess.run(
        [sys.executable, str(FUZZ), str(LIBRARY), str(tiny), "1", "400"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-2000:]


# Each is small and legal, and takes for ever to follow.
DOUBLING = 'root ::= "a" root t | "a" root u\nt ::= "b"\nu ::= "b"'  # ways, with every character
SPREADING = "\n".join(
    ["root ::= r0"]
    + [f"r{i} ::= r{i + 1} r{i + 1} | r{i + 1}" for i in range(40)]
    + ['r40 ::= "a"']
)
BRANCHING = "\n".join(
    ["root ::= r0"] + [f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)] + ['r60 ::= "a"']
)


@pytest.mark.parametrize("grammar", [BRANCHING, SPREADING])
def test_grammars_that_take_for_ever_to_prepare(library, tiny, grammar):
    with Engine(library, tiny) as engine:
        with pytest.raises(EngineFailure, match="too many ways through its rules") as failure:
            engine.sampler(json.dumps({"grammar": grammar}))
        assert failure.value.code == EINVAL
        assert len(engine.generate([5, 6, 7], 4)) == 4


def test_a_short_limit_does_no_harm_while_grammars_are_made(library, tiny):
    """An exception from the destructor of JSON would end the process."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"f{i}",
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"type": "array", "items": {"type": "number"}}},
                },
            },
        }
        for i in range(6)
    ]
    request = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    with Engine(library, tiny, sample_ms=1) as engine:
        for _ in range(10):
            engine.sampler("{}", engine.chat(json.dumps(request))).close()
            engine.sampler(json.dumps({"json_schema": {"type": "array", "maxItems": 40}})).close()


def test_a_grammar_that_takes_ever_longer(library, tiny):
    """It ends with an error, long before memory does, and the engine goes on."""
    with Engine(library, tiny, sample_ms=100) as engine:
        sampler = engine.sampler(json.dumps({"grammar": DOUBLING, "temperature": 0}))
        engine.prompt([5, 6, 7])
        with pytest.raises(EngineFailure, match="too ambiguous") as failure:
            for _ in range(60):
                sampler.sample(2)
        assert failure.value.code == 3
        with pytest.raises(EngineFailure, match="failed before"):
            sampler.sample(2)
        sampler.close()
        engine.clear()
        assert (
            len(
                engine.generate(
                    [5, 6, 7],
                    4,
                    json.dumps({"temperature": 0, "grammar": 'root ::= ("a" | "b")*'}),
                )
            )
            == 4
        )


def test_a_grammar_is_followed_with_a_large_vocabulary(library, tmp_path):
    """llama.cpp tries the grammar on each token of the vocabulary at once. That takes memory, and
    more time in all than `sample_ms`, which an honest grammar may.
    """
    words = [f"{number:012d}" for number in range(150_000)]
    tiny_model.make(tmp_path / "large.gguf", words=words)
    # The likeliest token is not allowed, so that all others are tried.
    params = {"temperature": 0, "grammar": 'root ::= [0-9]+ "."', "logit_bias": [["!", 100]]}
    with Engine(library, tmp_path / "large.gguf", sample_ms=50) as engine:
        tokens = engine.tokenize("hello")
        engine.prompt(tokens)
        sampler = engine.sampler(json.dumps(params))
        took = 0
        for _ in range(8):
            sampler.start(len(tokens) - 1)
            assert engine.piece(sampler.finish()).isdigit()
            took += sampler.us()
        assert took > 100_000
