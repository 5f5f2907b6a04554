"""Grammars, conversations, probabilities, embeddings, shared sequences, saved states."""

import json
import math

import pytest
from support import tiny_model
from support.engine_library import Engine, EngineFailure

PROMPT = [5, 6, 7, 8, 9]


def say(engine, params, n=40, chat=None, prompt=PROMPT):
    """Text of at most n tokens after a prompt, with sampler `params`."""
    engine.clear()
    sampler = engine.sampler(json.dumps(params), chat)
    engine.prompt(prompt)
    token, made = sampler.sample(len(prompt) - 1), []
    while len(made) < n and not engine.is_eog(token):
        made.append(token)
        engine.decode([token], [len(prompt) + len(made) - 1], [0], [1])
        token = sampler.sample(0)
    sampler.close()
    return engine.detokenize(made)


@pytest.mark.parametrize("seed", range(5))
def test_grammar(engine, seed):
    grammar = 'root ::= ("yes" | "no") "!"'
    assert say(engine, {"grammar": grammar, "seed": seed}) in (b"yes!", b"no!")


@pytest.mark.parametrize("seed", range(5))
def test_json_schema(engine, seed):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    value = json.loads(say(engine, {"json_schema": schema, "seed": seed}))
    assert value["a"] in (1, 2) and isinstance(value["b"], bool)


def test_min_tokens(engine):
    eos = {"logit_bias": [[tiny_model.EOS, 100]], "temperature": 0}
    assert say(engine, eos) == b""
    sampler = engine.sampler(json.dumps({**eos, "min_tokens": 3}))
    engine.clear()
    engine.prompt(PROMPT)
    made = [sampler.sample(4)]
    for i in range(3):
        engine.decode([made[-1]], [5 + i], [0], [1])
        made.append(sampler.sample(0))
    assert [engine.is_eog(token) for token in made] == [False, False, False, True]


def test_logit_bias_by_token_and_text(engine):
    for bias in ({"70": 100}, [[70, 100]]):
        assert say(engine, {"logit_bias": bias, "temperature": 0}, 3) == engine.piece(70) * 3
    assert say(engine, {"logit_bias": {"world": 100}, "temperature": 0}, 2) == b"worldworld"
    first = say(engine, {"temperature": 0}, 1)
    bias = {first.decode("latin-1"): False}
    assert say(engine, {"temperature": 0, "logit_bias": bias}, 1) != first


def test_ignore_eos(engine):
    params = {"logit_bias": [[tiny_model.EOS, 100]], "ignore_eos": True, "temperature": 0}
    assert len(say(engine, params, 5)) >= 5


def test_logprobs(engine):
    engine.prompt(PROMPT)
    token = engine.sampler('{"temperature": 0}').sample(4)
    logprob, top = engine.logprobs(4, token, 5)
    assert top[0] == (token, logprob) and [p for _, p in top] == sorted(
        (p for _, p in top), reverse=True
    )
    _, everything = engine.logprobs(4, token, 10**6)
    assert len(everything) == engine.info.n_vocab
    assert sum(math.exp(p) for _, p in everything) == pytest.approx(1, abs=1e-4)
    assert engine.logprobs(4, token, 0) == (logprob, [])
    for index, wrong in ((3, token), (5, token), (4, -1), (4, 10**6)):
        with pytest.raises(EngineFailure):
            engine.logprobs(index, wrong, 1)


def test_probs_after_sampling(engine):
    engine.prompt(PROMPT)
    sampler = engine.sampler('{"temperature": 1, "top_k": 3, "top_p": 1, "min_p": 0}')
    token = sampler.sample(4)
    pairs = sampler.probs(10)
    assert len(pairs) == 3 and token in [t for t, _ in pairs]
    assert sum(p for _, p in pairs) == pytest.approx(1, abs=1e-5)


