# SPDX-License-Identifier: BSD-3-Clause
"""A connector whose values are files: on a node's own disk, or on a parallel file system.

A value is written aside, in the hidden folder ``.parts``, and renamed when it is whole;
its file is never changed afterwards. So a reader on this machine maps it, and a copy is
a second name of the same file. Where other machines write, a mapped page may be gone
when it is touched (a SIGBUS), so values are read into memory there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ssdag.connectors.base import Connector, as_views, check_key, missing
from ssdag.connectors.filesystem import is_of_this_machine, is_shared, machine
from ssdag.connectors.inotify import wait_for_name
from ssdag.connectors.naming import file_name, key_of
from ssdag.connectors.parts import Parts
from ssdag.errors import ConfigError, DataTimeoutError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.connectors.base import Buffer, Scope

#: So often at most another machine may replace a file while it is opened.
_TRIES = 10

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FOREVER_WRONG = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})


class DirectoryConnector(Connector):
    """Values as files of one folder.

    Arrays are NPY files there that everybody can read. The folder stays when the program
    ends.

    Parameters
    ----------
    path : str or path
        The folder. It is made, for its owner only, if it is not there.
    scope : "node" or "shared", optional
        Whether other machines see the same folder. By default the file system's type
        tells: NFS, Lustre, GPFS, BeeGFS, CephFS and the like are shared.
    durable : bool
        Wait until the disk has a value (fsync) before it is published, so that it
        survives a crash of the machine.
    trusted : bool
        Also use a folder of another user, or one where everybody may write; files get
        the permissions that the umask leaves. Values may be pickles, and who can write
        them can run programs as you.

    Raises
    ------
    ConfigError
        The path is no folder, or one that is not to be trusted.
    StoreError
        The folder cannot be made.
    """

    kind = "directory"

    #: What names of files end with.
    _suffix = ""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        scope: Literal["node", "shared"] | None = None,
        durable: bool = False,
        trusted: bool = False,
    ) -> None:
        if scope not in (None, "node", "shared"):
            raise ConfigError(f"scope={scope!r}: 'node', 'shared' or None")
        self._path = os.path.abspath(os.fspath(path))
        self._durable = durable
        self._trusted = trusted
        try:
            os.makedirs(self._path, mode=0o700, exist_ok=True)
        except FileExistsError:
            raise ConfigError(f"{self._path} is no folder") from None
        except OSError as error:
            self._fail("make the folder", error)
        self._open(scope)

    def _open(self, scope: Literal["node", "shared"] | None) -> None:
        self._check_owner()
        try:
            self._parts = self._make_parts()
        except OSError as error:
            self._fail("make a folder", error)
        self._scope: Literal["node", "shared"] = scope or (
            "shared" if is_shared(self._path) else "node"
        )
        self.local = self._scope == "node" and is_of_this_machine(self._path)
        self._parts.sweep()

    def _make_parts(self) -> Parts:
        return Parts(self._path, durable=self._durable, private=not self._trusted)

    def _check_owner(self) -> None:
        found = os.stat(self._path)
        if self._trusted:
            return
        if found.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                f"{self._path} belongs to user {found.st_uid}, who could have you run anything; "
                "trusted=True uses it all the same"
            )
        if found.st_mode & stat.S_IWOTH:
            raise ConfigError(
                f"everybody may write to {self._path}, and could have you run anything: take a "
                "folder in it, or trusted=True"
            )

    @property
    def path(self) -> str:
        """The folder."""
        return self._path

    @property
    def scope(self) -> Scope:
        """``shared`` if other machines mount the folder, else ``node``."""
        return self._scope

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._scope, self._durable, self._trusted, machine())

    def __ssdag_hash__(self) -> bytes:
        return f"{self.kind} {self._path}".encode(errors="surrogateescape")

    # -- writing ---------------------------------------------------------------------

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Publish a value in place of what is there; see :class:`Connector`."""
        target = self._file(key)

        def rename(part: str) -> bool:
            self._parts.replace(part, target)
            return True

        self._publish(key, parts, rename)

    def add(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Publish a value if there is none; see :class:`Connector`."""
        target = self._file(key)

        return not os.path.lexists(target) and self._publish(
            key, parts, lambda part: self._parts.add(part, target)
        )

    def _publish(self, key: str, parts: Sequence[Buffer], give_name: Callable[[str], bool]) -> bool:
        views = as_views(parts)
        try:
            return self._parts.publish(views, give_name)
        except OSError as error:
            self._fail(f"write {key!r}", error)

    def copy(self, source: str, target: str) -> None:
        """Give a value's file a second name; see :class:`Connector`."""
        old, new = self._file(source), self._file(target)
        part = self._parts.name()
        try:
            self._parts.link(old, part)
            try:
                self._parts.replace(part, new)
            finally:  # renaming a file to another name of itself does nothing
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self._absent(source, error)
            if error.errno not in _NO_LINKS:
                self._fail(f"copy {source!r}", error)
            super().copy(source, target)

    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one."""
        try:
            self._parts.discard(self._file(key))
        except FileNotFoundError as error:
            self._check_folder(error)
            return False
        except OSError as error:
            self._fail(f"delete {key!r}", error)
        return True

    # -- reading ---------------------------------------------------------------------

    def read(self, key: str) -> memoryview:
        """Return a value; mapped where :attr:`local` is true, else read into memory."""
        path = self._file(key)
        try:
            for _ in range(_TRIES):
                try:
                    return self._parts.load(path, local=self.local)
                except OSError as error:
                    if error.errno != errno.ESTALE:  # replaced by another machine
                        raise
            return self._parts.load(path, local=self.local)
        except FileNotFoundError as error:
            self._absent(key, error)
        except OSError as error:
            self._fail(f"read {key!r}", error)

    def take(self, key: str) -> memoryview:
        """Return a value and remove it; of several that take it one gets it."""
        part = self._parts.name()
        try:
            with self._parts.moved(self._file(key), part):
                try:
                    return self._parts.load(part, local=self.local)
                finally:
                    self._parts.discard(part)
        except FileNotFoundError as error:
            self._absent(key, error)
        except OSError as error:
            self._fail(f"take {key!r}", error)

    def exists(self, key: str) -> bool:
        """Return whether there is a value."""
        try:
            return self._parts.has(self._file(key))
        except FileNotFoundError as error:
            self._check_folder(error)
            return False
        except OSError as error:
            self._fail(f"look for {key!r}", error)

    def size(self, key: str) -> int:
        """Return the bytes of a value."""
        try:
            return self._parts.size(self._file(key))
        except FileNotFoundError as error:
            self._absent(key, error)
        except OSError as error:
            self._fail(f"look for {key!r}", error)

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell pattern, sorted."""
        found = []
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    key = self._key_of(entry.name)
                    if key is not None and fnmatchcase(key, pattern) and self._is_value(entry):
                        found.append(key)
        except OSError as error:
            self._fail("list keys", error)
        return sorted(found)

    # -- waiting ---------------------------------------------------------------------

    def wait(self, key: str, timeout_s: float | None = None) -> None:
        """Block until there is a value.

        The kernel tells at once where only this machine writes; elsewhere it looks again
        after pauses that grow from 1 to 250 ms.
        """
        if self.exists(key):
            return
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        name = os.path.basename(self._file(key))
        try:
            there = wait_for_name(self._path, name, lambda: self._look(key), end_s, told=self.local)
        except OSError as error:
            self._fail(f"wait for {key!r}", error)
        if not there:
            raise DataTimeoutError(f"{key!r} did not come within {timeout_s} s in {self!r}")

    def _look(self, key: str) -> bool:
        if not self.local:
            # Opening the folder has NFS forget which names it took to be absent.
            with contextlib.suppress(OSError):
                os.close(os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        return self.exists(key)

    # -- names and errors ----------------------------------------------------------------------

    def _file(self, key: str) -> str:
        check_key(key)
        return os.path.join(self._path, file_name(key) + self._suffix)

    def _is_value(self, entry: os.DirEntry[str]) -> bool:
        return entry.is_file()

    def _key_of(self, name: str) -> str | None:
        return key_of(name.removesuffix(self._suffix)) if name.endswith(self._suffix) else None

    def _absent(self, key: str, error: OSError) -> NoReturn:
        self._check_folder(error)
        raise missing(key, self) from None

    def _check_folder(self, error: OSError) -> None:
        if not os.path.isdir(self._path):
            self._fail("use it", error)

    def _fail(self, what: str, error: OSError) -> NoReturn:
        text = f"cannot {what} in {self._path}: {error.strerror or error}"
        if error.errno in _FULL:
            text += "; delete values, or take a larger disk"
        elif not os.path.isdir(self._path):
            text += "; the folder is gone"
        failure = StoreError(text)
        failure.transient = error.errno not in _FOREVER_WRONG
        raise failure from error


@functools.lru_cache(maxsize=64)
def _reopen(
    path: str, scope: Literal["node", "shared"], durable: bool, trusted: bool, where: str
) -> DirectoryConnector:
    """Open a folder again that was opened elsewhere; a process does it once."""
    check_place(path, where, shared=scope == "shared")
    return DirectoryConnector(path, scope=scope, durable=durable, trusted=trusted)


def check_place(path: str, where: str, *, shared: bool) -> None:
    """Raise StoreError if a folder of machine `where` cannot be used on this one."""
    if not shared and where != machine():
        failure = StoreError(
            f"{path} is a folder of another machine and cannot be reached from this one; "
            "a DirectoryConnector with scope='shared' is for folders that all machines mount"
        )
        failure.transient = False
        raise failure
    if not os.path.isdir(path):
        raise StoreError(f"the folder {path} of a connector is gone")
