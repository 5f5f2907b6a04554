"""cllm on the developer's machine: fetch sources, build the image, boot it in QEMU."""

from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
VERSION = (TOP / "VERSION").read_text().strip()


class CllmError(Exception):
    """Stops a command with a message that says what to do; never a traceback."""
