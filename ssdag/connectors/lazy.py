# SPDX-License-Identifier: BSD-3-Clause
"""Arguments that are fetched when they are first used: ``python_app(lazy=True)``.

The body gets a :class:`Proxy`, which behaves as the value does, and fetches it at the
first use. What a body never looks at is never sent.
"""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any

from ssdag.connectors.stored import StoredValue
from ssdag.errors import LostValueError
from ssdag.references import Reference, note_unresolved
from ssdag.wire.shared import SharedValue

if TYPE_CHECKING:
    from collections.abc import Callable

_UNSET: Any = object()


class LazyReference(Reference):
    """A reference that resolves to a proxy of its value.

    Parameters
    ----------
    inner : Reference
        What the proxy fetches.
    """

    __slots__ = ("inner",)

    def __init__(self, inner: Reference) -> None:
        self.inner = inner

    def resolve(self) -> Any:
        """Return a proxy; nothing is fetched."""
        return Proxy(self.inner.resolve)

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return (self.inner,)

    def __reduce__(self) -> tuple[Any, ...]:
        inner = self.inner
        if isinstance(inner, StoredValue) and inner.kept:
            return inner.__reduce__()
        if type(inner).__reduce__ is StoredValue.__reduce__ or _usual(inner):
            load, parts = inner.__reduce__()
            return _proxy, (load, parts)
        return inner.__reduce__()


def _usual(reference: Reference) -> bool:
    return type(reference).__reduce__ is Reference.__reduce__


def _proxy(load: Callable[..., Any], parts: tuple[Any, ...]) -> Any:
    proxy = Proxy(lambda: load(*parts))
    note_unresolved(proxy, resolved)
    return proxy


def lazily(value: Any) -> Any:
    """Return a lazy reference in place of a reference, if it pays; else the value itself.

    Values in shared memory are left alone: they are here already.
    """
    if not isinstance(value, Reference) or isinstance(value, LazyReference | SharedValue):
        return value
    return LazyReference(value)


def resolved(value: Any) -> Any:
    """Return the value that a proxy stands for, fetched now if need be; others as they are.

    Examples
    --------
    >>> resolved(3)
    3
    """
    return _value(value) if type(value) is Proxy else value


def is_resolved(value: Any) -> bool:
    """Say whether a proxy has its value; True for whatever is no proxy."""
    return type(value) is not Proxy or object.__getattribute__(value, "_value") is not _UNSET


def _value(proxy: Any) -> Any:
    get = object.__getattribute__
    value = get(proxy, "_value")
    if value is _UNSET:
        try:
            value = get(proxy, "_load")()
        except LostValueError as error:
            error.in_body = True
            raise
        object.__setattr__(proxy, "_value", value)
        object.__setattr__(proxy, "_load", None)
    return value


class Proxy:
    """Stands for a value that is fetched at the first use; made by ssdag.

    ``isinstance`` sees the value's class, operators and attributes work, NumPy takes it
    for an array. Where the very object is needed (``is``, C code that checks types),
    :func:`resolved` returns it. Pickled, it arrives as the value.

    Parameters
    ----------
    load : callable
        Returns the value.
    """

    __slots__ = ("__weakref__", "_load", "_value")

    def __init__(self, load: Callable[[], Any]) -> None:
        object.__setattr__(self, "_load", load)
        object.__setattr__(self, "_value", _UNSET)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(_value(self))

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(_value(self), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_value(self), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(_value(self), name)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        if copy is None:
            return np.asarray(_value(self), dtype)
        return np.array(_value(self), dtype, copy=copy)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _value(self)(*args, **kwargs)

    def __format__(self, spec: str) -> str:
        return format(_value(self), spec)

    def __round__(self, *digits: Any) -> Any:
        return round(_value(self), *digits)

    def __enter__(self) -> Any:
        return _value(self).__enter__()

    def __exit__(self, *error: Any) -> Any:
        return _value(self).__exit__(*error)

    def __pow__(self, other: Any, *modulo: Any) -> Any:
        return pow(_value(self), resolved(other), *modulo)

    def __rpow__(self, other: Any) -> Any:
        return other ** _value(self)

    def __copy__(self) -> Any:
        return copy.copy(_value(self))

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(_value(self), memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _same, (_value(self),)


_OWN = frozenset({"__class__", "__reduce_ex__", "__deepcopy__", "__copy__", "__array__"})


def _same(value: Any) -> Any:
    return value


def _one(function: Callable[[Any], Any]) -> Any:
    return lambda self: function(_value(self))


def _two(function: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: function(_value(self), resolved(other))


def _turned(function: Callable[[Any, Any], Any]) -> Any:
    return lambda self, other: function(other, _value(self))


def _give_operators() -> None:
    for function in (repr, str, bytes, bool, int, float, complex, hash, len, iter, next, dir,
                     reversed, abs):  # fmt: skip
        setattr(Proxy, f"__{function.__name__}__", _one(function))
    for name in ("index", "neg", "pos", "invert"):
        setattr(Proxy, f"__{name}__", _one(getattr(operator, name)))
    for name in ("trunc", "floor", "ceil"):
        setattr(Proxy, f"__{name}__", _one(operator.methodcaller(f"__{name}__")))
    for name in ("lt", "le", "eq", "ne", "gt", "ge", "contains", "getitem", "delitem"):
        setattr(Proxy, f"__{name}__", _two(getattr(operator, name)))
    for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "lshift",
                 "rshift", "and", "or", "xor"):  # fmt: skip
        function = getattr(operator, name, None) or getattr(operator, f"{name}_")
        setattr(Proxy, f"__{name}__", _two(function))
        setattr(Proxy, f"__r{name}__", _turned(function))
        # The name that it is assigned to gets the changed value, and no proxy.
        setattr(Proxy, f"__i{name}__", _two(getattr(operator, f"i{name}")))
    special: dict[str, Any] = {"divmod": _two(divmod), "rdivmod": _turned(divmod)}
    special["setitem"] = lambda self, key, item: operator.setitem(_value(self), key, item)
    for name, method in special.items():
        setattr(Proxy, f"__{name}__", method)


_give_operators()
