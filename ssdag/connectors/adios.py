# SPDX-License-Identifier: BSD-3-Clause
"""A connector whose values are BP5 files, as ADIOS2 and its tools read and write them.

``u.3.bp`` is a link to the BP5 folder that holds the value of ``u.3``: a link can be
replaced in one step, on every file system, and a folder cannot. An array is the variable
``value`` with its shape and type; the attribute ``npy`` keeps its NPY header, from which
its bytes are made again. All else is a ``value`` of bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import importlib
import math
import os
import shutil
import stat
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ssdag.client.tensors import npy
from ssdag.connectors.base import check_key
from ssdag.connectors.directory import DirectoryConnector, check_place
from ssdag.connectors.filesystem import machine
from ssdag.connectors.memory import exchange, fresh
from ssdag.connectors.parts import Parts
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

T = TypeVar("T")

_VALUES = ".values"

#: What both ADIOS2 and its Python package have, as numpy names it.
_TYPES = frozenset({"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c16"})

#: So often at most a value may be replaced while it is opened.
_TRIES = 100

#: The library's own calls go one after the other.
_lock = threading.Lock()


class AdiosConnector(DirectoryConnector):
    """Values as BP5 files of one folder; ``bpls`` and every ADIOS2 program read the arrays.

    Needs the package ``adios2``. A value takes a few milliseconds; where only ssdag reads
    them, a :class:`~ssdag.connectors.DirectoryConnector` is quicker.

    Parameters
    ----------
    path, scope, trusted
        See :class:`~ssdag.connectors.DirectoryConnector`.

    Raises
    ------
    ConfigError
        ``adios2`` is not installed, or the path cannot be used.
    """

    kind = "adios"
    _suffix = ".bp"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scope: Literal["node", "shared"] | None = None,
        trusted: bool = False,
    ) -> None:
        _adios()
        super().__init__(path, scope=scope, trusted=trusted)

    def _make_parts(self) -> Parts:
        return _Values(self._path, private=not self._trusted)

    def _is_value(self, entry: os.DirEntry[str]) -> bool:
        return entry.is_symlink()

    def copy(self, source: str, target: str) -> None:
        """Write the value again under the other key."""
        check_key(target)
        self.write(target, [self.read(source)])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._scope, self._trusted, machine())


@functools.lru_cache(maxsize=64)
def _reopen(
    path: str, scope: Literal["node", "shared"], trusted: bool, where: str
) -> AdiosConnector:
    check_place(path, where, shared=scope == "shared")
    return AdiosConnector(path, scope=scope, trusted=trusted)


class _Values(Parts):
    """BP5 folders, and links that are their names."""

    def __init__(self, folder: str, *, private: bool) -> None:
        super().__init__(folder, private=private)
        self._values = os.path.join(folder, _VALUES)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._values, self._folder_mode)

    def publish(self, views: list[memoryview], give_name: Callable[[str], T]) -> T:
        """Write a BP5 folder, and have `give_name` publish it; return what that returns."""
        part = self.name()
        whole = os.path.join(self._values, os.path.basename(part) + ".bp")
        os.mkdir(part, self._folder_mode)
        fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # not every file system has locks
                fcntl.flock(fd, fcntl.LOCK_SH)
            _write(os.path.join(part, "v.bp"), views)
            os.rename(os.path.join(part, "v.bp"), whole)
            try:
                result = give_name(whole)
            except BaseException:
                shutil.rmtree(whole, ignore_errors=True)
                raise
            if result is False:
                shutil.rmtree(whole, ignore_errors=True)
            return result
        finally:
            shutil.rmtree(part, ignore_errors=True)
            os.close(fd)

    def sweep(self) -> int:
        """Remove what killed writers have left; return how much."""
        removed = 0
        with contextlib.suppress(OSError), os.scandir(os.path.dirname(self.name())) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(entry.path)
                        removed += 1
                    finally:
                        os.close(fd)
        return removed

    def _link(self, whole: str, path: str) -> None:
        os.symlink(os.path.relpath(whole, self.folder), path)

    def replace(self, path: str, target: str) -> None:
        """Have `target` be a link to the folder, and remove the one it led to."""
        link = os.path.join(self.folder, f".{os.path.basename(path)}")
        self._link(path, link)
        try:
            with contextlib.suppress(FileNotFoundError):  # most often there is none
                if exchange(link, target):
                    self._remove(link)
                    return
            old = _target(target)
            os.rename(link, target)
            if old is not None:
                shutil.rmtree(os.path.join(self.folder, old), ignore_errors=True)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)

    def add(self, path: str, target: str) -> bool:
        """Have `target` be a link to the folder, if there is none."""
        try:
            self._link(path, target)
        except FileExistsError:
            return False
        return True

    def discard(self, path: str) -> None:
        """Remove a link, and the folder that it leads to."""
        claim = os.path.join(self.folder, f".{os.path.basename(self.name())}")
        os.rename(path, claim)
        self._remove(claim)

    def _remove(self, link: str) -> None:
        old = _target(link)
        os.unlink(link)
        if old is not None:
            shutil.rmtree(os.path.join(self.folder, old), ignore_errors=True)

    @contextlib.contextmanager
    def moved(self, path: str, part: str) -> Iterator[None]:
        """Give a value's link another name."""
        os.rename(path, part)
        yield

    # -- BP5 -------------------------------------------------------------------------

    def has(self, path: str) -> bool:
        """Return whether what has the name is a link."""
        return stat.S_ISLNK(os.lstat(path).st_mode)

    def size(self, path: str) -> int:
        """Return the bytes of a value."""
        return self._opened(path, lambda file: len(_header(file)) + _data_bytes(file))

    def load(self, path: str, *, local: bool) -> memoryview:
        """Return a value's bytes."""

        def read(file: Any) -> memoryview:
            header, size = _header(file), _data_bytes(file)
            data = fresh(len(header) + size)
            data[: len(header)] = header
            if size:
                data[len(header) :] = npy.as_bytes(np.ascontiguousarray(file.read("value")))
            return data

        return self._opened(path, read)

    def _opened(self, path: str, work: Callable[[Any], T]) -> T:
        """Do something with the file that a link leads to; again if it is replaced then."""
        for attempt in range(_TRIES):
            target = os.readlink(path)
            try:
                with _lock, _adios().FileReader(os.path.join(self.folder, target)) as file:
                    return work(file)
            except RuntimeError as error:  # the library's only one
                if attempt == _TRIES - 1 or _target(path) == target:
                    raise OSError(errno.EIO, f"ADIOS2 cannot read it: {error}", path) from error
        raise AssertionError("the last try returns or raises")


