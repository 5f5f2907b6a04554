"""The engine gives the tokens that a loop over llama.h's own C API gives (llama_reference.py)."""

import pytest
from support.engine_library import Engine
from support.llama_reference import HEADER, Llama

CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def reference(path, text, n):
    if not HEADER.exists():
        pytest.skip(f"no {HEADER}: set LLAMA_SRC to the tree that the library was built from")
    llama = Llama(path)
    try:
        return llama.generate(text, n)
    finally:
        llama.close()


@pytest.mark.parametrize(
    "text", ["Hello world", "The other user", "x", "<|im_start|>user\nHi<|im_end|>\n"]
)
def test_tiny(library, engine, tiny, text):
    prompt, expected = reference(tiny, text, 24)
    assert engine.tokenize(text) == prompt
    assert engine.generate(prompt, 24)[: len(expected)] == expected


def test_smollm(library, smollm):
    prompt, expected = reference(smollm, CHAT, 24)
    with Engine(library, smollm) as engine:
        assert engine.tokenize(CHAT) == prompt
        made = engine.generate(prompt, len(expected))
        assert made == expected
        assert b"Paris" in engine.detokenize(made)
