"""Types of GPT partitions and their names, for the image and for the host's tools that make disks.

Plain Python that imports nothing.
"""
# SPDX-License-Identifier: MIT

# UEFI 2.10, 5.3.3, table 5.7.
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
# "Basic data", which most partitions with FAT have.
DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
# Our own. A model: the file from the first byte on, whose name is the partition's.
MODEL = "9729B651-2B80-47DE-B9CB-6FD6E811E8F7"
# LittleFS2, or nothing yet: /flash.
FLASH = "27A10CEB-C6A4-47C7-9961-72A529E838BC"

FLASH_NAME = "flash"
# The label of the FAT volume with cllm.json, apps/ and models/, and its partition's name.
VOLUME_NAME = "CLLM"
# LittleFS2 as MicroPython makes it: bytes of a block and of the least write.
FLASH_BLOCK = 4096
FLASH_PROG = 512