def _write(path: str, views: list[memoryview]) -> None:
    """Write a BP5 folder.

    Raises
    ------
    OSError
        It cannot be written.
    """
    header, array = _as_array(views)
    if not array.flags.writeable:  # which the library's bindings ask for
        array = array.copy()
    try:
        with _lock, _adios().Stream(path, "w") as file:
            file.write_attribute("npy", header.hex())
            if array.size:
                shape = list(array.shape)
                file.write("value", array, shape, [0] * array.ndim, shape)
    except RuntimeError as error:
        room = shutil.disk_usage(os.path.dirname(path)).free
        code = errno.ENOSPC if room < array.nbytes else errno.EIO
        raise OSError(code, f"ADIOS2 cannot write it: {error}", path) from error


def _as_array(views: list[memoryview]) -> tuple[bytes, npy.Array]:
    """Return the NPY header and the array of a value; no header for one of bytes."""
    if len(views) == 2 and bytes(views[0][:6]) == npy.MAGIC:
        with contextlib.suppress(DataFormatError):
            found = npy.decode_header(bytes(views[0]))
            fits = found.nbytes == len(views[1]) and found.dtype.str[1:] in _TYPES
            if fits and found.shape and not found.fortran and found.dtype.isnative:
                array = np.frombuffer(views[1], found.dtype).reshape(found.shape)
                return bytes(views[0]), array
    joined = b"".join(views) if len(views) != 1 else views[0]
    return b"", np.frombuffer(joined, np.uint8)


def _header(file: Any) -> bytes:
    return bytes.fromhex(file.read_attribute_string("npy"))


def _data_bytes(file: Any) -> int:
    variable = file.inquire_variable("value")
    if variable is None:
        return 0
    size: int = math.prod(variable.shape()) * variable.sizeof()
    return size


def _target(link: str) -> str | None:
    """Return where a link leads, seen from the connector's folder; None without one."""
    try:
        return os.readlink(link)
    except OSError:
        return None


@functools.cache
def _adios() -> Any:
    try:
        return importlib.import_module("adios2")
    except ImportError as error:
        raise ConfigError(f"AdiosConnector needs the package adios2: {error}") from error


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that does not exist here may have held it


os.register_at_fork(after_in_child=_after_fork)
