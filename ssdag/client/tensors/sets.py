# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that handles many tensors at once, and moves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.tensors import moving, npy
from ssdag.client.tensors import transfer as tensors
from ssdag.client.tensors.calls import TensorCalls, milliseconds
from ssdag.client.transport.resp import ReplyError, command, explain
from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ssdag.client.tensors.npy import Array
    from ssdag.client.transport.connection import Connection

#: What is sent before answers are read, at most: tensors, and bytes of them.
_WINDOW = 512
_WINDOW_BYTES = 64 << 20

#: Answers that a server may have to hold before their sizes are known.
_UNKNOWN = 4


class TensorSetCalls(TensorCalls):
    """Many tensors at once, copies, new names, lists; see :class:`ssdag.Client`."""

    def put_tensors(self, arrays: Mapping[str, Any], *, ttl_s: float | None = None) -> None:
        """Store several arrays in one go; as :meth:`put_tensor` for each, but quicker.

        They travel one behind the other without waiting for answers, those of a
        cluster's node together; large sets go in several rounds. If it fails, some may
        be stored and others not, each of them whole.

        Parameters
        ----------
        arrays : mapping of str to array_like
            By name.
        ttl_s : float, optional
            Seconds after which the server deletes them.

        Raises
        ------
        DataFormatError
            A dtype or a name cannot be stored; nothing was sent then.
        StoreError
            A server cannot be reached or refuses.
        """
        limit = milliseconds(ttl_s)
        names = list(arrays)
        keys = [self._written("tensor", name) for name in names]
        plain = [npy.contiguous(array) for array in arrays.values()]
        for array in plain:
            npy.encode_header(array)
        for window in _windows(plain):

            def send(c: Connection, items: Sequence[int], window: range = window) -> None:
                parts: list[bytes | memoryview] = []
                for i in items:
                    i = window[i]
                    parts += tensors.put_parts(keys[i], plain[i], limit)
                c.send(*parts, replies=len(items))

            what = f"put of {len(window)} tensors"
            answers = self._run_many(
                what,
                [keys[i] for i in window],
                send,
                lambda c, items: c.replies(len(items)),
            )
            for i, answer in zip(window, answers, strict=True):
                if isinstance(answer, ReplyError):
                    raise explain(answer, self.address, f"put of tensor {names[i]!r}")

    def get_tensors(self, names: Iterable[str], *, missing_ok: bool = False) -> dict[str, Array]:
        """Return several tensors by name, in one go; as :meth:`get_tensor`, but quicker.

        What a server holds for us meanwhile is bounded, so large sets take a few rounds.

        Parameters
        ----------
        names : iterable of str
            What they were stored as.
        missing_ok : bool
            Leave out those that are not there, instead of raising.

        Raises
        ------
        MissingDataError
            One of them is not there.
        DataFormatError
            One of them is no tensor.
        StoreError
            A server cannot be reached or refuses.
        """
        wanted = list(dict.fromkeys(names))
        keys = [self._read("tensor", name) for name in wanted]

        def send(connection: Connection, items: Sequence[int]) -> None:
            _ask(connection, [keys[i] for i in items[:_UNKNOWN]])

        def receive(connection: Connection, items: Sequence[int]) -> list[Any]:
            return list(_receive(connection, wanted, keys, items))

        found = self._run_many(f"get of {len(wanted)} tensors", keys, send, receive)
        for name, value in zip(wanted, found, strict=True):
            if isinstance(value, ReplyError):
                raise explain(value, self.address, f"get of tensor {name!r}")
            if isinstance(value, DataFormatError):
                raise value
        absent = [name for name, value in zip(wanted, found, strict=True) if value is None]
        if absent and not missing_ok:
            if len(absent) == 1:
                raise tensors.missing(absent[0])
            raise MissingDataError(
                f"{len(absent)} of {len(wanted)} tensors are not stored: "
                f"{', '.join(map(repr, absent[:5]))}{', ...' if len(absent) > 5 else ''}"
            )
        return {n: value for n, value in zip(wanted, found, strict=True) if value is not None}

    def copy_tensor(self, source: str, target: str) -> None:
        """Copy a tensor to another name, in place of what is there.

        The server copies it, with its time to live; only between nodes of a cluster does
        it travel through this client.

        Raises
        ------
        MissingDataError
            There is no `source`.
        StoreError
            A server cannot be reached or refuses.
        """
        keys = self._read("tensor", source), self._written("tensor", target)
        if not moving.copy(self, f"copy of tensor {source!r}", *keys):
            raise tensors.missing(source)

    def rename_tensor(self, old: str, new: str) -> None:
        """Give a tensor another name, in place of what is there.

        One step on a single server. Between nodes of a cluster the tensor travels
        through this client, is there under both names for a moment, and goes from the
        old one only if nobody has written that meanwhile. It is never repeated: after a
        broken connection StoreError leaves open whether it was done.

        Raises
        ------
        MissingDataError
            There is no `old`.
        StoreError
            A server cannot be reached or refuses.
        """
        keys = self._read("tensor", old), self._written("tensor", new)
        if not moving.rename(self, f"new name for tensor {old!r}", *keys):
            raise tensors.missing(old)

    def list_tensors(self, pattern: str = "*") -> list[str]:
        """Return the names of stored tensors, sorted.

        Looks through all names of all servers step by step, so it takes long where there
        are millions, and what is written or deleted meanwhile may be there or not.
        Tensors of datasets are left out.

        Parameters
        ----------
        pattern : str
            ``*`` stands for any characters, ``?`` for one, ``[a-c]`` for one of these,
            a backslash makes them plain. With a prefix, only names under it are listed,
            and without it.
        """
        prefix = self._read("tensor", "x")[:-1]
        glob = moving.escape(prefix) + pattern.encode("utf-8", "surrogateescape")
        found = moving.scan(self, glob, b"string")
        starts = self.call_many([(b"GETRANGE", key, b"0", b"5") for key in found])
        keys = [k for k, start in zip(found, starts, strict=True) if start == npy.MAGIC]
        metas = {key: meta for key in keys if (meta := moving.dataset_of(key)) is not None}
        lines = [(b"EXISTS", meta) for meta in metas.values()]
        of_datasets = {
            key for key, there in zip(metas, self.call_many(lines), strict=True) if there
        }
        return sorted(
            key[len(prefix) :].decode("utf-8", "surrogateescape")
            for key in keys
            if key not in of_datasets and len(key) > len(prefix)
        )

    def delete_tensors(self, names: Iterable[str]) -> int:
        """Delete several tensors in one go; return how many there were.

        Deleting twice is as once, so it is repeated if the connection breaks; then those
        that the first try had deleted are not counted.
        """
        keys = [self._read("tensor", name) for name in names]
        answers = self.call_many([(b"DEL", key) for key in keys])
        for answer in answers:
            if isinstance(answer, ReplyError):
                raise explain(answer, self.address, f"delete of {len(keys)} tensors")
        return sum(answers)


