"""The default of --memory follows the model's own metadata, and survives any file."""

import struct

import gguf
import pytest
from cllm import memory


def write_model(path, architecture="llama", *, layers=30, kv_heads=3, vocabulary=49152):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(576)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(9)
    writer.add_head_count_kv(kv_heads)
    writer.add_token_list([f"t{i}" for i in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
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
    assert abs((large - small) - cells / memory.MIB) <= memory.STEP


def test_metadata_per_layer_does_not_upset_it(tmp_path):
    model = write_model(tmp_path / "m.gguf", kv_heads=[3] * 30, vocabulary=10)
    assert memory.needed(model) >= memory.needed(None)


def test_no_model():
    assert memory.needed(None) * memory.MIB == memory.BASE


@pytest.mark.parametrize("content", [
    b"", b"GGUF", b"PK\3\4 no model", b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
    b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60),
    b"GGUF" + struct.pack("<IQQQ4sIIQ", 3, 0, 1, 4, b"name", 9, 9, 1 << 40),
])
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
