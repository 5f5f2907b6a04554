"""The parts of bench/ that run no guest: statistics, the table, options, the archive, the plot."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from cllm import TOP, CllmError, extras
from support import tiny_model
from versus import bench, cpio, linux, main, measure, models, options, plot, results, rows, sweep
from versus.smallest import STEP, search


def row(linux_values, cllm_values, **options):
    made = results.Row("key", "name", "s", **options)
    made.values = {"linux": linux_values, "cllm": cllm_values}
    return made


def test_a_ratio_is_that_of_the_medians_and_says_how_many_times_better():
    assert row([10, 30, 20], [2, 1, 90], less=True).ratio() == 10
    assert row([10, 20], [30, 30]).ratio() == 2


def test_the_range_of_a_ratio_is_that_of_the_rounds():
    assert row([10, 20], [1, 4], less=True).ratio_spread() == (5, 10)


@pytest.mark.parametrize("values", [([1], [2, 3]), ([1, 2], [3]), ([1], [2]), ([], [])])
def test_one_run_gives_no_ratio(values):
    made = row(*values)
    assert made.ratio() is None and made.ratio_spread() is None
    assert made.as_json()["ratio"] is None


def test_the_table_says_how_many_tokens_were_timed():
    made = row([], [])
    made.add("linux", 1, 4)
    made.add("cllm", 2, 16)
    assert "name, s (of 4 and 16)" in results.table([made])
    assert "name, s (of 4 and 16)" in results.markdown([made])


def test_the_table_says_that_one_run_was_one_run():
    line = results.table([row([1], [2])]).splitlines()[1]
    assert line.split()[-2:] == ["one", "run"]


def test_a_property_of_files_needs_no_second_run():
    assert row([20], [5], less=True, exact=True).ratio() == 4


def test_a_median_of_nothing_gives_no_ratio():
    assert row([0, 0], [1, 1], less=True).ratio() is None


def test_a_row_without_values_is_not_in_the_table():
    empty = row([], [])
    empty.name = "nobody asked"
    text = results.table([empty, row([1, 2], [3, 4])])
    assert "nobody asked" not in text and len(text.splitlines()) == 2


def test_columns_of_the_table_line_up():
    long = row([1, 2], [3, 4])
    long.name = "a name that is longer"
    widths = {len(line) for line in results.table([long, row([1000, 2000], [3, 4])]).splitlines()}
    assert len(widths) == 1


@pytest.mark.parametrize(
    "value, text",
    [
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (0, "0"),
        (None, "-"),
        (5678.9, "5679"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert results.number(value) == text


def test_rows_are_chosen_by_name_or_by_how_it_begins():
    made = rows.rows([1, 4])
    assert rows.chosen(made, ["decode"], []) == {"decode-1", "decode-4"}
    assert rows.chosen(made, ["health-new", "http"], ["http"]) == {"health-new"}
    assert "gap" not in rows.chosen(made, None, ["gap"])


def test_a_row_that_does_not_exist_is_named():
    with pytest.raises(CllmError, match="speed.*health-kept"):
        rows.chosen(rows.rows([1]), ["speed"], [])


@pytest.mark.parametrize(
    "words", [["--rounds", "0"], ["--streams", "1,x"], ["--accel", "hyper"], ["--mib", "-1"]]
)
def test_options_that_make_no_sense_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        options.make_parser().parse_args(words)
    assert words[0] in capsys.readouterr().err


def test_streams_are_sorted_and_different():
    assert options.make_parser().parse_args(["--streams", "8,1,8"]).streams == [1, 8]


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(capsys):
    assert main.main(["--json", "/nowhere/at/all.json"]) == 1
    assert "/nowhere/at/all.json" in capsys.readouterr().err


def events(*times):
    return [(at, 1) for at in times]


def test_streams_are_timed_from_where_the_last_one_began():
    # The first stream is a token ahead; the tokens of one call come one after the other.
    ahead, behind = events(1, 3.1, 5.1, 7.1), events(3, 5, 7)
    assert measure.side_by_side([ahead, behind], 2) == (4, pytest.approx(1.0))
    assert measure.side_by_side([behind, ahead], 1) == (2, pytest.approx(1.0))


def test_guesses_that_were_right_count_as_tokens():
    assert measure.side_by_side([[(0, 1), (2, 3), (4, 1)]], 2) == (4, pytest.approx(1.0))


@pytest.mark.parametrize(
    "streams",
    [[events(1, 2, 3), []], [events(1, 2, 3), events(3)], [events(1, 2, 3, 4), events(4, 5, 6)]],
)
def test_streams_are_not_timed_before_each_has_enough_tokens(streams):
    assert measure.side_by_side(streams, 2) is None


def test_prompts_of_different_requests_begin_differently():
    firsts = {tuple(measure.prompt(label, 5).split()[:3]) for label in range(20000)}
    assert len(firsts) == 20000
    assert len({measure.prompt(label, 1) for label in range(29)}) == 29
    assert [len(measure.prompt(7, n).split()) for n in (1, 2, 3, 4, 50)] == [1, 2, 3, 4, 50]


@pytest.mark.parametrize("n, words, steps", [(1, 12, 16), (4, 3, 4), (8, 1, 2), (32, 1, 1)])
def test_streams_share_what_is_asked_of_a_guest(n, words, steps):
    assert rows.Load(12, 16).of(n) == (words, steps)


def smallest(needed, guess):
    """Return the least memory where `needed` MiB serve, and the sizes that were tried."""
    tried = []

    def serves(sizes):
        tried.extend(sizes)
        return [size >= needed for size in sizes]

    return search(serves, guess, 1024, "cllm"), tried


@pytest.mark.parametrize("guess", [8, 96, 168, 176, 184, 320, 1000])
@pytest.mark.parametrize("needed", [9, 170, 176, 1020])
def test_the_smallest_memory_is_found_from_any_guess(needed, guess):
    found, tried = smallest(needed, guess)
    assert found - STEP < needed <= found <= 1024
    assert len(tried) < 24


def test_a_good_guess_is_confirmed_from_both_sides():
    found, tried = smallest(176, 176)
    assert found == 176 and sorted(tried) == [168, 176]


def test_a_guest_that_never_serves_is_said_so():
    with pytest.raises(CllmError, match="1024 MiB"):
        smallest(5000, 176)


def test_the_archive_is_what_cpio_reads(tmp_path):
    data = cpio.archive(
        [
            cpio.folder("bin"),
            cpio.file("bin/program", b"\x7fELF!", 0o755),
            cpio.file("odd", b"x" * 7),
            cpio.link("bin/sh", "program"),
        ]
    )
    # Read back field by field, by the layout in the kernel's documentation.
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) // 4 * 4
        at = (start + size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        found[name] = (mode, data[start : start + size])
    assert found == {
        "bin": (0o040755, b""),
        "bin/program": (0o100755, b"\x7fELF!"),
        "odd": (0o100644, b"x" * 7),
        "bin/sh": (0o120777, b"program"),
    }
    assert at == len(data)


def module(*needed):
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


def test_drivers_come_after_what_they_need():
    modules = {
        "a.ko": module("b-part", "c"),
        "b_part.ko": module("c"),
        "c.ko": module(),
        "other.ko": module(),
    }
    assert list(linux.in_order(modules, ["a", "built_into_the_kernel"])) == [
        "c.ko",
        "b_part.ko",
        "a.ko",
    ]


def test_each_guest_loads_the_drivers_of_its_card_only(tmp_path, monkeypatch):
    net = "lib/modules/6/kernel/drivers/net/"
    files = {
        "boot/vmlinuz-6": b"kernel",
        net + "virtio_net.ko": module("net_failover"),
        net + "net_failover.ko": module("failover"),
        "lib/modules/6/kernel/net/core/failover.ko": module(),
        net + "ethernet/intel/e1000/e1000.ko": module(),
        net + "tun.ko": module(),
    }
    monkeypatch.setattr(
        linux,
        "_members",
        lambda package, wanted: {path: data for path, data in files.items() if wanted(path)},
    )
    kernel, drivers, orders = linux._kernel_parts(tmp_path)
    assert kernel == b"kernel" and "tun.ko" not in drivers
    assert orders["virtio"] == ["failover.ko", "net_failover.ko", "virtio_net.ko"]
    assert orders["e1000"] == ["e1000.ko"]


def test_both_guests_boot_once_more_with_an_e1000_when_that_row_is_wanted(monkeypatch):
    monkeypatch.setattr(bench, "Guests", lambda _: None)
    asked = options.make_parser().parse_args(["--accel", "kvm"])
    made = rows.rows([1])
    with_it, without = (bench.Bench(asked, made, {key}) for key in ("e1000-http", "http"))
    assert [(turn.guest, turn.nic) for turn in with_it.turns][2:] == [
        ("linux", "e1000"),
        ("cllm", "e1000"),
    ]
    assert all(turn.nic == "virtio" for turn in without.turns)


def test_the_locked_packages_are_named_to_the_bit():
    lock = json.loads((TOP / "bench" / "linux" / "lock.json").read_text())
    for entry in (lock["kernel"], lock["busybox"]):
        assert len(bytes.fromhex(entry["sha256"])) == 32 and entry["version"] and entry["newest"]


def test_a_package_that_is_none_is_said_so(tmp_path):
    path = tmp_path / "kernel.deb"
    path.write_bytes(b"no package")
    with pytest.raises(CllmError, match="no Debian package"):
        linux._kernel_parts(path)


SVG = "{http://www.w3.org/2000/svg}"


def drawn(picture, tmp_path):
    """Draw a picture; returns the pieces of text in it."""
    if not extras.PLOTS.is_current():
        pytest.skip("no build/plots: `cllm test` makes it where PyPI can be reached")
    plot.draw(picture, str(tmp_path / "plot.svg"))
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    return ["".join(element.itertext()) for element in root.iter(SVG + "text")]


def test_the_plot_has_a_bar_for_every_ratio(tmp_path):
    about = {"model": "a<b.gguf", "accel": "tcg", "smp": 1, "memory_mib": 512}
    made = [row([10, 20], [1, 1], less=True), row([1], [1]), row([1, 1], [0.5, 0.5])]
    picture = plot.ratios(made, about)
    assert [bar["ratio"] for bar in picture["bars"]] == [15, 0.5]
    text = drawn(picture, tmp_path)
    assert {"15.0", "0.500"} <= set(text) and any("a<b.gguf" in line for line in text)


def point(model, smp, streams, n_rounds=2):
    """Return a point of a sweep, in the shape of Bench.as_json()."""
    keys = ["first-token", "beyond"] + [
        f"{kind}-{n}" for kind in ("prompt", "decode") for n in streams
    ]
    rows = [
        {
            "key": key,
            "name": key,
            "unit": "s",
            "better": "more",
            "linux": [1.0] * n_rounds,
            "cllm": [3.0, 4.0][:n_rounds],
        }
        for key in keys
    ]
    return {
        "model": model,
        "smp": smp,
        "streams": streams,
        "rows": rows,
        "accel": "tcg",
        "kernels": "exact",
    }


POINTS = (
    ("random-15M.gguf", 1, [1, 32]),
    ("random-55M.gguf", 1, [1]),
    ("SmolLM2-135M-Instruct.Q4_1.gguf", 1, [1]),
    ("random-55M.gguf", 2, [1]),
)


def test_a_sweep_has_panels_by_size_by_cores_and_by_streams():
    panels = sweep.panels([point(*of) for of in POINTS])
    names = [[[name for name, _ in points] for _, _, points in line] for line in panels]
    assert names == [[["15M", "55M", "135M"]] * 3, [[1, 2]] * 3, [[1, 32]] * 2]


@pytest.mark.parametrize("n_rounds, ratios", [(2, 19), (1, 0)])
def test_the_plot_of_a_sweep_has_all_points_and_no_ratio_of_a_single_run(
    n_rounds, ratios, tmp_path
):
    done = [point(*of, n_rounds) for of in POINTS]
    picture = plot.lines(sweep.panels(done), done)
    points = [p for line in picture["panels"] for panel in line for p in panel["guests"]["cllm"]]
    # Three sizes, two core counts and two stream counts.
    assert len(points) == 3 * 3 + 3 * 2 + 2 * 2
    median, most = {1: (3, 3), 2: (3.5, 4)}[n_rounds]
    assert points[0] == {"median": median, "least": 3, "most": most}
    assert drawn(picture, tmp_path).count("3.50") == ratios


def test_a_sweep_on_a_host_with_one_core_has_one_core(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(sweep, "_model", lambda size, like: tmp_path / size)
    asked = options.make_parser().parse_args(["--sweep"])
    assert [of.smp for of in sweep.points(asked, tmp_path / "model")] == [1, 1, 1]
    assert asked.only is None  # what was asked for is not changed


def test_a_model_of_another_size_has_the_vocabulary_of_the_given(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    tiny_model.make(tmp_path / "tiny.gguf")
    monkeypatch.setitem(models.SHAPES, "1M", (2, 1, 2))
    models.make(tmp_path / "made.gguf", tmp_path / "tiny.gguf", "1M")
    like, made = (gguf.GGUFReader(str(tmp_path / name)) for name in ("tiny.gguf", "made.gguf"))
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.chat_template"):
        assert made.fields[key].contents() == like.fields[key].contents()
    tensors = {tensor.name: tensor for tensor in made.tensors}
    assert list(tensors["blk.1.attn_k.weight"].shape) == [128, 64]
    for name, kind in (("blk.0.ffn_down.weight", "Q4_1"), ("token_embd.weight", "Q8_0")):
        assert tensors[name].tensor_type.name == kind
        values = gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        assert abs(values.mean()) < 0.001 and 0.018 < values.std() < 0.022


def test_help_works_through_the_command():
    command = [sys.executable, str(TOP / "host"), "bench", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0 and "--linux-cpu" in ended.stdout
