"""Entry point of the `cllm` command: `.venv/bin/cllm` runs this folder."""

import sys

from cllm.cli import main

sys.exit(main())
