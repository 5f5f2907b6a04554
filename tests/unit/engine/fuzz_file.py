"""Flips bytes of a model file and loads what comes of it, in this process, until one crashes it.

    python tests/unit/engine/fuzz_file.py LIBRARY MODEL SEED COUNT [ONLY]

The last line printed names the number of the change that was tried; ONLY repeats that one.
"""

import random
import struct
import sys
import tempfile
from pathlib import Path

from support.engine_library import Engine, EngineFailure, Library

NUMBERS = [0, 1, 2, 3, 7, 31, 127, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def header_size(model):
    """Where the tensor data starts, near enough: the weights are most of the file."""
    return model.rindex(b"output_norm.weight") + 64


def changed(model, header, chance):
    """One to three changes, most of them in the metadata, where they can do harm."""
    model = bytearray(model)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        at = chance.randrange(header if chance.random() < 0.9 else len(model) - 4)
        kind = chance.randrange(3)
        if kind == 0:
            model[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            model[at] = chance.randrange(256)
        else:
            struct.pack_into("<I", model, at, chance.choice(NUMBERS))
    return bytes(model)


def main(library, model, seed, count, only=None):
    library = Library(library)
    model = Path(model).read_bytes()
    header = header_size(model)
    loaded = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.gguf"
        for number in range(int(count)):
            chance = random.Random(f"{seed}/{number}")
            content = changed(model, header, chance)
            if only is not None and number != int(only):
                continue
            print(number, flush=True)
            path.write_bytes(content)
            try:
                with Engine(library, path, n_ctx=64, n_batch=16) as engine:
                    loaded += 1
                    engine.apply_template('[{"role": "user", "content": "Hello"}]')
                    tokens = engine.tokenize("Hello world, the user")[:16] or [0]
                    engine.generate(tokens, 3, '{"temperature": 1}')
            except EngineFailure as failure:
                if only is not None:
                    print(failure)
    print(f"{loaded} of {count} loaded")


if __name__ == "__main__":
    main(*sys.argv[1:])
