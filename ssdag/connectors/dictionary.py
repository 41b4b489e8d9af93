# SPDX-License-Identifier: BSD-3-Clause
"""A dictionary that tasks share, on any connector."""

from __future__ import annotations

import re
from collections.abc import ItemsView, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ssdag.client.transport.deadline import Deadline
from ssdag.connectors import dictionary_keys
from ssdag.connectors.checkpoints import Checkpoints
from ssdag.connectors.chosen import connector_of
from ssdag.connectors.values import from_bytes, to_parts
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ssdag.connectors.base import Connector
    from ssdag.connectors.dictionary_keys import Key

V = TypeVar("V")
D = TypeVar("D")

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")

_NOTHING: Any = object()


class DistributedDict(MutableMapping[Any, V], Generic[V]):
    """A dictionary whose values are in a connector, for all processes that have it.

    It may be passed to tasks, and opened by any program with the same store and name.
    Each value is whole: it is replaced, added and removed in one step. What is read is
    the reader's own copy; changing it changes nothing in the dictionary. Arrays are
    stored as NPY files, other values are pickled.

    Parameters
    ----------
    store : Connector, Orchestrator, Client, str or path
        Where the values are; a text is the address of a server, or a folder.
    name : str
        Keeps the dictionaries of one store apart: up to 32 letters, digits, ``_``, ``.``
        and ``-``.

    Raises
    ------
    ConfigError
        The name or the store cannot be one.

    Notes
    -----
    Keys are texts, whole numbers, and tuples of these, of 1 to 100 bytes as text.
    ``len`` and all that goes through the keys look at every key of the store, and see
    those that come or go meanwhile or not. A method that raises
    :class:`~ssdag.StoreError` leaves open whether it was done.

    Examples
    --------
    >>> shared = DistributedDict(db)  # doctest: +SKIP
    >>> shared["rank", 3] = np.ones(8)  # doctest: +SKIP
    >>> shared.get("model", timeout_s=60)  # waits until a task puts it  # doctest: +SKIP
    """

    def __init__(self, store: Any, name: str = "dict") -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"name={name!r}: 1 to 32 letters, digits and _ . - are possible")
        self._connector = connector_of(store)
        self._name = name
        self._checkpoints = Checkpoints(self._connector, name)

    @property
    def connector(self) -> Connector:
        """Where the values are."""
        return self._connector

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self._name

    def __repr__(self) -> str:
        return f"<DistributedDict {self._name!r} in {self._connector!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._connector, self._name)

    def __ssdag_hash__(self) -> bytes:
        # Where data are kept does not tell calls apart.
        return b"dict " + self._name.encode()

    # It is a place, not its contents: comparing those would fetch all of them.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # -- one value -------------------------------------------------------------------

    def _key(self, key: object) -> str:
        return f"{self._name}:{dictionary_keys.encode(key)}"

    def __setitem__(self, key: Any, value: V) -> None:
        """Put a value in place of what is there.

        Raises
        ------
        DataFormatError
            The key cannot be one.
        SerializationError
            The value cannot be pickled.
        StoreError
            No room, or the store cannot be reached.
        """
        self._connector.write(self._key(key), to_parts(value))

    def __getitem__(self, key: Any) -> V:
        """Return a value that is there.

        Raises
        ------
        MissingDataError
            There is none; it is a KeyError.
        StoreError
            The store cannot be reached.
        """
        try:
            value: V = from_bytes(self._connector.read(self._key(key)))
        except MissingDataError:
            raise self._missing(key) from None
        return value

    def __delitem__(self, key: Any) -> None:
        """Remove a value; raises MissingDataError, a KeyError, if there is none."""
        if not self._connector.delete(self._key(key)):
            raise self._missing(key)

    def __contains__(self, key: object) -> bool:
        """Return whether there is a value; its bytes are not fetched."""
        return self._connector.exists(self._key(key))

    def get(self, key: Any, default: Any = _NOTHING, *, timeout_s: float | None = 0.0) -> Any:
        """Return a value, after waiting for it if need be.

        Parameters
        ----------
        key : str, int or tuple
            The key.
        default : object, optional
            What to return if there is no value in time; None if it need not be waited
            for.
        timeout_s : float or None
            How long to wait for it; None for ever.

        Raises
        ------
        DataTimeoutError
            It did not come in time, or the server hangs, and there is no `default`.
        StoreError
            The store is lost.
        """
        place = self._key(key)
        if timeout_s == 0.0:
            try:
                return from_bytes(self._connector.read(place))
            except MissingDataError:
                return None if default is _NOTHING else default
        try:
            with Deadline(timeout_s) as deadline:
                return self._wait_for(place, deadline)
        except DataTimeoutError as error:
            if default is not _NOTHING:
                return default
            text = f"{key!r} did not come within {timeout_s} s in {self!r}"
            raise DataTimeoutError(text) from error

    def _wait_for(self, place: str, deadline: Deadline) -> Any:
        while True:
            try:
                return from_bytes(self._connector.read(place))
            except MissingDataError:
                self._connector.wait(place, deadline.left_s)

    def pop(self, key: Any, default: Any = _NOTHING) -> Any:
        """Remove a value and return it; of several that pop it one gets it.

        Raises
        ------
        MissingDataError
            There is none, and no `default`.
        """
        try:
            return from_bytes(self._connector.take(self._key(key)))
        except MissingDataError:
            if default is _NOTHING:
                raise self._missing(key) from None
            return default

    def popitem(self) -> tuple[Any, V]:
        """Remove some value and return it with its key; of several each gets another.

        Raises
        ------
        MissingDataError
            The dictionary is empty.
        """
        for key in self:
            value = self.pop(key, _GONE)
            if value is not _GONE:
                return key, value
        raise MissingDataError(f"{self!r} is empty")

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value that is there; if there is none, put `default`, and return it.

        Of several that do so at once one puts its value, and all return it.
        """
        place = self._key(key)
        parts = to_parts(default)
        while True:
            try:
                return from_bytes(self._connector.read(place))
            except MissingDataError:
                if self._connector.add(place, parts):
                    return default

    # -- all values ------------------------------------------------------------------

    def __iter__(self) -> Iterator[Key]:
        """Go through the keys that are there now, sorted as texts."""
        start = f"{self._name}:"
        for place in self._connector.keys(start + "*"):
            key = dictionary_keys.decode(place[len(start) :])
            if key is not None:
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self) -> ItemsView[Any, V]:
        """Return a view of keys and values; values that go meanwhile are left out."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values; those that go meanwhile are left out."""
        return _Values(self)

    def clear(self) -> None:
        """Remove all values that are there now; checkpoints stay."""
        self._connector.delete_many([self._key(key) for key in self])

    # -- checkpoints -----------------------------------------------------------------

    def checkpoint(self, name: str, keys: Iterable[Any] | None = None) -> int:
        """Save values under a name, in place of an earlier checkpoint of that name.

        In a folder it takes no space until a value changes; on a server the values are
        copied there. The checkpoint is there when it is complete, or not at all.

        Parameters
        ----------
        name : str
            Up to 32 letters, digits, ``_`` and ``-``.
        keys : iterable of keys, optional
            Those to save; by default all. A key without a value is saved as such.

        Returns
        -------
        int
            How many values it holds.

        Notes
        -----
        Each value is whole, but one that a task replaces meanwhile is the old or the
        new one: checkpoint where nobody writes, such as between two steps.
        """
        chosen = None if keys is None else [dictionary_keys.encode(key) for key in keys]
        return self._checkpoints.save(name, chosen)

    def rollback(self, name: str) -> int:
        """Put back the values of a checkpoint; it stays, and may be rolled back to again.

        Keys that had no value then lose theirs: of all keys, or of those that were
        chosen. If it is interrupted, repeat it.

        Returns
        -------
        int
            How many values were put back.

        Raises
        ------
        MissingDataError
            There is no such checkpoint, or the store has lost a part of it, or somebody
            is replacing it.
        """
        return self._checkpoints.restore(name)

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints, sorted."""
        return self._checkpoints.names()

    def delete_checkpoint(self, name: str) -> bool:
        """Remove a checkpoint; return whether there was one."""
        return self._checkpoints.delete(name)

    def close(self) -> None:
        """Let go of connections; see :meth:`ssdag.connectors.Connector.close`."""
        self._connector.close()

    def _missing(self, key: object) -> MissingDataError:
        return MissingDataError(f"nothing is stored under {key!r} in {self!r}")


#: Stands for a value that somebody else has popped.
_GONE: Any = object()


class _Items(ItemsView[Any, V]):
    """Keys and values, without those that go meanwhile."""

    _mapping: DistributedDict[V]

    def __iter__(self) -> Iterator[tuple[Any, V]]:
        for key in self._mapping:
            value = self._mapping.get(key, _GONE)
            if value is not _GONE:
                yield key, value


class _Values(ValuesView[V]):
    """Values, without those that go meanwhile."""

    _mapping: DistributedDict[V]

    def __iter__(self) -> Iterator[V]:
        for _, value in _Items(self._mapping):
            yield value
