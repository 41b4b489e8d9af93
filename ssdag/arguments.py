# SPDX-License-Identifier: BSD-3-Clause
"""Find futures in arguments, and put their values in place of them.

Futures are found in positional and keyword arguments and, deep, in lists, tuples
(named ones too), sets, frozensets and dictionaries (keys and values). Other containers
are opaque: a future inside them is not seen.
"""

from __future__ import annotations

import concurrent.futures as cf
from typing import TYPE_CHECKING, Any

from ssdag.errors import SsdagError
from ssdag.futures import Future
from ssdag.references import Reference, Waitable

if TYPE_CHECKING:
    from collections.abc import Callable

#: What a type means to the scan; filled as types are met. Types are few, so it is small.
_ATOM, _OPAQUE, _FUTURE, _WAITABLE, _LIST, _DICT, _NAMED = range(7)
_ATOMS = (int, float, complex, bool, str, bytes, type(None), type(...), type)
_KINDS: dict[type, int] = dict.fromkeys(_ATOMS, _ATOM)
_KINDS.update({list: _LIST, tuple: _LIST, set: _LIST, frozenset: _LIST, dict: _DICT})

#: Types that are sent inside a frame as they are; nobody can make their pickle fail.
PLAIN: frozenset[type] = frozenset({int, float, bool, str, bytes, type(None)})


def _kind(cls: type) -> int:
    if issubclass(cls, cf.Future):
        kind = _FUTURE
    elif issubclass(cls, tuple) and hasattr(cls, "_make"):
        kind = _NAMED
    elif not issubclass(cls, type) and hasattr(cls, "__ssdag_future__"):
        kind = _WAITABLE
    else:
        kind = _OPAQUE
    if len(_KINDS) < 10_000:  # classes made in a loop must not pile up here
        _KINDS[cls] = kind
    return kind


def all_plain(args: tuple[Any, ...]) -> bool:
    """Say whether arguments can be sent inside a frame as they are."""
    return PLAIN.issuperset(map(type, args))


def find(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[list[cf.Future[Any]], list[Waitable], bool]:
    """Return the futures and waitables in the arguments, and whether all are plain.

    Raises
    ------
    SsdagError
        Containers that nest too deeply or contain themselves.
    """
    futures: list[cf.Future[Any]] = []
    waitables: list[Waitable] = []
    plain = not kwargs
    kinds = _KINDS
    for arg in args:
        cls = type(arg)
        if cls in PLAIN:
            continue
        plain = False
        kind = kinds.get(cls)
        if kind is None:
            kind = _kind(cls)
        if kind == _FUTURE:
            futures.append(arg)
        elif kind > _FUTURE:
            _walk(arg, futures, waitables)
    if kwargs:
        for arg in kwargs.values():
            if type(arg) not in PLAIN:
                _walk(arg, futures, waitables)
    return futures, waitables, plain


def _walk(value: Any, futures: list[cf.Future[Any]], waitables: list[Waitable]) -> None:
    try:
        _descend(value, futures, waitables)
    except RecursionError:
        raise SsdagError(
            "an argument nests too deeply or contains itself, so its futures cannot be found"
        ) from None


def _descend(value: Any, futures: list[cf.Future[Any]], waitables: list[Waitable]) -> None:
    cls = type(value)
    kind = _KINDS.get(cls)
    if kind is None:
        kind = _kind(cls)
    if kind <= _OPAQUE:
        return
    if kind == _FUTURE:
        futures.append(value)
    elif kind == _WAITABLE:
        waitables.append(value)
    elif kind == _DICT:
        for key, item in value.items():
            _descend(key, futures, waitables)
            _descend(item, futures, waitables)
    else:
        for item in value:
            _descend(item, futures, waitables)


def raw_value(future: cf.Future[Any]) -> Any:
    """Return the result of a done future without resolving a reference.

    A future that failed or was cancelled raises its error.
    """
    if isinstance(future, Future) and future._state == "FINISHED" and future._exception is None:
        return future._result  # ours, the usual case: no locks, no calls
    error = future.exception()
    if error is not None:
        raise error
    return future._result


def fill(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Return the arguments with the (raw) values of all futures in place.

    Hashes values that stand in sets or are keys, so it may run user code: call it with
    no lock held.
    """
    plain = PLAIN
    filled = tuple([arg if type(arg) in plain else put(arg) for arg in args])
    if kwargs:
        kwargs = {name: put(arg) for name, arg in kwargs.items()}
    return filled, kwargs


def put(value: Any) -> Any:
    """Return `value` with every future in it replaced; the same object if there is none."""
    kind = _KINDS.get(type(value))
    if kind is None:
        kind = _kind(type(value))
    if kind == _FUTURE:
        return raw_value(value)
    if kind == _WAITABLE:
        return raw_value(value.__ssdag_future__())
    return value if kind <= _OPAQUE else _rebuild(value, kind, put)


def localize(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Return filled arguments with every reference resolved, for a body that runs here."""
    local = tuple([_resolve(arg) for arg in args])
    if kwargs:
        kwargs = {name: _resolve(arg) for name, arg in kwargs.items()}
    return local, kwargs


def change(value: Any, function: Callable[[Any], Any]) -> Any:
    """Return `value` with `function` applied to all that is in it but containers.

    Containers in which nothing changes are the same objects. Changed members of sets are
    hashed, which may run user code.
    """
    kind = _KINDS.get(type(value))
    if kind is None:
        kind = _kind(type(value))
    if kind < _LIST:
        return function(value)
    return _rebuild(value, kind, lambda item: change(item, function))


def change_all(
    args: tuple[Any, ...], kwargs: dict[str, Any] | None, function: Callable[[Any], Any]
) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """Return arguments with :func:`change` applied to each."""
    changed = tuple([change(arg, function) for arg in args])
    if kwargs:
        kwargs = {name: change(arg, function) for name, arg in kwargs.items()}
    return changed, kwargs


def _resolve(value: Any) -> Any:
    kind = _KINDS.get(type(value))
    if kind is None:
        kind = _kind(type(value))
    if kind == _OPAQUE and isinstance(value, Reference):
        return value.resolve()
    # Futures that are left are the value of a task: they are nobody's to look into.
    return value if kind < _LIST else _rebuild(value, kind, _resolve)


def _rebuild(value: Any, kind: int, change: Callable[[Any], Any]) -> Any:
    """Return a container with its items changed; the same one if none changes."""
    if kind == _DICT:
        items = list(value.items())
        pairs = [(change(key), change(item)) for key, item in items]
        same = all(a[0] is b[0] and a[1] is b[1] for a, b in zip(pairs, items, strict=True))
        return value if same else dict(pairs)
    old = list(value)
    new = [change(item) for item in old]
    if all(a is b for a, b in zip(new, old, strict=True)):
        return value
    return type(value)._make(new) if kind == _NAMED else type(value)(new)
