# SPDX-License-Identifier: BSD-3-Clause
"""Values in a connector that travel as references, and the wrapper that puts them there.

A worker that made a large value stores it and answers with an :class:`Arrived`; the
driver makes a :class:`StoredValue` of that, which as an argument is loaded where the task
runs. When the driver's last reference is collected, the value is deleted.
"""

from __future__ import annotations

import functools
import logging
import pickle
import secrets
import weakref
from typing import TYPE_CHECKING, Any

from ssdag.connectors.filesystem import machine
from ssdag.connectors.packing import Packed, pack, unpack
from ssdag.errors import LostValueError, MissingDataError, SerializationError, SsdagError
from ssdag.references import Reference
from ssdag.wire import context
from ssdag.wire.functions import dump_function, load_function, runnable
from ssdag.wire.raised import WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.connectors.base import Connector
    from ssdag.futures import Future

_log = logging.getLogger("ssdag")

_ATOMS = frozenset({int, float, complex, bool, type(None), type})
_TEXTS = frozenset({str, bytes, bytearray})


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
    )

    def __init__(self, place: Place, key: str, nbytes: int) -> None:
        self.place = place
        self.key = key
        self.nbytes = nbytes
        self.origin: Any = None
        self.mend: Callable[[StoredValue], None] | None = None
        self.remaking: Future[None] | None = None
        self.remade = 0
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


class Storing:
    """A body whose large results go into a connector.

    Parameters
    ----------
    func : callable
        The body.
    blob : bytes
        The connector, see :class:`Place`.
    prefix : str
        Begins the keys.
    threshold : int
        Bytes from which a value is large.
    node : str or None
        Workers of this machine alone reach the connector; None if all do.
    always : bool
        Also where workers and driver share memory.
    """

    __slots__ = ("_always", "_blob", "_call", "_func", "_node", "_prefix", "_threshold")

    def __init__(
        self,
        func: Callable[..., Any],
        blob: bytes,
        prefix: str,
        threshold: int,
        node: str | None,
        *,
        always: bool,
    ) -> None:
        self._func = func
        self._call = runnable(func)
        self._blob = blob
        self._prefix = prefix
        self._threshold = threshold
        self._node = node
        self._always = always

    def __reduce__(self) -> tuple[Any, ...]:
        function = dump_function(self._func)
        options = self._blob, self._prefix, self._threshold, self._node, self._always
        return _storing, (function, *options)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the body; return its value, or what stands for it."""
        return self._outgoing(self._call(*args, **kwargs))

    def _outgoing(self, value: Any) -> Any:
        if is_light(value, self._threshold):
            return value
        worker = context.in_worker()
        if not self._always and (not worker or context.shares_memory()):
            return value
        if self._node is not None and self._node != machine():
            return value
        try:
            packed = pack(value)
        except SerializationError:  # said better by who sends it
            return value
        if packed.nbytes < self._threshold:
            return packed if worker else value
        key = self._prefix + secrets.token_hex(8)
        try:
            opened(self._blob).write(key, packed.parts())
        except (SsdagError, OSError) as error:
            _log.warning("a result of %d bytes cannot be stored, and is sent to the driver: %s: %s",
                         packed.nbytes, type(error).__name__, error)  # fmt: skip
            return packed if worker else value
        return Arrived(key, packed.nbytes)


def _storing(
    function: bytes, blob: bytes, prefix: str, threshold: int, node: str | None, always: bool
) -> Storing:
    return Storing(load_function(function), blob, prefix, threshold, node, always=always)


def is_light(value: Any, threshold: int) -> bool:
    """Say whether a value is surely below a size, where that is seen without pickling it."""
    cls = type(value)
    if cls in _ATOMS:
        return True
    if cls in _TEXTS:
        return len(value) < threshold
    if cls.__module__ == "numpy" and not getattr(value, "dtype", _OBJECTS).hasobject:
        return bool(value.nbytes < threshold)
    return False


class _OBJECTS:
    """Stands for the dtype of what has none."""

    hasobject = True


def weight(value: Any) -> int:
    """Return the bytes of a value that says its size, 0 if it does not.

    Texts, bytes, and whatever has ``nbytes``: arrays, tensors, tables.
    """
    cls = type(value)
    if cls in _ATOMS:
        return 0
    if cls in _TEXTS:
        return len(value)
    if isinstance(value, memoryview):
        return 0  # it cannot be pickled
    try:
        size = value.nbytes
    except Exception:  # user code
        return 0
    return size if type(size) is int else 0


WRAPPERS.add(__file__)

__all__ = ["Arrived", "Packed", "Place", "StoredValue", "Storing", "fetch", "is_light", "weight"]
