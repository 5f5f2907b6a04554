"""The engine does what engine.h says, on a tiny model."""

import json
import threading

import pytest
from support.engine_library import Engine, EngineFailure

EINVAL, ABORTED, NO_SLOT = -1, 2, 1
TEXT = "Hello world, the other user could sing."


def test_info(engine, tiny):
    info, ffi = engine.info, engine.ffi
    assert (info.n_ctx, info.n_ctx_train, info.n_batch, info.n_seq) == (256, 2048, 64, 4)
    assert info.n_vocab > 256
    assert 0 < info.size < tiny.stat().st_size
    assert (info.bos, info.eos, info.add_bos) == (1, 2, False)
    assert info.has_chat_template
    assert b"<|im_start|>" in ffi.string(info.chat_template)
    assert ffi.string(info.ftype) == b"F16"
    assert ffi.string(info.desc).startswith(b"llama")


def test_version(library):
    assert library.ffi.string(library.so.engine_version()).startswith(b"llama.cpp ")


@pytest.mark.parametrize(
    "text",
    [TEXT, "", " ", "\n\n  x", "naïve café — 日本語 🙂", "a\0b", "<|im_start|>user", "x" * 5000],
)
def test_round_trip(engine, text):
    assert engine.detokenize(engine.tokenize(text)) == text.encode()


def test_merges_are_used(engine):
    tokens = engine.tokenize("Hello world")
    assert [engine.piece(token) for token in tokens] == [b"Hello", b" world"]


def test_bytes_that_are_not_utf8(engine):
    engine.tokenize(b"\xff\xfe\x80abc")  # a token sequence or an error, but no crash


def test_control_tokens(engine):
    assert engine.tokenize("<|im_end|>") == [2]
    assert len(engine.tokenize("<|im_end|>", parse_special=False)) > 1
    assert engine.piece(2) == b""
    assert engine.piece(2, special=True) == b"<|im_end|>"
    assert engine.is_eog(2)
    assert not engine.is_eog(engine.tokenize("Hello")[0])


def test_sequences_in_one_batch_do_not_see_each_other(engine):
    prompts = [engine.tokenize(text) for text in (TEXT, "and the world is", "He lld")]
    alone = []
    for prompt in prompts:
        engine.clear()
        alone.append(engine.generate(prompt, 12))

    engine.clear()
    tokens, positions, seqs, outputs, last = [], [], [], [], []
    for seq, prompt in enumerate(prompts):
        tokens += prompt
        positions += range(len(prompt))
        seqs += [seq] * len(prompt)
        outputs += [0] * (len(prompt) - 1) + [1]
        last.append(len(tokens) - 1)
    engine.decode(tokens, positions, seqs, outputs)
    samplers = [engine.sampler('{"temperature": 0}') for _ in prompts]
    together = [[sampler.sample(i)] for sampler, i in zip(samplers, last)]
    for step in range(11):
        engine.decode(
            [made[-1] for made in together],
            [len(prompt) + step for prompt in prompts],
            [0, 1, 2],
            [1, 1, 1],
        )
        for i, sampler in enumerate(samplers):
            together[i].append(sampler.sample(i))
    assert together == alone
    assert len(set(map(tuple, alone))) == 3, "the model tells its prompts apart"


def test_prompt_in_chunks(engine):
    prompt = engine.tokenize(TEXT)
    whole = engine.generate(prompt, 8)
    engine.prompt(prompt[:3], seq=1)
    engine.prompt(prompt[3:], seq=1, start=3)
    assert engine.sampler('{"temperature": 0}').sample(len(prompt) - 4) == whole[0]


def test_shared_prefix(engine):
    prompt = engine.tokenize(TEXT)
    expected = engine.generate(prompt, 1)
    engine.clear()
    engine.prompt(prompt[:-1])
    engine.seq_cp(0, 3)
    assert engine.seq_pos_max(3) == len(prompt) - 2
    assert engine.seq_rm(0)
    engine.decode(prompt[-1:], [len(prompt) - 1], [3], [1])
    assert engine.sampler('{"temperature": 0}').sample(0) == expected[0]


