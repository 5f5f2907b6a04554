"""Runs after every reset, before main.py and before the raw REPL: mounts the file system for
scripts at /, the boot modules, read-only, at /boot, and what is on disks.
"""
# SPDX-License-Identifier: MIT

import os
import vfs

import disks
import ramdisk

ramdisk.mount()
vfs.mount(vfs.VfsPosix("/boot"), "/boot")
os.chdir("/")
disks.start()
del disks, os, ramdisk, vfs
