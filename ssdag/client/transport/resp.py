# SPDX-License-Identifier: BSD-3-Clause
"""RESP2, the language of Redis and Valkey: commands out, replies in.

Pure functions and one reader; https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from ssdag.errors import DataError, DataFormatError, SsdagError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence


class ReplyError(Exception):
    """The server answered ``-CODE text``; the connection is still in step."""

    @property
    def code(self) -> str:
        """The first word, such as ``WRONGTYPE``."""
        return str(self).partition(" ")[0]


#: What a server may answer; an error inside an array stays a value.
Reply = Union[bytes, int, str, None, ReplyError, "list[Reply]"]


class ConnectionLostError(Exception):
    """The connection ended or timed out, so a command may or may not have been done.

    Attributes
    ----------
    timed_out : bool
        The server was silent for too long; it may still be alive.
    late : bool
        So it was, and the time is over that the caller gave; see
        :class:`~ssdag.client.transport.deadline.Deadline`.
    """

    def __init__(self, message: str, *, timed_out: bool = False, late: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.late = late


def command(*parts: bytes) -> bytes:
    """Return a command as an array of bulk strings."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        out.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(out)


def commands(lines: Sequence[Sequence[bytes]]) -> bytes:
    """Return several commands in a row, for one write."""
    return b"".join([command(*line) for line in lines])


def key_bytes(name: object) -> bytes:
    """Return the key of a name: its UTF-8 bytes.

    Bytes that Python smuggled into a text (``surrogateescape``, as file names have
    them) come back as they were.

    Raises
    ------
    DataFormatError
        The name is empty, no text, or holds half a surrogate pair.
    """
    if not isinstance(name, str):
        raise DataFormatError(f"a name is a text, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise DataFormatError("a name must not be empty")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise DataFormatError(f"name {name!r:.80} is no valid Unicode: {error.reason}") from error


_ADVICE = {
    "NOAUTH": "it asks for a password: pass password_file= or set SSDAG_PASSWORD_FILE",
    "WRONGPASS": "the password is wrong: is the password file that of another server?",
    "NOPERM": "this user may not do that; see ACL of the server",
    "OOM": "its memory limit is reached: delete tensors, or raise memory_limit_bytes",
    "LOADING": "it is still loading its data: try again soon",
    "MISCONF": "it cannot write its data to disk",
    "READONLY": "it is a read-only replica",
    "MOVED": "it is one shard of a cluster",
}
_NOT_TRANSIENT = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "READONLY", "MOVED"})


def explain(error: ReplyError, where: str, what: str) -> SsdagError:
    """Return the error for users of a server's answer.

    Parameters
    ----------
    error : ReplyError
        What the server said.
    where : str
        Address of the server.
    what : str
        What was tried, such as ``put of tensor 'x'``.
    """
    text = str(error)
    if error.code == "WRONGTYPE":
        return DataError(f"{what}: under this name is another kind of value ({text})")
    if "called without any password" in text:
        text += ": this server has none; leave password and password_file away"
    if "invalid bulk length" in text or "exceeds maximum allowed size" in text:
        return DataFormatError(
            f"{what}: larger than the server at {where} accepts ({text}); raise its "
            "proto-max-bulk-len"
        )
    advice = _ADVICE.get(error.code)
    failure = StoreError(
        f"{what}: the server at {where} answered: {text}" + (f" ({advice})" if advice else "")
    )
    if error.code in _NOT_TRANSIENT:
        failure.transient = False
    return failure
