# SPDX-License-Identifier: BSD-3-Clause
"""Keys as names of files, and back.

Most keys are their own file name. ``/``, ``%``, control characters and a first dot are
written as ``%`` and two hexadecimal digits; a key that gets too long by that is ``%=``
and its URL-safe base64. Names that begin with a dot are not keys.
"""

from __future__ import annotations

import base64
import re

#: Bytes in a file name, on every file system that matters.
_LONGEST_NAME = 240

_SPECIAL = re.compile(r"[/%\x00-\x1f\x7f]|^\.")
_QUOTED = re.compile(r"%([0-9A-F]{2})")


def file_name(key: str) -> str:
    """Return the name of a key's file; the key was checked before."""
    name = _SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", key)
    if len(name.encode()) > _LONGEST_NAME:
        return "%=" + base64.urlsafe_b64encode(key.encode()).decode()
    return name


def key_of(name: str) -> str | None:
    """Return the key of a file's name; None for a file that is not ours."""
    if name.startswith("."):
        return None
    try:
        if name.startswith("%="):
            key = base64.b64decode(name[2:], b"-_", validate=True).decode()
        else:
            key = _QUOTED.sub(lambda found: chr(int(found[1], 16)), name)
        return key if key and file_name(key) == name else None
    except ValueError:  # no base64, or bytes that are no UTF-8
        return None
