# SPDX-License-Identifier: BSD-3-Clause
"""What a benchmark asks of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: Every backend runs this many workers.
WORKERS = 2

#: The scalar measures; a backend without futures can do these only.
BULK = ("noop", "map", "array_1mb", "array_10mb", "busy_1ms", "busy_10ms")


class Backend(ABC):
    """One way to run Python functions on two workers of this machine.

    A backend is used by one thread of one fresh process: ``load``, ``start``, many
    ``submit`` and ``gather``, ``stop``. It is set up as its own documentation advises
    for throughput, with logging, dashboards and usage reports off.
    """

    #: Processes of their own; False where tasks are threads and arrays are never copied.
    processes = True
    #: Futures can be arguments of `submit`. False: only `bulk` is there.
    graph = True
    #: Tasks held back by the pending-memory measure.
    pending = 20_000

    @abstractmethod
    def load(self) -> None:
        """Import the peer (timed apart from `start`)."""

    @abstractmethod
    def start(self) -> None:
        """Start the workers, or whatever starts them on demand."""

    @abstractmethod
    def stop(self) -> None:
        """End what `start` started."""

    @abstractmethod
    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """Run ``fn(*args)`` when the futures among `args` are there; returns a future."""

    @abstractmethod
    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """The results of `futures`, in order; blocks."""

    def result(self, future: Any) -> Any:
        """The result of one future; blocks."""
        return self.gather([future])[0]

    def bulk(self, fn: Callable[..., Any], arguments: Iterable[Any]) -> list[Any]:
        """``[fn(a) for a in arguments]`` on the workers; blocks."""
        return self.gather([self.submit(fn, a) for a in arguments])

    def map(self, fn: Callable[..., Any], arguments: Sequence[Any]) -> list[Any]:
        """The same by the backend's own call for long lists, where it has one; blocks."""
        return self.bulk(fn, arguments)