def test_going_back(engine):
    prompt = engine.tokenize(TEXT)
    first = engine.generate(prompt, 6)
    assert engine.seq_rm(0, len(prompt) - 1, -1)
    assert engine.seq_pos_max(0) == len(prompt) - 2
    engine.decode(prompt[-1:], [len(prompt) - 1], [0], [1])
    assert engine.sampler('{"temperature": 0}').sample(0) == first[0]
    engine.clear()
    assert engine.seq_pos_max(0) == -1


def test_full_cache(engine):
    with pytest.raises(EngineFailure) as failure:
        for start in range(0, 1024, 64):
            engine.prompt([5] * 64, start=start)
    assert failure.value.code == NO_SLOT
    assert start == engine.info.n_ctx
    assert engine.seq_pos_max(0) == start - 1, "nothing of the refused batch stays"
    assert engine.seq_rm(0)
    engine.prompt([5] * 64)


def test_seed_decides(engine):
    prompt = engine.tokenize(TEXT)

    def run(seed):
        engine.clear()
        return engine.generate(prompt, 16, json.dumps({"temperature": 1.5, "seed": seed}))

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(-1) != run(-1)


def test_sampling_parameters_act(engine):
    prompt = engine.tokenize(TEXT)
    greedy = engine.generate(prompt, 8)
    hot = {"temperature": 50, "seed": 7, "top_p": 1, "min_p": 0}
    for limit in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1}, {"temperature": -1}):
        engine.clear()
        assert engine.generate(prompt, 8, json.dumps({**hot, **limit})) == greedy
    engine.clear()
    assert engine.generate(prompt, 8, json.dumps({**hot, "top_k": 0})) != greedy


def test_penalty_counts_accepted_tokens(engine):
    prompt = engine.tokenize(TEXT)
    engine.prompt(prompt)
    index = len(prompt) - 1
    favourite = engine.sampler('{"temperature": 0}').sample(index)
    sampler = engine.sampler('{"temperature": 0, "frequency_penalty": 1000}')
    sampler.accept(favourite)
    assert sampler.sample(index) != favourite


def test_template(engine):
    messages = json.dumps(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi 🙂"}]},
        ]
    )
    reply = json.loads(engine.apply_template(messages))
    assert reply == {
        "prompt": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi 🙂<|im_end|>\n"
        "<|im_start|>assistant\n",
        "stops": [],
        "plain": True,
        "thinking": False,
        "format": "peg-native",
        "grammar": "",
        "generation_prompt": "<|im_start|>assistant\n",
    }
    reply = json.loads(engine.apply_template(messages, add_generation_prompt="false"))
    assert reply["prompt"].endswith("🙂<|im_end|>\n")


def test_progress_and_stopping_it(library, tiny):
    seen = []
    with Engine(library, tiny, progress=lambda done: seen.append(done) or True):
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
    with pytest.raises(EngineFailure) as failure:
        Engine(library, tiny, progress=lambda done: False)
    assert failure.value.code == ABORTED


def begin(library, path, **options):
    event = threading.Event()

    def wait():
        event.wait(60)

    return Engine(library, path, background=True, wait=wait, wake=event.set, **options)


def test_loading_on_the_engines_thread(library, tiny, engine):
    loading = begin(library, tiny)
    seen = []
    while not seen or seen[-1] < 1:
        seen.append(library.so.engine_loading_done(loading.loading))
        # Others are of use meanwhile.
        assert engine.detokenize(engine.tokenize("other", add_special=False)) == b"other"
    assert seen == sorted(seen)
    loading.finish_loading()
    with loading:
        tokens = loading.tokenize("The quick brown fox")
        assert tokens == engine.tokenize("The quick brown fox")
        loading.prompt(tokens)


def test_loading_can_be_stopped(library, tiny):
    for _ in range(100):  # the machine may let a thread load all of it before it is told to stop
        loading = begin(library, tiny)
        library.so.engine_loading_stop(loading.loading)
        try:
            loading.finish_loading()
        except EngineFailure as failure:
            assert failure.code == ABORTED and str(failure) == "loading was stopped"
            return
        loading.close()
    pytest.fail("it never was in time")


