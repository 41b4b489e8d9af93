# SPDX-License-Identifier: BSD-3-Clause
"""Values that live elsewhere, and objects that stand for a future.

A :class:`Reference` may be a future's raw result. ``future.result()`` resolves it in
the process that asks; as an argument of a task it travels as itself and is resolved
where the task runs. An object with ``__ssdag_future__`` (an orchestrator) may be
passed to an app in place of a future.
"""

from __future__ import annotations

import contextlib
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

#: Proxies of this worker that have not fetched their values, and how they do.
UNRESOLVED: dict[int, tuple[weakref.ref[Any], Callable[[Any], Any]]] = {}


def note_unresolved(proxy: Any, fetch: Callable[[Any], Any]) -> None:
    """Note a proxy whose value must be fetched while its task holds it."""
    place = id(proxy)
    UNRESOLVED[place] = weakref.ref(proxy, lambda _: UNRESOLVED.pop(place, None)), fetch


def fetch_unresolved() -> None:
    """Fetch what living proxies stand for: their task ends, and the values may be freed.

    What cannot be fetched says so when it is used.
    """
    while UNRESOLVED:
        with contextlib.suppress(KeyError):  # the collector was quicker
            reference, fetch = UNRESOLVED.popitem()[1]
            proxy = reference()
            if proxy is not None:
                with contextlib.suppress(Exception):  # classes of the value load themselves
                    fetch(proxy)
                del proxy


def resolve_here(reference: Reference) -> Any:
    """Return the value of a reference; what a pickled reference is loaded as."""
    return reference.resolve()


class Reference(ABC):
    """A value that is fetched where it is used.

    Pickling a reference pickles a call that resolves it, so that the receiver gets
    the value itself. A subclass that must be resolved gives its parts through
    :meth:`__ssdag_parts__`.
    """

    __slots__ = ()

    @abstractmethod
    def resolve(self) -> Any:
        """Fetch the value; may block on the network or the disk."""

    @abstractmethod
    def __ssdag_parts__(self) -> tuple[Any, ...]:
        """Return the constructor's arguments, each of them picklable."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (type(self), self.__ssdag_parts__())


def _load(cls: type[Reference], parts: tuple[Any, ...]) -> Any:
    return cls(*parts).resolve()


@runtime_checkable
class Waitable(Protocol):
    """An object that an app accepts in place of a future, such as a service node."""

    def __ssdag_future__(self) -> Future[Any]:
        """Return the future to wait for; its raw result replaces the object."""
