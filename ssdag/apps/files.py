# SPDX-License-Identifier: BSD-3-Clause
"""Files as arguments of apps: a name, where it lies, and what is in it."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from typing import Any

_RACY_S = 0.1  # younger files may change again without a new time stamp
_CACHE_SIZE = 10_000
_cache: OrderedDict[tuple[str | int, ...], bytes] = OrderedDict()


class File(os.PathLike[str]):
    """A file, named by a path or a URL; it need not exist yet.

    Objects never change; two are equal if URL and local path are.

    Parameters
    ----------
    url : str or path
        A plain path, a ``file:`` URL, or the URL of something that a
        :class:`~ssdag.apps.staging.Staging` can fetch. A plain path stays as it is
        written, also if it is relative.
    local_path : str or path, optional
        Where a copy lies on this machine.

    Attributes
    ----------
    url : str
        As given.
    scheme : str
        "file" for plain paths.
    netloc : str
        Host part of the URL, else empty.
    path : str
        Path part, with %-escapes of a URL resolved.
    local_path : str or None
        Where staging has put it.
    """

    __slots__ = ("local_path", "netloc", "path", "scheme", "url")

    url: str
    scheme: str
    netloc: str
    path: str
    local_path: str | None

    def __init__(
        self, url: str | os.PathLike[str], local_path: str | os.PathLike[str] | None = None
    ) -> None:
        if not isinstance(url, (str, os.PathLike)) or not isinstance(os.fspath(url), str):
            raise ConfigError(f"File({url!r}): give a path or a URL as text")
        text = os.fspath(url)
        if not text:
            raise ConfigError("File(''): the path is empty")
        scheme, netloc, path = _parse(text)
        if scheme == "file" and netloc not in ("", "localhost"):
            raise ConfigError(
                f"File({text!r}): a file: URL cannot name the host {netloc!r}; "
                "write file:///folder/name"
            )
        self._set("url", text)
        self._set("scheme", scheme)
        self._set("netloc", netloc)
        self._set("path", path)
        self._set("local_path", None if local_path is None else os.fspath(local_path))

    def _set(self, name: str, value: str | None) -> None:
        object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a File never changes: make another one instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a File never changes")

    def __reduce__(self) -> tuple[type[File], tuple[str, str | None]]:
        return type(self), (self.url, self.local_path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, File):
            return NotImplemented
        return (self.url, self.local_path) == (other.url, other.local_path)

    def __hash__(self) -> int:
        return hash((self.url, self.local_path))

    def __repr__(self) -> str:
        where = f", local_path={self.local_path!r}" if self.local_path else ""
        return f"File({self.url!r}{where})"

    def __str__(self) -> str:
        return self.filepath

    def __fspath__(self) -> str:
        return self.filepath

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return os.path.basename(self.path)

    @property
    def filepath(self) -> str:
        """The path to open on this machine.

        Raises
        ------
        ConfigError
            It is a remote file that was not staged.
        """
        if self.local_path is not None:
            return self.local_path
        if self.scheme == "file":
            return self.path
        raise ConfigError(f"{self!r} has no path on this machine: it was not staged in")

    def at(self, local_path: str | os.PathLike[str]) -> File:
        """Return the same file with another local path."""
        return File(self.url, local_path)

    def cleancopy(self) -> File:
        """Return the same file without a local path."""
        return File(self.url)

    def fingerprint(self) -> bytes:
        """Return 32 bytes that change with the name or the content of the file.

        The content (of a folder: of all files in it) is hashed with BLAKE2b, once as
        long as device, inode, size and time stamps stay the same. The time is not in the
        result: a file that was written anew with the same content is the same file. A
        file that does not exist, or is remote, is known by its name only.
        """
        digest = hashlib.blake2b(os.fsencode(self.url), digest_size=32)
        if self.local_path is not None or self.scheme == "file":
            digest.update(b"\0" + _hash_path(self.filepath))
        return digest.digest()


def _parse(text: str) -> tuple[str, str, str]:
    """Return (scheme, host, path); anything without ``scheme:`` is a plain path."""
    head, colon, _ = text.partition(":")
    # One letter is no scheme, and a slash before the colon makes it part of a name.
    is_url = colon and len(head) > 1 and head.isascii() and head.replace("+", "").isalnum()
    if not is_url or not (text[len(head) :].startswith("://") or head in ("file", "zip")):
        return "file", "", text
    parts = urlsplit(text)
    path = unquote(parts.path)
    if parts.scheme == "file":
        if not path:
            raise ConfigError(f"File({text!r}): the path is empty")
        if parts.query or parts.fragment:
            raise ConfigError(f"File({text!r}): write '?' and '#' in a file: URL as %3F and %23")
    if parts.scheme == "zip" and parts.netloc:
        raise ConfigError(f"File({text!r}): a zip: URL names no host; write zip:/folder/a.zip/name")
    return parts.scheme, parts.netloc, path


def _hash_path(path: str) -> bytes:
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return _hash_folder(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or device could block for ever
            return b"special"
        return _hash_file(path, status)
    except (FileNotFoundError, NotADirectoryError):
        return b"absent"


def _hash_file(path: str, status: os.stat_result) -> bytes:
    key = (
        os.path.abspath(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    known = _cache.get(key)
    if known is not None:
        return known
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, hashlib.blake2b).digest()
    if time.time() - max(status.st_mtime, status.st_ctime) > _RACY_S:
        _cache[key] = content
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return content


def _hash_folder(path: str) -> bytes:
    digest = hashlib.blake2b()
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        encoded = os.fsencode(name)
        inner = os.path.join(path, name)
        # A link inside is known by its target: following it could go round in circles.
        content = os.fsencode(os.readlink(inner)) if os.path.islink(inner) else _hash_path(inner)
        digest.update(b"%d:%s%d:" % (len(encoded), encoded, len(content)) + content)
    return digest.digest()