def test_what_fails_while_loading_is_told_at_the_end(library, tiny, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:5000])
    failures = []
    for make in (lambda: begin(library, cut).finish_loading(), lambda: Engine(library, cut)):
        with pytest.raises(EngineFailure) as failure:
            make()
        failures.append((failure.value.code, str(failure.value)))
    assert failures[0] == failures[1]
    with pytest.raises(EngineFailure, match="n_batch"):
        begin(library, tiny, n_batch=0)
    with pytest.raises(EngineFailure, match="wait and wake"):
        Engine(library, tiny, background=True)


def test_poll_stops_a_decode(library, tiny):
    calls, limit = [], [None]

    def poll():
        calls.append(1)
        return limit[0] is not None and len(calls) >= limit[0]

    with Engine(library, tiny, poll=poll) as engine:
        prompt = engine.tokenize(TEXT)
        expected = engine.generate(prompt, 4)
        engine.clear()
        assert len(calls) > 20, "polled between nodes, not once per decode"
        engine.prompt(prompt[:5])
        calls.clear()
        limit[0] = 10
        with pytest.raises(EngineFailure) as failure:
            engine.prompt(prompt[5:], start=5)
        assert failure.value.code == ABORTED
        assert len(calls) == 10
        assert engine.seq_pos_max(0) == 4, "nothing of the stopped batch stays"
        limit[0] = None
        engine.clear()
        assert engine.generate(prompt, 4) == expected


def test_no_way_back_in_from_a_callback(library, tiny):
    codes = set()

    def poll():
        codes.add(library.so.engine_clear(engine.handle))
        codes.add(library.so.engine_close(engine.handle))
        return False

    with Engine(library, tiny, poll=poll) as engine:
        engine.prompt([5])
    assert codes == {EINVAL}


def test_closing_a_sampler_in_a_callback(library, tiny):
    samplers = []

    def poll():
        while samplers:
            samplers.pop().close()
        return False

    with Engine(library, tiny, poll=poll) as engine:
        samplers.append(engine.sampler())
        engine.prompt([5])
        assert not samplers


def test_threads_give_the_same_tokens(library, tiny, engine):
    prompt = engine.tokenize(TEXT)
    with Engine(library, tiny, n_threads=2) as two:
        assert two.generate(prompt, 8) == engine.generate(prompt, 8)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_thread_computes_while_the_caller_waits(library, tiny, engine, n_threads):
    here, waits, polls = threading.get_ident(), [], []
    event, waiting, stop = threading.Event(), threading.Event(), []

    def wait():
        waits.append(threading.get_ident())
        waiting.set()
        assert event.wait(60)
        event.clear()

    def poll():
        polls.append(threading.get_ident())
        assert waiting.wait(60), "the caller never came to wait"
        return bool(stop)

    prompt = engine.tokenize(TEXT)
    with Engine(library, tiny, n_threads=n_threads, poll=poll, wait=wait, wake=event.set) as other:
        assert other.generate(prompt, 8) == engine.generate(prompt, 8)
        assert other.embed(prompt) == engine.embed(prompt)
        assert set(waits) == {here} and here not in polls and len(set(polls)) == 1
        # Wrong input is found, and a stop obeyed, as without the thread.
        with pytest.raises(EngineFailure, match="continues at position"):
            other.decode([5], [0], [0], [1])
        stop.append(1)
        with pytest.raises(EngineFailure) as failure:
            other.prompt(prompt, seq=1)
        assert failure.value.code == ABORTED
        stop.clear()
        other.prompt(prompt, seq=1)


def test_the_caller_may_come_back_in_while_a_thread_computes(library, tiny):
    event, tried, codes = threading.Event(), threading.Event(), set()

    def wait():
        codes.add(library.so.engine_clear(engine.handle))
        codes.add(library.so.engine_close(engine.handle))
        tried.set()
        event.wait(60)

    def poll():
        return not tried.wait(60)

    with Engine(library, tiny, poll=poll, wait=wait, wake=event.set) as engine:
        engine.prompt([5])
    assert codes == {EINVAL}
    with pytest.raises(EngineFailure, match="belong together"):
        Engine(library, tiny, wait=wait)


