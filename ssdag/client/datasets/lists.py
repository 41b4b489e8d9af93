# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that keeps datasets in aggregation lists.

A list is a Redis list; an entry is the start of a dataset's keys, ``prefix.{name}``, as
SmartRedis has it. So it refers to a dataset and does not hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.base import call
from ssdag.client.datasets import reading as dataset_reading
from ssdag.client.datasets.calls import DatasetCalls
from ssdag.client.datasets.dataset import Dataset
from ssdag.client.datasets.keys import TRIES, busy, name_of
from ssdag.client.transport.resp import command
from ssdag.client.transport.transactions import Watch, transaction
from ssdag.errors import MissingDataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ssdag.client.transport.connection import Connection

#: Datasets that are fetched together: first few, then more if they are small.
_FIRST_WINDOW = 8
_LARGEST_WINDOW = 256

#: Entries in one command; a server has a limit to its length.
_PUSHED = 10_000


class ListCalls(DatasetCalls):
    """Aggregation lists of datasets; see :class:`ssdag.Client`."""

    def append_to_list(self, list_name: str, dataset: Dataset | str) -> int:
        """Append a dataset to a list, which is made if need be; return the new length.

        The dataset itself must be put on its own, before readers of the list need it.
        The command is never sent twice: if the connection breaks before the answer,
        StoreError says so and nobody knows whether it is appended.

        Parameters
        ----------
        list_name : str
            The list.
        dataset : Dataset or str
            The dataset, or its name.

        Raises
        ------
        DataError
            Under the name is something else than a list.
        StoreError
            The server cannot be reached or refuses.
        """
        name = dataset.name if isinstance(dataset, Dataset) else dataset
        key, entry = self._written("list", list_name), self._written_base(name)
        line = command(b"RPUSH", key, entry)
        what = f"append to list {list_name!r}"
        length: int = self._run(what, lambda c: call(c, line), key=key, idempotent=False)
        return length

    def get_list_length(self, list_name: str) -> int:
        """Return the number of datasets in a list; 0 if there is no such list."""
        key = self._read("list", list_name)
        line = command(b"LLEN", key)
        what = f"length of list {list_name!r}"
        length: int = self._run(what, lambda c: call(c, line), key=key)
        return length

    def get_datasets_from_list(self, list_name: str, *, missing_ok: bool = False) -> list[Dataset]:
        """Return all datasets of a list, in the order in which they were appended.

        Blocks while they travel, many at once. Each is read as :meth:`get_dataset` does.

        Parameters
        ----------
        list_name : str
            The list; an empty result if there is none.
        missing_ok : bool
            Leave out datasets that are not there, instead of raising.

        Raises
        ------
        MissingDataError
            A dataset of the list is not there, or not complete.
        DataFormatError
            What is stored is damaged.
        StoreError
            The server cannot be reached or refuses.
        """
        return list(self.iter_datasets_from_list(list_name, missing_ok=missing_ok))

    def get_dataset_list_range(
        self, list_name: str, start: int, end: int, *, missing_ok: bool = False
    ) -> list[Dataset]:
        """Return the datasets from place `start` to place `end` of a list, that included.

        Places count from 0; -1 is the last, -2 the one before. What is out of range is
        left out. Everything else is as in :meth:`get_datasets_from_list`.
        """
        return list(self.iter_datasets_from_list(list_name, start, end, missing_ok=missing_ok))

    def iter_datasets_from_list(
        self, list_name: str, start: int = 0, end: int = -1, *, missing_ok: bool = False
    ) -> Iterator[Dataset]:
        """Yield the datasets of a list, fetched some at a time, so that memory is bounded.

        Which datasets they are is what the list holds when this is called; everything
        else is as in :meth:`get_dataset_list_range`.
        """
        key = self._read("list", list_name)
        line = command(b"LRANGE", key, b"%d" % start, b"%d" % end)
        what = f"get of list {list_name!r}"
        entries: list[bytes] = self._run(what, lambda c: call(c, line), key=key)
        return self._each(what, entries, missing_ok)

    def _each(self, what: str, entries: Sequence[bytes], missing_ok: bool) -> Iterator[Dataset]:
        count, at = _FIRST_WINDOW, 0
        while at < len(entries):
            found = self._window(what, entries[at : at + count])
            at += count
            size = sum(one.nbytes for one in found if isinstance(one, Dataset))
            if size < dataset_reading.WINDOW_BYTES // 4:
                count = min(4 * count, _LARGEST_WINDOW)
            elif size > dataset_reading.WINDOW_BYTES:
                count = max(count // 4, 1)
            for one in found:
                if isinstance(one, Dataset):
                    yield one
                elif not missing_ok:
                    raise MissingDataError(f"{what}: {one}") from one

    def _window(self, what: str, bases: Sequence[bytes]) -> list[Dataset | MissingDataError]:
        """Return datasets, those of one server in one go."""
        names = [name_of(base) for base in bases]

        def send(connection: Connection, items: Sequence[int]) -> None:
            dataset_reading.ask_many(connection, [bases[i] for i in items])

        def receive(connection: Connection, items: Sequence[int]) -> Sequence[Any]:
            return dataset_reading.read_many(
                connection, [names[i] for i in items], [bases[i] for i in items]
            )

        found = self._run_many(what, bases, send, receive)
        for i, one in enumerate(found):
            if one is None:
                try:
                    found[i] = self._get_dataset(names[i], bases[i])
                except MissingDataError as error:
                    found[i] = error
        return found

    def copy_list(self, source: str, target: str) -> None:
        """Copy a list (not its datasets), in place of what is at `target`.

        It is one transaction within the server. In a cluster, unless both names have the
        same slot, the entries are read and then stored as one transaction.

        Raises
        ------
        MissingDataError
            There is no list of the name `source`.
        DataError
            Under that name is something else.
        StoreError
            The server cannot be reached or refuses.
        """
        begin, end = self._read("list", source), self._written("list", target)
        what = f"copy of list {source!r}"
        if self._are_together(begin, end):
            self._run(what, lambda c: _move(c, source, begin, end, b"COPY"), key=begin)
        else:
            self._copy_entries(what, source, begin, end)

    def rename_list(self, old: str, new: str) -> None:
        """Rename a list, in place of what is at `new`.

        It is one transaction, and never sent twice, see :meth:`append_to_list`. In a
        cluster, unless both names have the same slot, the entries are stored under the
        new name and then removed under the old one; what was appended there in between
        stays.

        Raises
        ------
        MissingDataError
            There is no list of the name `old`.
        DataError
            Under that name is something else.
        StoreError
            The server cannot be reached or refuses.
        """
        begin, end = self._read("list", old), self._written("list", new)
        what = f"rename of list {old!r}"
        if self._are_together(begin, end):
            self._run(
                what,
                lambda c: _move(c, old, begin, end, b"RENAME"),
                key=begin,
                idempotent=False,
            )
        else:
            entries = self._copy_entries(what, old, begin, end)
            self._remove(what, begin, entries)

    def _copy_entries(self, what: str, name: str, begin: bytes, end: bytes) -> list[bytes]:
        line = command(b"LRANGE", begin, b"0", b"-1")
        entries: list[bytes] = self._run(what, lambda c: call(c, line), key=begin)
        if not entries:
            raise _missing(name)
        lines: list[Sequence[bytes]] = [(b"DEL", end)]
        for i in range(0, len(entries), _PUSHED):
            lines.append((b"RPUSH", end, *entries[i : i + _PUSHED]))
        self._run(what, lambda c: transaction(c, lines), key=end)
        return entries

    def _remove(self, what: str, key: bytes, entries: Sequence[bytes]) -> bool:
        """Remove entries from the start of a list, if they are still there."""
        return self._run(
            what, lambda c: _trim(c, what, key, list(entries)), key=key, idempotent=False
        )

    def delete_list(self, list_name: str, *, datasets: bool = False) -> bool:
        """Delete a list; return whether there was one.

        It is never sent twice, see :meth:`append_to_list`.

        Parameters
        ----------
        list_name : str
            The list.
        datasets : bool
            Delete its datasets too. They go first, so that after an error the call can
            be repeated; what is appended meanwhile stays.

        Raises
        ------
        DataError
            Under the name is something else than a list.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._read("list", list_name)
        what = f"delete of list {list_name!r}"
        if not datasets:
            return self._run(what, lambda c: _delete(c, what, key), key=key, idempotent=False)
        whole = command(b"LRANGE", key, b"0", b"-1")
        entries: list[bytes] = self._run(what, lambda c: call(c, whole), key=key)
        for entry in dict.fromkeys(entries):
            self._delete_dataset(name_of(entry), entry)
        if entries:
            self._remove(what, key, entries)
        return bool(entries)


def _missing(name: str) -> MissingDataError:
    return MissingDataError(
        f"no list {name!r} is stored; wait_list({name!r}, length) waits until it has entries"
    )


def _move(connection: Connection, name: str, begin: bytes, end: bytes, word: bytes) -> None:
    """Copy or rename a list within its server."""
    options = (b"REPLACE",) if word == b"COPY" else ()
    for _ in range(TRIES):
        with Watch(connection) as watch:
            if not watch.look((b"WATCH", begin), (b"LLEN", begin))[1]:
                raise _missing(name)
            lines = [] if begin == end else [(word, begin, end, *options)]
            if watch.transaction(lines) is not None:
                return
    raise busy(f"{word.decode().lower()} of list {name!r}")


def _delete(connection: Connection, what: str, key: bytes) -> bool:
    """Delete a list, and nothing else of this name; return whether there was one."""
    for _ in range(TRIES):
        with Watch(connection) as watch:
            length = watch.look((b"WATCH", key), (b"LLEN", key))[1]
            if watch.transaction([(b"UNLINK", key)] if length else []) is not None:
                return bool(length)
    raise busy(what)


def _trim(connection: Connection, what: str, key: bytes, entries: list[bytes]) -> bool:
    """Remove entries from the start of a list; False if others are there by now."""
    last = b"%d" % (len(entries) - 1)
    for _ in range(TRIES):
        with Watch(connection) as watch:
            if watch.look((b"WATCH", key), (b"LRANGE", key, b"0", last))[1] != entries:
                return False
            if watch.transaction([(b"LTRIM", key, b"%d" % len(entries), b"-1")]) is not None:
                return True
    raise busy(what)
