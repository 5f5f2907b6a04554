"""The default of --memory follows the model's own metadata, and survives any file."""

import random
import struct
import time

import gguf
import numpy
import pytest
from cllm import memory


def write_model(
    path, architecture="llama", *, layers=30, kv_heads=3, vocabulary=49152, tensors=0, **numbers
):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(576)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(9)
    writer.add_head_count_kv(kv_heads)
    writer.add_token_list([f"t{i}" for i in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    for key, value in numbers.items():
        writer.add_uint32(f"{architecture}.{key.replace('__', '.')}", value)
    for i in range(tensors):
        writer.add_tensor(f"t{i}", numpy.zeros(1, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_reads_what_the_gguf_package_writes(tmp_path):
    found = memory.read_metadata(write_model(tmp_path / "m.gguf", vocabulary=100))
    assert found["general.architecture"] == "llama"
    assert found["llama.block_count"] == 30
    assert found["tokenizer.ggml.tokens"] == memory.Array(100)


def test_grows_by_the_cache_of_each_further_cell(tmp_path):
    model = write_model(tmp_path / "m.gguf")
    small, large = memory.needed(model, 2048), memory.needed(model, 2048 + 65536)
    # f16 keys and values: 2 bytes, 30 layers, 3 heads of 64, twice; and attention scores.
    cells = 65536 * (2 * 30 * 3 * 64 * 2 + 4 * memory.N_BATCH * 2 * 9)
    # The second cache is for embeddings of texts as long.
    assert abs((large - small) - 2 * cells / memory.MIB) <= memory.STEP
    drafts = [memory.needed(model, n_ctx, embeds=False) for n_ctx in (2048, 2048 + 65536)]
    assert abs((drafts[1] - drafts[0]) - cells / memory.MIB) <= memory.STEP


def test_grows_by_the_graphs_of_a_model_of_many_tensors(tmp_path):
    few = memory.needed(write_model(tmp_path / "few.gguf", vocabulary=10, tensors=100))
    many = memory.needed(write_model(tmp_path / "many.gguf", vocabulary=10, tensors=1100))
    # ggml_backend_sched_new(): 60 tensors of 336 bytes for each of 8 nodes a tensor, per context.
    assert many - few >= 2 * 1000 * 8 * 60 * 336 // memory.MIB
    next_ = write_model(tmp_path / "next.gguf", "qwen3next", vocabulary=10, tensors=1100)
    assert memory.needed(next_) - many >= 2 * 1000 * 24 * 60 * 336 // memory.MIB


def test_grows_by_the_logits_of_a_batch(tmp_path):
    model = write_model(tmp_path / "m.gguf")
    grown = memory.needed(model, n_batch=1024) - memory.needed(model)
    assert grown >= 4 * (1024 - 64) * 49152 // memory.MIB


def test_grows_by_the_states_of_a_recurrent_model(tmp_path):
    model = write_model(
        tmp_path / "m.gguf", "mamba", ssm__conv_kernel=4, ssm__inner_size=5120, ssm__state_size=16
    )
    grown = memory.needed(model, slots=64, n_batch=128) - memory.needed(model, n_batch=128)
    # 64 slots and 64 kept prefixes, not 4 and 4: 30 layers of n_embd_r + n_embd_s floats for each.
    assert grown >= 120 * 30 * 4 * (3 * 5120 + 16 * 5120) // memory.MIB


def test_a_model_of_embeddings_computes_a_text_at_once(tmp_path):
    model = write_model(tmp_path / "m.gguf", "bert", vocabulary=250000)
    # llama_context::encode() keeps the logits of every token, though nobody reads them.
    assert memory.needed(model) >= 512 * 4 * 250000 // memory.MIB


def test_metadata_per_layer_does_not_upset_it(tmp_path):
    model = write_model(tmp_path / "m.gguf", kv_heads=[3] * 30, vocabulary=10)
    assert memory.needed(model) >= memory.needed(None)


def test_no_model():
    assert memory.needed(None) * memory.MIB == memory.BASE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"PK\3\4 no model",
        b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
        b"GGUF" + struct.pack("<IQQQ4sIIQ", 3, 0, 1, 4, b"name", 9, 9, 1 << 40),
    ],
)
def test_a_foreign_or_truncated_file_gets_the_base(tmp_path, content):
    path = tmp_path / "foreign.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        memory.read_metadata(path)
    assert memory.needed(path) >= memory.needed(None)


def test_every_truncation_of_a_real_header_is_survived(tmp_path):
    whole = write_model(tmp_path / "m.gguf", vocabulary=5).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        assert memory.needed(cut) >= memory.needed(None)


def string(text):
    return struct.pack("<Q", len(text)) + text


def header(*pairs, version=3, tensors=0, count=None):
    """Return a GGUF header of (key, type, bytes of the value)."""
    data = b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs) if count is None else count)
    return data + b"".join(
        string(key) + struct.pack("<I", kind) + value for key, kind, value in pairs
    )


LLAMA = (b"general.architecture", 8, string(b"llama"))


def numbers(**values):
    """Return a header of architecture llama with these numbers, as u64."""
    return header(
        LLAMA,
        *(
            (b"llama." + key.replace("__", ".").encode(), 10, struct.pack("<Q", value))
            for key, value in values.items()
        ),
    )


def test_arrays_in_arrays_are_refused_however_deep(tmp_path):
    path = tmp_path / "deep.gguf"
    path.write_bytes(header((b"a", 9, struct.pack("<IQ", 9, 1) * 100_000)))
    with pytest.raises(ValueError, match="arrays in arrays"):
        memory.read_metadata(path)
    with pytest.raises(memory.Refused, match="arrays in arrays"):
        memory.check(path)


