# SPDX-License-Identifier: BSD-3-Clause
"""The contract of a connector: named bytes that are published as a whole.

What all connectors promise, and ``tests/contract/test_connectors.py`` checks on each:

* A value appears and changes as a whole: a reader has all bytes of one :meth:`write`, or
  those of another, never a part or a mixture, also if a writer is killed in the middle.
* What is returned belongs to the caller: it stays as it is when the key is written
  again or deleted, and changing it is noticed by nobody.
* All processes that a connector is pickled to, and all threads, see the same values.
* Nothing waits for ever but :meth:`wait` without a timeout; what cannot be reached is
  StoreError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

#: What a value may be written from: bytes, bytearray, or contiguous memory such as an array's.
Buffer: TypeAlias = bytes | bytearray | memoryview

#: Who can reach a connector's values, see :attr:`Connector.scope`.
Scope = Literal["node", "shared", "network"]

#: A key's longest UTF-8 text: the longest that always fits in a file name, encoded.
LONGEST_KEY = 180


class Connector(ABC):
    """A place for named bytes.

    A new one is a subclass and an entry point in the group ``ssdag.connectors``. It
    pickles as what it takes to open it again, without its connections, and never with a
    secret. All methods may be called from several threads at once, and after a fork.

    Keys are texts of 1 to 180 bytes in UTF-8, of any characters but half surrogates.
    Copying between keys that are equal behind the first colon (``a:x`` to ``b:x``) is
    cheap: a cluster has them on one shard.
    """

    #: Name of the entry point, as a configuration file has it.
    kind: ClassVar[str]

    #: Whether reading maps memory of this machine instead of copying it.
    local: bool = False

    @property
    @abstractmethod
    def scope(self) -> Scope:
        """Who can reach the values.

        ``node``: processes of this machine. ``shared``: all machines that mount the
        folder. ``network``: all machines that reach the server.
        """

    @abstractmethod
    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Publish a value in place of what is there; it consists of `parts` in a row.

        Blocks until readers see it. Parts are not joined in memory before.

        Raises
        ------
        DataFormatError
            The key cannot be one, or a part is not contiguous.
        StoreError
            No room, or the place cannot be reached. Readers then see the value that was
            there before, or the whole new one where the answer was lost.
        """

    @abstractmethod
    def add(self, key: str, parts: Sequence[Buffer]) -> bool:
        """Publish a value if there is none; return whether it was published.

        Of several that add the same key at once one gets True. A StoreError leaves open
        whether it was published.
        """

    @abstractmethod
    def read(self, key: str) -> memoryview:
        """Return a value: writable bytes that are the caller's own.

        Raises
        ------
        MissingDataError
            There is none.
        StoreError
            The place cannot be reached.
        """

    @abstractmethod
    def take(self, key: str) -> memoryview:
        """Return a value and remove it; of several that take it one gets it.

        Raises
        ------
        MissingDataError
            There is none.
        StoreError
            The place cannot be reached.
        """

    @abstractmethod
    def wait(self, key: str, timeout_s: float | None = None) -> None:
        """Block until there is a value; at once if there is.

        Raises
        ------
        DataTimeoutError
            It did not come within `timeout_s` seconds; None waits for ever.
        StoreError
            The place is gone or cannot be reached.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there is a value."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return the bytes of a value; raises MissingDataError if there is none."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove a value; return whether there was one."""

    @abstractmethod
    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that match a shell pattern (``*``, ``?``, ``[ab]``), sorted.

        Keys that are written or deleted meanwhile may be among them or not. It looks at
        every key of the connector.
        """

    def copy(self, source: str, target: str) -> None:
        """Publish the value of one key under another, too; a later write parts them.

        Without sending the bytes through this process where the place can do that.

        Raises
        ------
        MissingDataError
            There is no value under `source`.
        """
        self.write(target, [self.read(source)])

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove several values; return how many there were."""
        return sum(self.delete(key) for key in keys)

    def copy_many(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """Copy from first to second of each pair; return the sources that are missing."""
        missing = []
        for source, target in pairs:
            try:
                self.copy(source, target)
            except MissingDataError:
                missing.append(source)
        return missing

    def close(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Let go of connections; the next call opens them again.

        Values stay, unless they are this process's own memory.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it takes to open it again in another process."""


def check_key(key: object) -> bytes:
    """Return a key's UTF-8 bytes.

    Raises
    ------
    DataFormatError
        It is no text, empty, too long, or no valid Unicode.
    """
    if not isinstance(key, str):
        raise DataFormatError(f"a key is a text, not {type(key).__name__}: {key!r:.80}")
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise DataFormatError(f"key {key!r:.80} is no valid Unicode: {error.reason}") from error
    if not 0 < len(data) <= LONGEST_KEY:
        raise DataFormatError(
            f"key {key!r:.80} has {len(data)} bytes in UTF-8; 1 to {LONGEST_KEY} are possible"
        )
    return data


def as_views(parts: Sequence[Buffer]) -> list[memoryview]:
    """Return the parts that are not empty as flat bytes, without a copy.

    Raises
    ------
    DataFormatError
        A part is no contiguous memory.
    """
    if isinstance(parts, bytes | bytearray | memoryview | str):
        raise DataFormatError("a value is a list of parts: write(key, [data])")
    views = []
    for part in parts:
        try:
            view = memoryview(part)
            if view.nbytes:
                views.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
        except TypeError as error:
            raise DataFormatError(
                f"a part of a value must be contiguous bytes, not {type(part).__name__}: {error}"
            ) from error
    return views


def missing(key: str, where: object) -> MissingDataError:
    """Return the error for a key without a value."""
    return MissingDataError(f"nothing is stored under {key!r} in {where}")


def literal_start(pattern: str) -> str:
    """Return what of a shell pattern every match begins with."""
    ends = [pattern.index(c) for c in "*?[" if c in pattern]
    return pattern[: min(ends)] if ends else pattern
