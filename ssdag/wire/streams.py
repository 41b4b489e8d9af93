# SPDX-License-Identifier: BSD-3-Clause
"""Where the output of a command goes: stream specifications, files, and last lines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

#: None (ours), a path, or (path, mode). A path alone means mode "a", as in Parsl: a retry
#: adds to what the first try wrote.
StreamSpec: TypeAlias = (
    "str | os.PathLike[str] | tuple[str | os.PathLike[str], str] | list[str] | None"
)

_CREATE = os.O_CREAT | os.O_CLOEXEC | os.O_WRONLY
_FLAGS = {
    "a": _CREATE | os.O_APPEND,
    "w": _CREATE | os.O_TRUNC,
    "x": _CREATE | os.O_EXCL,
}

TAIL_LINES = 20
TAIL_BYTES = 4096


def parse(spec: StreamSpec, name: str) -> tuple[str, str] | None:
    """Return (path, mode), or None where the stream is not redirected.

    Parameters
    ----------
    spec : StreamSpec
        As the user wrote it.
    name : str
        "stdout" or "stderr", for the error.

    Raises
    ------
    ConfigError
        It is none of the accepted forms.
    """
    if spec is None:
        return None
    path, mode = spec if isinstance(spec, (tuple, list)) and len(spec) == 2 else (spec, "a")
    if not isinstance(path, (str, os.PathLike)) or not isinstance(mode, str):
        raise ConfigError(f"{name}={spec!r}: give a path or (path, mode)")
    bare = mode.replace("+", "").replace("b", "").replace("t", "")
    if bare not in _FLAGS:
        raise ConfigError(f"{name}={spec!r}: the mode is 'a' (append), 'w' (replace) or 'x' (new)")
    text = os.fspath(path)
    if not text:
        raise ConfigError(f"{name}={spec!r}: the path is empty")
    return text, bare


class OutputFile:
    """A file that a command writes to; missing parent folders are made.

    Attributes
    ----------
    path : str
        As given.
    fd : int
        Descriptor for the child; -1 once closed.
    """

    def __init__(self, path: str, mode: str) -> None:
        self.path = path
        try:
            self.fd = os.open(path, _FLAGS[mode], 0o666)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self.fd = os.open(path, _FLAGS[mode], 0o666)
        status = os.fstat(self.fd)
        #: Where the output of this command begins; 0 for pipes and devices.
        self._begin = status.st_size

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close our descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def tail(self) -> str:
        """Return the last lines that were written since it was opened."""
        try:
            # Not blocking: it may be a named pipe.
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                size = os.fstat(fd).st_size
                begin = self._begin if size >= self._begin else 0  # the command truncated it
                begin = max(begin, size - TAIL_BYTES)
                return last_lines(os.pread(fd, TAIL_BYTES, begin) if size > begin else b"")
            finally:
                os.close(fd)
        except OSError:  # a device or a pipe, or the command removed the file
            return ""


def last_lines(data: bytes) -> str:
    """Return the last 20 lines, at most 4 KiB, of some output."""
    text = data[-TAIL_BYTES:].decode("utf-8", "replace")
    return "\n".join(text.rstrip().split("\n")[-TAIL_LINES:])