def test_a_decode_in_two_parts(library, tiny, engine):
    """Functions that only need the vocabulary work while a batch is computed; others refuse."""
    event, go_on = threading.Event(), threading.Event()

    def wait():
        assert event.wait(60)
        event.clear()

    def poll():
        return not go_on.wait(60)

    prompt = engine.tokenize(TEXT)
    n = len(prompt)
    batch = (prompt, list(range(n)), [0] * n, [0] * (n - 1) + [1])
    engine.clear()
    expected = engine.generate(prompt, 1)
    with Engine(library, tiny, poll=poll, wait=wait, wake=event.set) as other:
        sampler = other.sampler('{"temperature": 0}')
        other.start(*batch)
        assert not other.ended()
        assert other.tokenize(TEXT) == prompt
        assert other.detokenize(prompt) == engine.detokenize(prompt)
        assert other.piece(prompt[1]) == engine.piece(prompt[1]) and not other.is_eog(prompt[1])
        assert other.apply_template('[{"role": "user", "content": "x"}]')
        late = other.sampler()
        late.accept(prompt[0])
        late.close()
        for refused in (
            lambda: other.start(*batch),
            lambda: other.decode(*batch),
            other.clear,
            lambda: sampler.sample(n - 1),
            lambda: other.logprobs(n - 1, 1, 1),
            lambda: other.seq_rm(0),
            lambda: other.seq_pos_max(0),
            lambda: other.seq_cp(0, 1),
            lambda: other.embed(prompt),
            lambda: other.state_get(0),
            lambda: other.lora_set([], []),
        ):
            with pytest.raises(EngineFailure, match="must be finished first") as failure:
                refused()
            assert failure.value.code == EINVAL
        go_on.set()
        other.finish()
        assert [sampler.sample(n - 1)] == expected
        with pytest.raises(EngineFailure, match="no batch was started"):
            other.finish()
        # Wrong input is found at once, and what is stopped leaves nothing.
        with pytest.raises(EngineFailure, match="continues at position"):
            other.start([5], [0], [0], [1])
        go_on.clear()
        other.start([5], [n], [0], [1])
        other.abort()
        go_on.set()
        with pytest.raises(EngineFailure) as failure:
            other.finish()
        assert failure.value.code == ABORTED and other.seq_pos_max(0) == n - 1


@pytest.mark.parametrize("threaded", [False, True])
def test_closing_in_the_middle_of_a_batch(library, tiny, threaded):
    options = {"wait": lambda: pytest.fail("closing waits"), "wake": lambda: None}
    for _ in range(20):
        engine = Engine(library, tiny, **(options if threaded else {}))
        engine.start([5] * 40, list(range(40)), [0] * 40, [0] * 40)
        engine.close()


def test_sampler_outlives_its_engine(library, tiny):
    engine = Engine(library, tiny)
    sampler = engine.sampler()
    engine.close()
    with pytest.raises(EngineFailure, match="closed") as failure:
        sampler.sample(0)
    assert failure.value.code == EINVAL
    sampler.close()


def test_log(library, tiny):
    lines = []
    callback = library.ffi.callback(
        "void(void *, int, const char *)",
        lambda _, level, text: lines.append((level, library.ffi.string(text))),
    )
    library.so.engine_set_log(callback, library.ffi.NULL)
    try:
        Engine(library, tiny).close()
    finally:
        library.so.engine_set_log(library.ffi.NULL, library.ffi.NULL)
    assert any(b"cllm tiny" in text for _, text in lines)


def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


def test_nothing_leaks(library, tiny, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:100_000])

    def cycle():
        with Engine(library, tiny) as engine:
            engine.generate([5, 6, 7], 3, '{"temperature": 1}')
            engine.apply_template('[{"role": "user", "content": "x"}]')
            engine.sampler()  # left open
        with pytest.raises(EngineFailure):
            Engine(library, cut)

    for _ in range(10):
        cycle()
    before = resident()
    for _ in range(50):
        cycle()
    # The cache alone is 128 KiB, so one kept engine in fifty cycles would show.
    assert resident() - before < 4 << 20
