# Runs after every reset, before main.py and before the raw REPL: mounts the boot modules.
import vfs

vfs.mount(vfs.VfsPosix("/boot"), "/boot")
