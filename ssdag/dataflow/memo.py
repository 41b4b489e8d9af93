# SPDX-License-Identifier: BSD-3-Clause
"""Results of calls that were made before: in memory, and in a checkpoint file.

The key of a call comes from :mod:`ssdag.dataflow.hashing`. A result that is found is
the very object that was stored (or a fresh copy, when it came from the file): like
every result that several tasks share, it should not be changed in place.
"""

from __future__ import annotations

import io
import logging
import pickle
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import cloudpickle

from ssdag.references import Reference

if TYPE_CHECKING:
    from ssdag.dataflow.checkpoint import Checkpoint

_log = logging.getLogger("ssdag")


class Memo:
    """The memory of one engine.

    ``lookup`` and ``store`` may run user code (pickling) and read the disk: they must
    be called without the engine's lock; they are safe to call from several threads.
    ``claim`` and ``release`` are plain dictionary work and belong under that lock.

    Parameters
    ----------
    checkpoint : Checkpoint, optional
        Where results outlive the run. The memo does not close it.
    max_entries : int, optional
        Results kept in memory at most; the least recently used leave, and are read
        from the file again when needed. Ignored without a checkpoint, where leaving
        would mean forgetting, and for results that could not be pickled.

    Attributes
    ----------
    hits, misses : int
        How many lookups found something, and how many did not.
    pending : dict of bytes to Any
        Key to the task in flight that computes it; see :meth:`claim`.
    """

    def __init__(
        self, checkpoint: Checkpoint | None = None, *, max_entries: int | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.max_entries = max_entries if checkpoint is not None else None
        self.hits = 0
        self.misses = 0
        self.pending: dict[bytes, Any] = {}
        self._lock = threading.Lock()
        self._saved: OrderedDict[bytes, Any] = OrderedDict()  # also in the file: may leave
        self._unsaved: dict[bytes, Any] = {}
        self._warned: set[str] = set()

    # -- finished calls --------------------------------------------------------------

    def lookup(self, key: bytes) -> tuple[bool, Any]:
        """Return ``(True, value)`` if the call was made before, else ``(False, None)``.

        The value may be a :class:`~ssdag.references.Reference`. A stored value that
        cannot be loaded any more (its class is gone) counts as not found, with a
        warning.
        """
        with self._lock:
            if key in self._unsaved:
                self.hits += 1
                return True, self._unsaved[key]
            if key in self._saved:
                self.hits += 1
                self._saved.move_to_end(key)
                return True, self._saved[key]
        found, value = self._load(key)
        with self._lock:
            if found:
                self.hits += 1
                self._keep(key, value)
            else:
                self.misses += 1
        return found, value

    def store(self, key: bytes, value: Any, app: str = "", run_time_s: float = 0.0) -> None:
        """Remember a result.

        Parameters
        ----------
        key : bytes
        value : Any
            A reference is resolved before it goes to the file, because what it names
            will be gone in the next run; memory keeps the reference.
        app : str
            Name of the app, for the file and for warnings.
        run_time_s : float
            How long the body ran, in seconds.
        """
        if self.checkpoint is None:
            with self._lock:
                self._unsaved[key] = value
            return
        try:
            blob = dumps_resolved(value)
        except Exception as error:  # user code: __reduce__ of the result, or a lost reference
            with self._lock:
                self._unsaved[key] = value
                first = app not in self._warned
                self._warned.add(app)
            if first:
                _log.warning(
                    "results of %s cannot be written to the checkpoint, and are remembered "
                    "only for this run: %s: %s",
                    app or "an app",
                    type(error).__name__,
                    error,
                )
            return
        on_disk = self.checkpoint.put(key, blob, app, run_time_s)
        with self._lock:
            if on_disk:
                self._keep(key, value)
            else:
                self._unsaved[key] = value

    def _keep(self, key: bytes, value: Any) -> None:
        self._saved[key] = value
        self._saved.move_to_end(key)
        if self.max_entries is not None and len(self._saved) > self.max_entries:
            self._saved.popitem(last=False)

    def _load(self, key: bytes) -> tuple[bool, Any]:
        if self.checkpoint is None:
            return False, None
        blob = self.checkpoint.load(key)
        if blob is None:
            return False, None
        try:
            return True, pickle.loads(blob)
        except Exception as error:  # user code: __setstate__, or an import that is gone
            with self._lock:
                first = "" not in self._warned
                self._warned.add("")
            if first:
                _log.warning(
                    "a result in the checkpoint cannot be loaded, so its task runs again: %s: %s",
                    type(error).__name__,
                    error,
                )
            return False, None

    def __len__(self) -> int:
        """Return how many results are in memory."""
        return len(self._saved) + len(self._unsaved)

    # -- calls in flight (under the engine's lock) -----------------------------------

    def claim(self, key: bytes, task: Any) -> Any | None:
        """Return the task that computes this key already, or None: then it is `task`."""
        first = self.pending.setdefault(key, task)
        return None if first is task else first

    def release(self, key: bytes, task: Any) -> None:
        """Forget that `task` computes `key`; nothing if another task claimed it."""
        if self.pending.get(key) is task:
            del self.pending[key]


def _same(value: Any) -> Any:
    return value


class _Resolving(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles the value of a reference, also deep inside the result."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Reference):
            return _same, (obj.resolve(),)
        return super().reducer_override(obj)


class _PlainResolving(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return (_same, (obj.resolve(),)) if isinstance(obj, Reference) else NotImplemented


def dumps_resolved(value: Any) -> bytes:
    """Pickle `value` with every reference in it replaced by what it stands for.

    Plain pickle first: an object of a class in ``__main__`` then comes back as that
    class in the next run of the script. What it cannot take (lambdas, local classes)
    is pickled by value.
    """
    if isinstance(value, Reference):
        value = value.resolve()
    for pickler in (_PlainResolving, _Resolving):
        buffer = io.BytesIO()
        try:
            pickler(buffer, protocol=5).dump(value)
        except Exception:  # user code: __reduce__; the second try decides
            if pickler is _Resolving:
                raise
        else:
            return buffer.getvalue()
    raise AssertionError  # not reached: the loop returns or raises


__all__ = ["Memo", "dumps_resolved"]
