# What is frozen into the image. Arrows between packages point down only:
# serve -> httpd -> (asyncio, socket) ; net -> drivers -> C modules.
# As extmod/asyncio/manifest.py has it, but with line numbers, for the backtraces of a server that
# runs in asyncio; task.py is a C module.
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
freeze("api")   # modules under the names MicroPython gives them: socket, network; and cllm
freeze("boot")  # _boot.py, main.py, power.py, ramdisk.py, report.py, wallclock.py
