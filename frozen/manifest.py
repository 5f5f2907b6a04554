"""What is frozen into the image.

Arrows between packages point down only: serve -> httpd -> (asyncio, socket); net -> drivers -> C
modules.
"""
# SPDX-License-Identifier: MIT

# The files of extmod/asyncio/manifest.py, but with line numbers, for the backtraces of a server
# that runs in asyncio. task.py is a C module.
package(
    "asyncio",
    ("__init__.py", "core.py", "event.py", "funcs.py", "lock.py", "stream.py"),
    base_path="$(MPY_DIR)/extmod",
)
module("uasyncio.py", base_path="$(MPY_DIR)/extmod/asyncio")
package("drivers")
package("net")
package("httpd")
package("serve")
freeze("lib")  # modules under MicroPython's names, such as socket; and cllm
freeze("boot")  # _boot.py and main.py, which run in this order, and what they use
