"""What the benchmark measures: the rows of its table, and the load for each."""

import dataclasses

from cllm import CllmError

from .results import Row

GGML = "ggml-"  # prefix of the rows that measure cllm with ggml's kernels beside its own
E1000 = "e1000-"  # prefix of the row that boots both guests with QEMU's e1000
BOOT_ROWS = {
    prefix + key
    for prefix in ("", GGML, E1000)
    for key in ("http", "ready", "first-token", "memory", "beyond")
}


@dataclasses.dataclass(frozen=True)
class Load:
    """How much is asked of a guest in one row, for all its streams together.

    prompt: words. decode: tokens that are timed. Rates can be compared whatever the counts are; the
    table shows the counts.
    """

    prompt: int
    decode: int

    def of(self, n_streams: int) -> tuple[int, int]:
        """Return (words of each prompt, decode calls) for that many streams."""
        return max(1, self.prompt // n_streams), max(1, self.decode // n_streams)

    def times(self, factor: float) -> "Load":
        return Load(round(factor * self.prompt), round(factor * self.decode))


# By accelerator and kernels: under emulation, ggml's take several seconds for a token.
LOADS = {
    "tcg": {"ggml": Load(3, 2), "exact": Load(8, 8), "tcg": Load(48, 32)},
    "kvm": dict.fromkeys(("ggml", "exact", "tcg"), Load(256, 64)),
}
# Words of the prompt that arrives while another stream runs. A server that reads a prompt in one
# piece has a gap as long as the prompt, so both servers get the same one.
LONG_PROMPT = {"tcg": 4, "kvm": 1024}


@dataclasses.dataclass(frozen=True)
class Turn:
    """One boot in a round: which guest, and which rows it fills.

    prefixes: of the keys of these rows. nic: the network card, of qemu.CARDS.
    """

    guest: str
    kernels: str
    prefixes: tuple[str, ...]
    nic: str = "virtio"


def rows(streams: list[int]) -> list[Row]:
    """Return all rows in the order of the table. streams: how many run at a time, one row each."""
    made = [
        Row("http", "power-on to first HTTP answer", "s", less=True),
        Row(E1000 + "http", "the same with an e1000", "s", less=True),
        Row("ready", "power-on to model ready", "s", less=True),
        Row("first-token", "power-on to first token", "s", less=True),
    ]
    ggml = [Row(GGML + "first-token", "ggml's kernels: power-on to first token", "s", less=True)]
    for n in streams:
        noun = "stream" if n == 1 else "streams"
        made.append(Row(f"prompt-{n}", f"prompts, {n} {noun}", "tokens/s"))
        made.append(Row(f"decode-{n}", f"decoding, {n} {noun}", "tokens/s"))
        if n == min(streams):
            for row in made[-2:]:
                ggml.append(Row(GGML + row.key, f"ggml's kernels: {row.name}", row.unit))
    return made + [
        Row("gap", "worst gap in a stream while a prompt is read", "s", less=True),
        Row("health-kept", "/health, one connection", "requests/s"),
        Row("health-new", "/health, new connections", "requests/s"),
        Row("bytes-in", "one connection into the guest", "MiB/s"),
        Row("bytes-out", "one connection out of the guest", "MiB/s"),
        Row("smallest", "smallest -m that serves", "MiB", less=True),
        Row("memory", "QEMU's resident memory at the first token", "MiB", less=True),
        Row("beyond", "of it beyond the model", "MiB", less=True),
        Row("image", "image without the model", "MiB", less=True, exact=True),
        *ggml,
        Row(GGML + "beyond", "ggml's kernels: memory beyond the model", "MiB", less=True),
    ]


def chosen(made: list[Row], only: list[str] | None, skip: list[str]) -> set[str]:
    """Return the keys of the rows that are wanted.

    only, skip: keys, or beginnings of keys. Raises CllmError for one that no row has.
    """
    keys = [row.key for row in made]

    def named(name: str) -> set[str]:
        found = {key for key in keys if key == name or key.startswith(name)}
        if not found:
            raise CllmError(f"no row is called {name}; there are {', '.join(keys)}")
        return found

    wanted = set().union(*map(named, only)) if only else set(keys)
    return wanted - set().union(*map(named, skip))
