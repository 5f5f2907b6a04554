"""`cllm licenses`: licence texts of all components of the image, and of the model.

They are read from the fetched trees, from which the image is built. Where the CUDA backend was
built, its compiler's and NVIDIA's texts follow: the pack of PTX has code of libdevice.
"""

from pathlib import Path

from . import TOP, CllmError, build, cuda, fetch
from .lock import locks

# (component, tree, text inside it). Trees: the vendored ones by short name, and zig.
LINKED = (
    ("MicroPython", "micropython", "LICENSE"),
    ("llama.cpp and ggml", "llama.cpp", "LICENSE"),
    ("JSON for Modern C++", "llama.cpp", "licenses/LICENSE-jsonhpp"),
    ("Mbed TLS", "mbedtls", "LICENSE"),
    ("compiler-rt, as part of zig", "zig", "LICENSE"),
    ("musl", "zig", "lib/libc/musl/COPYRIGHT"),
    ("libc++", "zig", "lib/libcxx/LICENSE.TXT"),
    ("libc++abi", "zig", "lib/libcxxabi/LICENSE.TXT"),
    ("libunwind", "zig", "lib/libunwind/LICENSE.TXT"),
)


def report() -> str:
    """Return the whole text: cllm's own licence, then each component's, with its path."""
    vendored = locks()
    parts = [_part("cllm", TOP / "LICENSE")]
    for component, tree, name in LINKED:
        folder = build.zig().parent if tree == "zig" else fetch.ensure(vendored[tree])
        parts.append(_part(component, folder / name))
    model = fetch.ensure(vendored["model"])
    for path in sorted(model.glob("*.dist-info/LICENSE")):
        parts.append(_part(f"the default model ({vendored['model'].name})", path))
    parts += [_part(component, path) for component, path in cuda.licences()]
    return "\n".join(parts)


def _part(component: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CllmError(f"no licence text of {component}: {path}: {error.strerror}") from None
    return f"{'=' * 79}\n{component}\n{path}\n{'=' * 79}\n{text}"
