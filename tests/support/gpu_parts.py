"""What tests of the CUDA backend need beyond the image, and why it may be missing."""

import os

from cllm import build, cuda, gpud

# For engine and guest: the image's archives, the pack, the daemon.
ALL = (build.GPU_IMAGE, build.BUILD / "native" / "libs-gpu.txt", cuda.PACK, gpud.PROGRAM)
BACKEND = (*cuda.ARCHIVES, cuda.PACK)


def missing(paths):
    """Return why a test that needs `paths` cannot run, "" if all of them are there.

    CLLM_NO_CUDA is what `cllm test` says about a toolchain that cannot be had.
    """
    absent = [path.name for path in paths if not path.exists()]
    if not absent:
        return ""
    reason = os.environ.get("CLLM_NO_CUDA") or "`cllm build --gpu` makes it"
    return f"there is no {absent[0]}: {reason}"
