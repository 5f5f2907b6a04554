"""Runs after every reset, before main.py and before the raw REPL: mounts the file system for
scripts at / and the boot modules, read-only, at /boot.
"""
# SPDX-License-Identifier: MIT

import os
import vfs

import ramdisk

ramdisk.mount()
vfs.mount(vfs.VfsPosix("/boot"), "/boot")
os.chdir("/")
del os, ramdisk, vfs