def test_embeddings_in_pieces(library, tiny):
    for pooling in (0, 1, 2, 3):
        with Engine(library, tiny, pooling=pooling) as engine:
            whole = engine.embed(PROMPT)
            assert len(whole) == engine.info.n_embd
            assert sum(x * x for x in whole) == pytest.approx(1)
            assert engine.embed(PROMPT[:2], True, False) is None
            assert engine.embed(PROMPT[2:], False, True) == pytest.approx(whole, abs=1e-6)
            assert engine.embed([6, 6, 6]) != whole
            raw = engine.embed(PROMPT, normalize=-1)
            assert sum(x * x for x in raw) != pytest.approx(1)


def test_embeddings_do_not_touch_the_cache(engine):
    engine.prompt(PROMPT)
    engine.embed([1, 2, 3])
    assert engine.seq_pos_max(0) == 4
    engine.decode([5], [5], [0], [1])


@pytest.mark.parametrize(
    "arguments", [([],), ([-1],), ([10**6],), ([5] * 65,), ([5], False), ([5], True, True, 99)]
)
def test_bad_embeddings(engine, arguments):
    with pytest.raises(EngineFailure) as failure:
        engine.embed(*arguments)
    assert failure.value.code == -1
    assert len(engine.embed(PROMPT)) == 64


def test_shared_prefix_gives_the_same_logits(engine):
    whole = engine.generate(PROMPT + [10, 11], 8)
    engine.clear()
    engine.prompt(PROMPT, seq=1)
    engine.seq_cp(1, 2, 0, 5)
    engine.prompt([10, 11], seq=2, start=5)
    sampler = engine.sampler('{"temperature": 0}')
    made = [sampler.sample(1)]
    for i in range(7):
        engine.decode([made[-1]], [7 + i], [2], [1])
        made.append(sampler.sample(0))
    assert made == whole
    assert engine.seq_rm(1) and engine.seq_pos_max(2) == 13


def test_seq_add(engine):
    engine.prompt(PROMPT)
    assert engine.seq_rm(0, 1, 3)
    engine.seq_add(0, 3, 5, -2)
    assert engine.seq_pos_max(0) == 2
    engine.decode([5], [3], [0], [1])
    for arguments in ((0, 5, 9, -1), (0, -1, 2, 1), (0, 0, 1, -5), (0, 0, 1, 2), (9, 0, 1, 1)):
        with pytest.raises(EngineFailure) as failure:
            engine.seq_add(*arguments)
        assert failure.value.code == -1
    engine.prompt(PROMPT, seq=1)
    with pytest.raises(EngineFailure, match="one sequence"):
        engine.seq_add(0, 0, 4, 5)


def test_states(library, tiny, engine):
    want = engine.generate(PROMPT, 6)
    engine.clear()
    engine.prompt(PROMPT)
    state = engine.state_get(0)
    with Engine(library, tiny) as other:
        other.state_set(3, state)
        assert other.seq_pos_max(3) == 4
        sampler = other.sampler('{"temperature": 0}')
        other.seq_rm(3, 4, -1)
        other.decode([PROMPT[4]], [4], [3], [1])
        made = [sampler.sample(0)]
        while len(made) < 6:
            other.decode([made[-1]], [4 + len(made)], [3], [1])
            made.append(sampler.sample(0))
        assert made == want
    for bad in (b"x", state[:20], state[:-5], bytes(len(state)), b"\xff" * 100):
        with pytest.raises(EngineFailure):
            engine.state_set(1, bad)
        assert engine.seq_pos_max(1) == -1
    assert engine.seq_pos_max(0) == 4


def test_lora_files_that_are_none(engine, tiny, tmp_path):
    text = tmp_path / "text"
    text.write_text("x" * 1000)
    for path in ("", "/nowhere", text, tiny):
        with pytest.raises(EngineFailure):
            engine.lora_open(str(path))
    for ids, scales in (([0], [1.0]), ([-1], [1.0])):
        with pytest.raises(EngineFailure, match="no adapter"):
            engine.lora_set(ids, scales)
    engine.lora_set([], [])
    assert len(engine.generate(PROMPT, 2)) == 2


