"""Entry point of `cllm bench`: `.venv/bin/python bench` runs this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))

from versus.main import main  # noqa: E402

sys.exit(main())