def test_a_part_of_a_model_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "m-00001-of-00003.gguf"
    part = header(LLAMA, (b"split.count", 2, struct.pack("<H", 3)))
    path.write_bytes(part)
    memory.check(path)
    for name, words in (("m.gguf", "one of 3 parts"), ("m-00002-of-00003.gguf", "it is part 2")):
        other = tmp_path / name
        other.write_bytes(part)
        with pytest.raises(memory.Refused, match=words):
            memory.check(other)
    path.write_bytes(header(LLAMA, (b"split.count", 2, struct.pack("<H", 1))))
    memory.check(path)


@pytest.mark.parametrize(
    "values",
    [
        {
            "block_count": 2**31 - 1,
            "attention__head_count": 2**32 - 1,
            "attention__value_length": 2**30,
        },
        {"embedding_length": 2**64 - 1},
        {"feed_forward_length": 2**63},
        {"attention__head_count_kv": 2**64 - 1, "attention__key_length": 2**64 - 1},
    ],
)
def test_absurd_numbers_are_refused(tmp_path, values):
    path = tmp_path / "absurd.gguf"
    path.write_bytes(numbers(**values))
    with pytest.raises(memory.Refused, match="TiB"):
        memory.needed(path)


@pytest.mark.parametrize(
    "kind, value",
    [
        (8, string(b"30")),
        (6, struct.pack("<f", float("nan"))),
        (12, struct.pack("<d", 1e308)),
        (7, b"\1"),
        (7, b"\2"),
        (5, struct.pack("<i", -5)),
        (10, struct.pack("<Q", 0)),
        (9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", -1, 7, 0)),
        (9, struct.pack("<IQ", 6, 0)),
        (9, struct.pack("<IQ", 8, 1) + string(b"x")),
    ],
)
def test_values_of_other_types_do_not_upset_it(tmp_path, kind, value):
    path = tmp_path / "types.gguf"
    for key in ("block_count", "embedding_length", "attention.head_count", "attention.causal"):
        path.write_bytes(header(LLAMA, (b"llama." + key.encode(), kind, value)))
        assert memory.BASE // memory.MIB <= memory.needed(path) < 4096
    path.write_bytes(header((b"general.architecture", kind, value)))
    assert memory.BASE // memory.MIB <= memory.needed(path) < 4096


def test_the_largest_of_a_number_for_each_layer_counts(tmp_path):
    model = write_model(tmp_path / "m.gguf", kv_heads=[1] * 29 + [3], vocabulary=10)
    same = write_model(tmp_path / "s.gguf", kv_heads=3, vocabulary=10)
    assert memory.needed(model) == memory.needed(same)


@pytest.mark.parametrize(
    "content",
    [
        header(LLAMA, LLAMA),
        header(LLAMA, count=1 << 32),
        header(LLAMA, count=2**64 - 1),
        header(LLAMA, tensors=2**64 - 1),
        header((b"a", 13, b"")),
        header((b"a", 9, struct.pack("<IQ", 13, 1))),
        header((b"a", 9, struct.pack("<IQ", 8, 2**64 - 1))),
        header((b"a", 9, struct.pack("<IQ", 8, 1 << 22))),
        header((b"a", 9, struct.pack("<IQ", 8, 1) + struct.pack("<Q", 2**64 - 1))),
        header((b"a", 9, struct.pack("<IQ", 0, 2**64 - 1))),
        header((b"a", 9, struct.pack("<IQ", 0, 1 << 20))),
        header((b"a", 8, struct.pack("<Q", 1 << 20))),
        header(version=1),
        header(version=3 << 24),
    ],
    ids=range(14),
)
def test_a_header_that_ggml_does_not_read_gets_the_base(tmp_path, content):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        memory.read_metadata(path)
    memory.check(path)
    assert memory.needed(path) == memory.needed(None)


def test_a_header_without_end_is_given_up_soon(tmp_path):
    path = tmp_path / "long.gguf"
    content = header(LLAMA, (b"a", 9, struct.pack("<IQ", 8, 1 << 40)))
    path.write_bytes(content)
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # sparse: strings without a letter, 8 bytes each
    began = time.monotonic()
    with pytest.raises(ValueError):
        memory.read_metadata(path)
    assert time.monotonic() - began < 5


def test_damaged_headers_give_a_bounded_number_in_bounded_time(tmp_path):
    whole = write_model(tmp_path / "m.gguf", vocabulary=20).read_bytes()
    random_ = random.Random(1)
    path = tmp_path / "damaged.gguf"
    longest = 0
    for _ in range(1500):
        content = bytearray(whole)
        for _ in range(random_.choice((1, 1, 2, 8))):
            at = random_.randrange(len(content))
            what = random_.randrange(4)
            if what == 0:
                content[at] ^= 1 << random_.randrange(8)
            elif what == 1:
                content[at : at + 8] = random_.choice(
                    (b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f")
                )
            elif what == 2:
                del content[at : at + random_.randrange(1, 64)]
            else:
                other = random_.randrange(len(content))
                content[at:at] = content[other : other + random_.randrange(1, 64)]
            content = content or bytearray(b"G")
        path.write_bytes(content)
        began = time.monotonic()
        try:
            memory.check(path)
            assert 0 < memory.needed(path) <= memory.LARGEST
        except ValueError:
            pass
        longest = max(longest, time.monotonic() - began)
    assert longest < 2
