# SPDX-License-Identifier: BSD-3-Clause
"""Values in a connector that travel as references.

A worker that made a large value stores it (:mod:`ssdag.connectors.storing`) and answers
with an :class:`Arrived`; the driver makes a :class:`StoredValue` of that, which as an
argument is loaded where the task runs. When the driver's last reference is collected, the
value is deleted.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import weakref
from typing import TYPE_CHECKING, Any

from ssdag.connectors.packing import unpack
from ssdag.errors import LostValueError, MissingDataError, SsdagError
from ssdag.references import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.connectors.base import Connector
    from ssdag.futures import Future


class Place:
    """A connector that many references share, opened once in each process.

    Parameters
    ----------
    connector : Connector
        It is pickled here, once.
    """

    __slots__ = ("_blob", "_shown", "connector")

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._blob = pickle.dumps(connector, 5)
        self._shown = repr(connector)  # now that it is there, for when it is not

    def __repr__(self) -> str:
        return self._shown

    @property
    def blob(self) -> bytes:
        """The bytes for :func:`opened`."""
        return self._blob


@functools.lru_cache(maxsize=64)
def opened(blob: bytes) -> Connector:
    """Return this process's connector of a :class:`Place`."""
    connector: Connector = pickle.loads(blob)
    return connector


def fetch(blob: bytes, key: str) -> Any:
    """Return a stored value; what a pickled :class:`StoredValue` is loaded as.

    Raises
    ------
    LostValueError
        It is not there, or the connector cannot be reached from here.
    """
    try:
        data = opened(blob).read(key)
    except MissingDataError:
        raise LostValueError(
            f"the value {key} is not where it was stored: the server was restarted, it was "
            "removed to make room, or its engine has ended",
            key=key,
        ) from None
    except (SsdagError, OSError) as error:
        raise LostValueError(
            f"the value {key} cannot be fetched: {type(error).__name__}: {error}", key=key
        ) from error
    return unpack(data)


def _load_kept(data: Any) -> Any:
    return unpack(memoryview(data))


class StoredValue(Reference):
    """A value in a connector, as the driver refers to it.

    Parameters
    ----------
    place : Place
        Where it is.
    key : str
        Under which name.
    nbytes : int
        Its size.

    Attributes
    ----------
    origin : object or None
        What it takes to make it again.
    mend : callable or None
        ``mend(self)`` has it made again and returns when that is done, or raises.
    remaking : Future or None
        While it is being made again.
    remade : int
        How often that was begun.
    source : weakref or None
        The driver's object that was stored, where there is one.
    """

    __slots__ = (
        "__weakref__",
        "_finalizer",
        "_kept",
        "key",
        "mend",
        "nbytes",
        "origin",
        "place",
        "remade",
        "remaking",
        "source",
    )

    def __init__(self, place: Place, key: str, nbytes: int) -> None:
        self.place = place
        self.key = key
        self.nbytes = nbytes
        self.origin: Any = None
        self.mend: Callable[[StoredValue], None] | None = None
        self.remaking: Future[None] | None = None
        self.remade = 0
        self.source: weakref.ref[Any] | None = None
        self._kept: memoryview | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<StoredValue {self.key} of {self.nbytes} bytes>"

    def owned_by(self, release: Callable[[str], None]) -> None:
        """Have `release` called with the key when nobody refers to this any more."""
        self._finalizer = weakref.finalize(self, release, self.key)
        self._finalizer.atexit = False

    @property
    def kept(self) -> bool:
        """Whether the bytes are in the driver's memory, and travel by value."""
        return self._kept is not None

    def keep(self, data: memoryview | None = None) -> None:
        """Take the bytes into the driver's memory: those of the connector, or other ones.

        Raises
        ------
        MissingDataError, StoreError
            They cannot be read.
        """
        self._kept = self.place.connector.read(self.key) if data is None else data

    def copy_of(self, source: Any) -> None:
        """Note that it was stored by this process, which may still have the object."""
        with contextlib.suppress(TypeError):  # bytes, say
            self.source = weakref.ref(source)

    def move_to(self, other: StoredValue, release: Callable[[str], None]) -> None:
        """Stand for the value of another reference, which is given up."""
        for value in (self, other):
            if value._finalizer is not None:
                value._finalizer.detach()
        self.place, self.key, self.nbytes = other.place, other.key, other.nbytes
        self.owned_by(release)

    def resolve(self) -> Any:
        """Fetch the value; in the driver it is made again if it is lost and may be.

        Raises
        ------
        LostValueError
            It is gone.
        """
        if self._kept is None:
            try:
                return fetch(self.place.blob, self.key)
            except LostValueError:
                if self.mend is None:
                    raise
                self.mend(self)
        if self._kept is not None:
            return unpack(memoryview(bytearray(self._kept)))
        return fetch(self.place.blob, self.key)

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return self.place.blob, self.key

    def __reduce__(self) -> tuple[Any, ...]:
        if self._kept is not None:
            import numpy as np

            # An array, because views of views in a cycle of garbage crash Python 3.11.
            whole: Any = np.frombuffer(self._kept, np.uint8)
            return _load_kept, (pickle.PickleBuffer(whole),)
        return fetch, (self.place.blob, self.key)


class Arrived:
    """A worker's answer that stands for a value which it has stored.

    Parameters
    ----------
    key : str
        Where it is.
    nbytes : int
        Its size.
    """

    __slots__ = ("key", "nbytes")

    def __init__(self, key: str, nbytes: int) -> None:
        self.key = key
        self.nbytes = nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrived, (self.key, self.nbytes)
