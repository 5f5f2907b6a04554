"""Runs the commands of a build one after another: output to logs, progress to the user."""

import shlex
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from . import TOP, CllmError
from .progress import Progress

LOGS = TOP / "build" / "log"
TAIL_LINES = 40  # lines of a failed step's output that are shown; its log has all


class Steps:
    """Runs commands; the output of each is in `folder`/STEP.log, and a failure shows its end."""

    def __init__(self, folder: Path = LOGS, stream: TextIO | None = None) -> None:
        self.folder = folder
        self.progress = Progress(stream)

    def run(
        self,
        title: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Run `command`; raises CllmError when it cannot be started or fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / (title.replace(" ", "-") + ".log")
        words = [str(word) for word in command]
        last: deque[str] = deque(maxlen=TAIL_LINES)
        try:
            with self.progress.task(title) as task, open(log, "w") as file:
                file.write("$ " + shlex.join(words) + "\n")
                with subprocess.Popen(
                    words,
                    env=environment,
                    text=True,
                    errors="replace",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                ) as process:
                    assert process.stdout
                    for line in process.stdout:
                        file.write(line)
                        last.append(line)
                        task.update(text=line.strip())
                if process.returncode != 0:
                    raise CllmError(
                        f"{title} failed (status {process.returncode}); all of it: {log}"
                    )
        except OSError as error:
            raise CllmError(f"{title}: cannot run {words[0]}: {error.strerror}") from None
        except CllmError:
            self.progress.stream.write("".join(last))
            raise
