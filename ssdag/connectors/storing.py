# SPDX-License-Identifier: BSD-3-Clause
"""The wrapper of a body that stores its large results, in the worker that made them."""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from ssdag.connectors.filesystem import machine
from ssdag.connectors.packing import pack
from ssdag.connectors.stored import Arrived, opened
from ssdag.errors import SerializationError, SsdagError
from ssdag.wire import context
from ssdag.wire.functions import dump_function, load_function, runnable
from ssdag.wire.raised import WRAPPERS

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("ssdag")

_ATOMS = frozenset({int, float, complex, bool, type(None), type})
#: Places of which this process has said that they cannot be written to.
_TOLD: set[bytes] = set()
#: A place that fails after so long is not tried again for so long: nobody is there, say.
_SLOW_S, _AVOIDED_S = 1.0, 60.0
_AVOIDED_UNTIL: dict[bytes, float] = {}
_TEXTS = frozenset({str, bytes, bytearray})


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
        by_driver = packed if worker else value
        if packed.nbytes < self._threshold:
            return by_driver
        key = self._prefix + secrets.token_hex(8)
        began = time.monotonic()
        if began < _AVOIDED_UNTIL.get(self._blob, began):
            return by_driver
        try:
            opened(self._blob).write(key, packed.parts())
        except (SsdagError, OSError) as error:
            told = _log.debug if self._blob in _TOLD else _log.warning
            _TOLD.add(self._blob)
            if time.monotonic() - began > _SLOW_S:
                _AVOIDED_UNTIL[self._blob] = time.monotonic() + _AVOIDED_S
            told("a result of %d bytes cannot be stored, and is sent to the driver: %s: %s",
                 packed.nbytes, type(error).__name__, error)  # fmt: skip
            return by_driver
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
