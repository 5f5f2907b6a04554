"""Entry point of `cllm test-upstream`: `.venv/bin/python -m upstream`."""

import sys

from upstream.main import main

sys.exit(main())
