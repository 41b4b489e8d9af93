# SPDX-License-Identifier: BSD-3-Clause
"""Mappings of files that hold no descriptor open, and huge pages for them.

``mmap.mmap`` duplicates the descriptor that it is given and keeps it as long as the
mapping (until ``trackfd=False`` of Python 3.13): a thousand arrays in use would be a
thousand open files, which is all that many systems allow. Nor can it choose an address,
and huge pages need one that is a multiple of their size. So memory is mapped by the C
library's own call.
"""

from __future__ import annotations

import functools
import mmap
import os
import struct
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def map_private(path: str, size: int, on_release: Callable[[], None] | None = None) -> memoryview:
    """Map a file privately: changes to the memory reach neither file nor other readers.

    Parameters
    ----------
    path : str
        The file.
    size : int
        Bytes, from its beginning; at most the length of the file.
    on_release : callable, optional
        Called when the last view of the memory is gone, from any thread and also in the
        middle of other code, by the garbage collector: it must not wait for a lock.

    Raises
    ------
    OSError
        The file is gone, or there is no room for another mapping.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return map_file(fd, size, shared=False, on_release=on_release)
    finally:
        os.close(fd)


def map_file(
    fd: int, size: int, *, shared: bool, on_release: Callable[[], None] | None = None
) -> memoryview:
    """Map an open file for reading and writing; the descriptor may be closed afterwards.

    Parameters
    ----------
    fd, size, on_release
        See :func:`map_private`.
    shared : bool
        Whether what is written reaches the file.

    Raises
    ------
    OSError
        There is no room for another mapping.
    """
    memory = _map(fd, size, shared)
    if on_release is not None:
        weakref.finalize(memory, on_release).atexit = False
    return memoryview(memory).cast("B")[:size]


#: ``madvise`` advice of Linux 6.1; see madvise(2).
_MADV_COLLAPSE = 25
_HUGE_BYTES = 2 << 20
_MAP_FIXED = 0x10
_FAILED = (1 << (8 * struct.calcsize("P"))) - 1


def use_huge_pages(memory: memoryview, size: int) -> None:
    """Ask the kernel to hold the first `size` bytes of a shared mapping in huge pages.

    Whoever maps the file from then on has its pages with a few faults instead of one
    for every 4 KiB, which takes as long as copying the memory. Does nothing where the
    kernel cannot or may not do it. The cost, about two copies, is paid here.

    Parameters
    ----------
    memory : memoryview
        From :func:`map_file`, all of `size` written before.
    size : int
        Bytes; what is beyond the last full 2 MiB stays as it is.
    """
    size -= size % _HUGE_BYTES
    if not size:
        return
    try:
        import ctypes
    except ImportError:
        return
    _libc().madvise(ctypes.addressof(ctypes.c_char.from_buffer(memory)), size, _MADV_COLLAPSE)


def _map(fd: int, size: int, shared: bool) -> Any:
    """Return an object that exports the memory and unmaps it when it is collected."""
    try:
        import ctypes
    except ImportError:  # a Python built without it
        return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if shared else mmap.ACCESS_COPY)
    # Rounded up, so that there are few types; what is behind the file's end is not shown.
    length = 1 << max(size - 1, mmap.PAGESIZE - 1).bit_length()
    address = _place(fd, length, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    if address is None:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")
    memory = _array_type(length).from_address(address)
    weakref.finalize(memory, _libc().munmap, address, length).atexit = False
    return memory


def _place(fd: int, length: int, kind: int) -> int | None:
    """Map a file where huge pages are possible: at a multiple of their size."""
    libc = _libc()
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if length < _HUGE_BYTES:
        return _address(libc.mmap(None, length, access, kind, fd, 0))
    wide = length + _HUGE_BYTES
    start = _address(libc.mmap(None, wide, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0))
    if start is None:
        return None
    address = -(-start // _HUGE_BYTES) * _HUGE_BYTES
    if _address(libc.mmap(address, length, access, kind | _MAP_FIXED, fd, 0)) is None:
        libc.munmap(start, wide)
        return None
    if address > start:
        libc.munmap(start, address - start)
    libc.munmap(address + length, start + wide - address - length)
    return address


def _address(answer: int | None) -> int | None:
    """Return what ``mmap`` returned; None for its error value."""
    return None if answer is None or answer == _FAILED else answer


@functools.cache
def _libc() -> Any:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
        ctypes.c_long,
    ]  # fmt: skip
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


@functools.lru_cache(maxsize=64)
def _array_type(length: int) -> Any:
    import ctypes

    return ctypes.c_ubyte * length
