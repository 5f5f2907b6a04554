# What is frozen into the image. Arrows between packages point down only:
# serve -> httpd -> (asyncio, socket) ; net -> drivers -> C modules.
include("$(MPY_DIR)/extmod/asyncio")
package("drivers")
package("net")
package("httpd")
package("serve")
freeze("api")   # modules under the names MicroPython gives them: socket, network; and cllm
freeze("boot")  # _boot.py, main.py, ramdisk.py
