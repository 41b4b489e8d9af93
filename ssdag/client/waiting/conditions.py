# SPDX-License-Identifier: BSD-3-Clause
"""What can be waited for: a command to look with, and keys whose changes make us look.

A condition is a value: the same one may be awaited by many, and costs one look then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ssdag.client.datasets.keys import meta_key
from ssdag.client.datasets.metadata import COMPLETE
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.transport.resp import Reply

#: Events after which a key is not there.
REMOVALS = frozenset({b"del", b"expired", b"evicted", b"rename_from", b"move_from"})

#: How the length of a list is compared with the one that is waited for.
Comparison: TypeAlias = Literal[">=", "==", "<="]


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """Something that may become true of keys on a server.

    Attributes
    ----------
    kind, name : str
        Said in errors and in the graph, such as "tensor" and its name.
    keys : tuple of bytes
        When one of them changes, it is looked at again. On a cluster all of them have
        the slot of the first (share its hash tag), which must be that of `look`.
    look : tuple of bytes
        The command whose answer tells; it changes nothing and its answer is short.
        Empty if `check` tells: then it is only looked whether the keys exist, which
        tells that we are listening.
    holds : callable
        Takes the answer and says whether it is true. It runs in the thread that serves
        all who wait: it must be quick and must not raise.
    appears : bool
        It is true as soon as a key is there, so an event suffices and no look is needed.
    check : callable, optional
        Asked in a thread of its own, where it may talk to the server: the condition
        holds when it returns something true, which is what the future holds then. With
        it, keys may be in any slots.
    """

    kind: str
    name: str
    keys: tuple[bytes, ...]
    look: tuple[bytes, ...] = ()
    holds: Callable[[Reply], bool] = bool
    appears: bool = False
    check: Callable[[], Any] | None = field(default=None)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def looks(self) -> list[tuple[tuple[bytes, ...], tuple[bytes, ...]]]:
        """Return commands, each with the keys whose changes make us send it again."""
        if self.check is None:
            return [(self.look, self.keys)]
        return [((b"EXISTS", key), (key,)) for key in dict.fromkeys(self.keys)]


def existence(kind: str, name: str, key: bytes) -> Condition:
    """Return the condition that there is a key, with whatever value."""
    return Condition(kind, name, (key,), (b"EXISTS", key), bool, appears=True)


def complete_dataset(name: str, base: bytes) -> Condition:
    """Return the condition that a dataset is there as a whole.

    Parameters
    ----------
    name : str
        The dataset.
    base : bytes
        What all its keys begin with, ``prefix.{name}``.
    """
    meta = meta_key(base)
    return Condition("dataset", name, (meta,), (b"HEXISTS", meta, COMPLETE))


def list_length(
    name: str, key: bytes, length: int, compare: Comparison = ">=", *, least: int = 0
) -> Condition:
    """Return the condition that a list has a length; a missing list has length 0.

    Raises
    ------
    ConfigError
        The length or the comparison is none.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < least:
        raise ConfigError(f"length={length!r}: a number of datasets, {least} or more")
    if compare == ">=":

        def holds(reply: Reply) -> bool:
            return isinstance(reply, int) and reply >= length

    elif compare == "==":

        def holds(reply: Reply) -> bool:
            return reply == length

    elif compare == "<=":

        def holds(reply: Reply) -> bool:
            return isinstance(reply, int) and reply <= length

    else:
        raise ConfigError(f"compare={compare!r}: one of '>=', '==', '<='")
    return Condition("list", name, (key,), (b"LLEN", key), holds)


def stream_records(name: str, state: bytes, count: int) -> Condition:
    """Return the condition that a stream has had so many records, gone ones included.

    Parameters
    ----------
    name : str
        The stream.
    state : bytes
        The key of its state.
    count : int
        Number of records.

    Raises
    ------
    ConfigError
        The count is none.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"records={count!r}: a number of records, 1 or more")

    def holds(reply: Reply) -> bool:
        return isinstance(reply, bytes) and int(reply) >= count

    return Condition("stream", name, (state,), (b"HGET", state, b"appended"), holds)


def stream_end(name: str, state: bytes) -> Condition:
    """Return the condition that a stream has ended, read to its end or not."""
    return Condition("stream", name, (state,), (b"HEXISTS", state, b"ended"))


def checked(name: str, keys: tuple[bytes, ...], check: Callable[[], Any]) -> Condition:
    """Return the condition that a function of the user returns something true.

    It is asked once at first, and again after each change of one of the keys.

    Raises
    ------
    ConfigError
        There is no key, so nothing would make us ask again.
    """
    if not keys:
        raise ConfigError("name at least one key whose changes may make the condition true")
    return Condition("condition", name, keys, check=check)
