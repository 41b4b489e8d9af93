# SPDX-License-Identifier: BSD-3-Clause
"""Memory that values are received into, and renaming as the kernel can do it."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np

_AT_FDCWD = -100
_EXCHANGE = 2


def fresh(size: int) -> memoryview:
    """Return new memory of `size` bytes that nobody has filled."""
    if not size:
        return memoryview(bytearray())
    return memoryview(np.empty(size, np.uint8))  # type: ignore[arg-type]  # numpy's stubs < 3.12


def exchange(first: str, second: str) -> bool:
    """Have two files swap their names, in one step; False where that cannot be done.

    Raises
    ------
    FileNotFoundError
        One of them is not there.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE) == 0:
        return True
    import ctypes

    code = ctypes.get_errno()
    if code == 2:
        raise FileNotFoundError(code, os.strerror(code), first, None, second)
    return False


@functools.cache
def _renameat2() -> Any:
    try:
        import ctypes

        return ctypes.CDLL(None, use_errno=True).renameat2
    except (ImportError, AttributeError):  # a Python without ctypes, a C library without it
        return None
