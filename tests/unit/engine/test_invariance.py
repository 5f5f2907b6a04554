"""What the engine computes for a token depends on the tokens before it and on nothing else: not on
how a prompt is cut, who shares the batch, where cells lie, what was taken back, how many threads
there are.

Probabilities are compared to the last bit, with those of llama.cpp for one token at a time.
"""

import random

import pytest
from support.engine_library import Engine
from support.ggml_library import Ggml

gguf = pytest.importorskip("gguf")
from support import small_models  # noqa: E402

Type = gguf.GGMLQuantizationType
GGML, EXACT = 1, 3
N_VOCAB = 300
N_CTX = 1280
LENGTH = 150  # ggml's attention is of tiles from 64 queries on,
OTHERS = 450  # of pieces from 512 cells on

TYPES = [
    Type.Q4_0,
    Type.Q4_1,
    Type.Q5_0,
    Type.Q5_1,
    Type.Q8_0,
    Type.Q2_K,
    Type.Q3_K,
    Type.Q4_K,
    Type.Q5_K,
    Type.Q6_K,
    Type.IQ4_NL,
    Type.IQ4_XS,
    Type.IQ3_S,
    Type.F16,
    Type.BF16,
    Type.F32,
]
MODELS = [("llama", kind) for kind in TYPES] + [
    (architecture, kind)
    for architecture in small_models.ARCHITECTURES
    if architecture != "llama"
    for kind in (Type.Q4_K, Type.F16)
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda model: f"{model[0]}-{model[1].name}")
def model(request, library, tmp_path_factory):
    """The path of a small model, and a text's probabilities computed one token at a time."""
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    ggml = Ggml()
    small_models.make(path, *request.param, ggml.quantize)
    ggml.close()
    tokens = text(1)
    with Engine(library, path, n_ctx=N_CTX) as engine:
        return path, [step(engine, [token], 0, i) for i, token in enumerate(tokens)]


def text(seed, n=LENGTH):
    return random.Random(seed).choices(range(3, N_VOCAB), k=n)


def probabilities(engine, index):
    """All bits of them that count: of the 20 likeliest tokens and of one more."""
    return engine.logprobs(index, 7, 20)


def step(engine, tokens, seq, start):
    """Computes tokens of a sequence, and nothing else; probabilities after the last one."""
    n = len(tokens)
    engine.decode(tokens, list(range(start, start + n)), [seq] * n, [0] * (n - 1) + [1])
    return probabilities(engine, n - 1)


def step_by_step(engine, tokens, seq, size):
    for at in range(0, len(tokens), size):
        step(engine, tokens[at : at + size], seq, at)


def check(model, engine, tokens, seq, start, size):
    """Computes the rest of the text in pieces of `size`."""
    for at in range(start, LENGTH, size):
        piece = tokens[at : at + size]
        assert step(engine, piece, seq, at) == model[1][at + len(piece) - 1], at


def opened(library, model, n_threads):
    engine = Engine(library, model[0], n_ctx=N_CTX, n_seq=16, n_threads=n_threads)
    step_by_step(engine, text(99, OTHERS), 15, 64)
    return engine


@pytest.fixture
def engine(library, model):
    with opened(library, model, 1) as engine:
        yield engine


def test_a_token_at_a_time_is_ggmls(library, model):
    """On one thread."""
    tokens = text(1)
    with Engine(library, model[0], n_ctx=N_CTX, kernels=GGML) as engine:
        for i, token in enumerate(tokens):
            assert step(engine, [token], 0, i) == model[1][i], i


@pytest.mark.parametrize("size", [1, 2, 7, 33, 64])
def test_pieces_of_a_prompt(model, engine, size):
    check(model, engine, text(1), 0, 0, size)


@pytest.mark.parametrize("size", [1, 50])
def test_threads(library, model, size):
    with opened(library, model, 2) as engine:
        check(model, engine, text(1), 0, 0, size)


def test_beside_others(model, engine):
    """Sequences of all lengths take turns, so their cells are mixed."""
    chance = random.Random(2)
    texts = [text(1), *(text(seed, 80) for seed in range(10, 17))]
    done = [0] * len(texts)
    while done[0] < LENGTH:
        tokens, positions, seqs = [], [], []
        for seq in chance.sample(range(8), 8):
            n = chance.choice([0, 1, 1, 3, 8, 20] if seq == 0 else [0, 1, 1, 2, 5])
            n = min(n, len(texts[seq]) - done[seq], 64 - len(tokens))
            tokens += texts[seq][done[seq] : done[seq] + n]
            positions += range(done[seq], done[seq] + n)
            seqs += [seq] * n
            done[seq] += n
        if not tokens:
            continue
        last = len(tokens) - 1 - seqs[::-1].index(0) if 0 in seqs else None
        engine.decode(tokens, positions, seqs, [int(i == last) for i in range(len(tokens))])
        if last is not None:
            assert probabilities(engine, last) == model[1][done[0] - 1], done[0]
        for seq in range(1, 8):  # a finished one makes room for another, in cells of any order
            if done[seq] == len(texts[seq]) and done[0] % 3:
                engine.seq_rm(seq)
                done[seq] = 0


def test_a_prefix_that_is_shared(model, engine):
    if not engine.info.divisible:
        pytest.skip("its sequences have no parts")
    tokens = text(1)
    step_by_step(engine, tokens[:100], 3, 64)
    step(engine, text(5, 50), 4, 0)
    for seq in (0, 1):
        engine.seq_cp(3, seq, 0, 80)
        step(engine, text(6, 30), 5 + seq, 0)
    engine.seq_rm(3)
    for seq in (0, 1):
        check(model, engine, tokens, seq, 80, 1 if seq else 50)


def test_what_was_drafted_and_taken_back(model, engine):
    if not engine.info.divisible:
        pytest.skip("its sequences have no parts")
    tokens, wrong = text(1), text(9)
    for at in range(0, LENGTH, 5):
        right = tokens[at : at + 5]
        draft = right + wrong[at : at + at % 4]
        n = len(draft)
        engine.decode(draft, list(range(at, at + n)), [0] * n, [1] * n)
        for i in range(len(right)):
            assert probabilities(engine, i) == model[1][at + i], at + i
        engine.seq_rm(0, at + len(right), -1)
        if at % 20 == 0:  # another's cells behind
            engine.seq_rm(1)
            step(engine, wrong[: 1 + at % 7], 1, 0)


def test_cells_from_both_ends(model, engine):
    """A sequence whose later tokens lie before the earlier ones."""
    tokens = text(1)
    step(engine, text(3, 64), 1, 0)
    step(engine, text(3, 64), 2, 0)
    step(engine, tokens[:50], 0, 0)
    engine.seq_rm(1)
    step_by_step(engine, text(4, 600), 3, 60)  # until it goes round
    engine.seq_rm(2)
    engine.seq_rm(3)
    check(model, engine, tokens, 0, 50, 25)


def test_in_its_turn_after_another(model, engine):
    """In another sequence, after what was there was removed."""
    step(engine, text(8, 37), 11, 0)
    engine.seq_rm(11)
    check(model, engine, text(1), 11, 0, 64)
