# SPDX-License-Identifier: BSD-3-Clause
"""What kind of file system a folder is on, and which machine this is."""

from __future__ import annotations

import functools
import os
import re
import socket

#: File systems whose files only this machine changes.
_OF_THIS_MACHINE = frozenset(
    {
        *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay"),
        *("ramfs", "reiserfs", "tmpfs", "vfat", "xfs", "zfs"),
    }
)

#: File systems that several machines mount.
_SHARED = frozenset(
    {
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "dvs", "gfs2", "gpfs", "lustre", "nfs"),
        *("nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "quobyte", "smb3", "virtiofs", "wekafs"),
        *("fuse.beegfs", "fuse.ceph", "fuse.dfuse", "fuse.glusterfs", "fuse.juicefs"),
        "fuse.sshfs",
    }
)

_OCTAL = re.compile(r"\\([0-7]{3})")


def kind_of(path: str) -> str:
    """Return the type of the file system that a path is on, as the kernel names it.

    Empty if it cannot be found out.
    """
    wanted = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
                inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):  # a later one hides the earlier
                    best, kind = point, rest.split()[0]
    except (OSError, IndexError):
        return ""
    return kind


def is_of_this_machine(path: str) -> bool:
    """Return True if surely no other machine changes files here."""
    return kind_of(path) in _OF_THIS_MACHINE


def is_shared(path: str) -> bool:
    """Return True if the file system is one that machines share."""
    return kind_of(path) in _SHARED


@functools.cache
def machine() -> str:
    """Return a text that is another one on each machine, and after each boot."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return socket.gethostname()