def make_lora(path, scale):
    """A LoRA of rank 1 for the first layer's query matrix."""
    import gguf
    import numpy

    random = numpy.random.default_rng(5)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    n = tiny_model.N_EMBD
    for name, shape in (("lora_a", (1, n)), ("lora_b", (n, 1))):
        data = (random.standard_normal(shape) * scale).astype(numpy.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.{name}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_lora(engine, tmp_path):
    make_lora(tmp_path / "lora.gguf", 2.0)
    plain = engine.generate(PROMPT, 12)
    number = engine.lora_open(tmp_path / "lora.gguf")
    engine.clear()
    assert engine.generate(PROMPT, 12) == plain  # loading changes nothing
    engine.lora_set([number], [1.0])
    engine.clear()
    assert engine.generate(PROMPT, 12) != plain
    with pytest.raises(EngineFailure, match="twice"):
        engine.lora_set([number, number], [1.0, 0.5])
    with pytest.raises(EngineFailure, match="no number"):
        engine.lora_set([number], [math.nan])
    engine.lora_set([], [])
    engine.clear()
    assert engine.generate(PROMPT, 12) == plain


def test_conversation_outlives_its_engine(library, tiny):
    engine = Engine(library, tiny)
    chat = engine.chat({"messages": [{"role": "user", "content": "x"}]})
    reply = chat.reply()
    engine.close()
    assert json.loads(reply.push("text", True))["message"]["content"] == "text"
    assert "prompt" in chat.describe()
    with Engine(library, tiny) as other:
        with pytest.raises(EngineFailure, match="another engine"):
            other.sampler("{}", chat)
    reply.close()
    chat.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_engine_abort(library, tiny, threads):
    """Stopped at any node, a decode of several sequences leaves nothing, and what follows is the
    same as if it had not been tried.
    """
    nodes = []
    stop_at = [0]

    def poll():
        nodes.append(1)
        if len(nodes) == stop_at[0]:
            engine.abort()
        return False

    with Engine(library, tiny, poll=poll, n_threads=threads) as engine:
        engine.abort()  # nothing to stop
        engine.prompt(PROMPT)
        engine.seq_cp(0, 1, 0, len(PROMPT))
        batch = [7, 8, 9, 20], [5, 6, 7, 5], [0, 0, 0, 1], [0, 0, 1, 1]

        def computed():
            nodes.clear()
            engine.decode(*batch)
            return engine.logprobs(2, 5, 5), engine.logprobs(3, 5, 5)

        expected = computed()
        whole = len(nodes)
        for at in sorted({1, 2, whole // 2, whole - 1, *range(3, whole, 7)}):
            for seq in (0, 1):
                assert engine.seq_rm(seq, 5, -1)
            stop_at[0] = at
            with pytest.raises(EngineFailure, match="stopped") as failure:
                computed()
            assert failure.value.code == 2 and len(nodes) == at
            with pytest.raises(EngineFailure, match="no logits"):
                engine.logprobs(3, 5, 5)
            assert [engine.seq_pos_max(seq) for seq in (0, 1)] == [4, 4]
            stop_at[0] = 0
            assert computed() == expected


def test_abort_in_a_decode(library, tiny):
    stop = []
    with Engine(library, tiny, poll=lambda: bool(stop)) as engine:
        engine.prompt(PROMPT)
        stop.append(1)
        with pytest.raises(EngineFailure, match="stopped") as failure:
            engine.decode([5], [5], [0], [1])
        assert failure.value.code == 2
        with pytest.raises(EngineFailure, match="stopped"):
            engine.embed(PROMPT)
        stop.clear()
        assert engine.seq_pos_max(0) == 4
        engine.decode([5], [5], [0], [1])
        assert len(engine.embed(PROMPT)) == 64
