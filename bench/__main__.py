"""Entry point of `cllm bench`: `.venv/bin/python bench` runs this folder."""

import sys

from versus.main import main

sys.exit(main())
