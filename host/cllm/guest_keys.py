"""frozen/serve/config_keys.py on the host: the table of the guest's configuration, `keys`."""

import importlib.util

from . import TOP

_spec = importlib.util.spec_from_file_location(
    "cllm_config_keys", TOP / "frozen/serve/config_keys.py"
)
assert _spec and _spec.loader
keys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(keys)