def _windows(arrays: Sequence[Array]) -> Iterator[range]:
    """Yield ranges of arrays that are sent in one go: at least one, at most so many bytes."""
    first = size = 0
    for i, array in enumerate(arrays):
        if i > first and (size + array.nbytes > _WINDOW_BYTES or i - first >= _WINDOW):
            yield range(first, i)
            first, size = i, 0
        size += array.nbytes
    if arrays:
        yield range(first, len(arrays))


def _ask(connection: Connection, keys: Sequence[bytes]) -> None:
    if keys:
        connection.send(b"".join([command(b"GET", key) for key in keys]), replies=len(keys))


def _receive(
    connection: Connection, names: Sequence[str], keys: Sequence[bytes], items: Sequence[int]
) -> Iterator[Any]:
    """Yield a value for each item, of which the first were asked for; ask for more in time.

    With each answer one more may be under way, as long as the server can hold so many
    of the largest so far.
    """
    asked = min(len(items), _UNKNOWN)
    window, largest = _UNKNOWN, 1
    for done, i in enumerate(items, 1):
        value: Any
        try:
            value = tensors.receive(connection, names[i])
        except ReplyError as error:
            value = error
        except DataFormatError as error:
            if connection.owed > asked - done:
                raise  # the rest of its bytes was not read: nothing more comes from here
            value = error
        else:
            largest = max(largest, 0 if value is None else value.nbytes)
        window = min(window + 1, _WINDOW, max(1, _WINDOW_BYTES // largest))
        more = min(len(items), done + window)
        if more - asked >= window // 4 or asked == done:
            _ask(connection, [keys[j] for j in items[asked:more]])
            asked = max(asked, more)
        yield value
