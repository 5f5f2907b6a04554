"""The table of function names: short C++ names, and reading them as the guest does."""

import random
import struct

import pytest
from cllm import symbols


@pytest.mark.parametrize(
    "full, short",
    [
        ("main", "main"),
        (
            "std::__1::vector<int, std::__1::allocator<int> >::push_back(int const&)",
            "std::vector::push_back",
        ),
        ("void ggml::cpu::repack<block, 4l>(ggml_tensor*, void const*)", "ggml::cpu::repack"),
        (
            "(anonymous namespace)::tinyBLAS<8, float>::gemm(long) const",
            "{anonymous}::tinyBLAS::gemm",
        ),
        ("operator new(unsigned long)", "operator new"),
        ("bool a::operator<< <b>(c<b> const&)", "a::operator<<"),
        ("std::function<void (int)>::operator()(int) const", "std::function::operator()"),
        ("foo[abi:ne220000](int)", "foo"),
    ],
)
def test_names_are_shortened_to_what_one_reads(full, short):
    assert symbols.shorten(full) == short


def read(table, pc):
    """What kernel/symbols.c does."""
    magic, count, end = struct.unpack_from("<4sII", table)
    assert magic == b"SYMS"
    groups = -(-count // symbols.GROUP)
    index = [struct.unpack_from("<II", table, 12 + 8 * i) for i in range(groups)]
    if not count or not index[0][0] <= pc < end:
        return None
    group = max(i for i in range(groups) if index[i][0] <= pc)
    address, at = index[group]
    name, found = b"", None
    for _ in range(min(symbols.GROUP, count - group * symbols.GROUP)):
        delta = shift = 0
        while True:
            delta |= (table[at] & 0x7F) << shift
            shift += 7
            at += 1
            if not table[at - 1] & 0x80:
                break
        address += delta
        if address > pc:
            break
        shared, more = table[at], table[at + 1]
        name = name[:shared] + table[at + 2 : at + 2 + more]
        at += 2 + more
        found = name.decode(), pc - address
    return found


def test_every_name_comes_back_from_the_table():
    rng = random.Random(1)
    address, entries = 0x200000, []
    for i in range(1000):
        address += rng.choice([1, 16, 127, 128, 5000, 70000])
        entries.append((address, "ns::" * rng.randrange(4) + "f%d" % i + "x" * rng.randrange(300)))
    table = symbols.table(entries, address + 64)
    for address, name in entries:
        assert read(table, address) == (name[: symbols.LONGEST], 0)
    assert read(table, entries[7][0] + 1)[1] == 1 or entries[8][0] == entries[7][0] + 1
    assert read(table, entries[0][0] - 1) is None
    assert read(table, entries[-1][0] + 64) is None
