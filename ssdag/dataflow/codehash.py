# SPDX-License-Identifier: BSD-3-Clause
"""Digests of functions and classes: what must be the same for an old result to hold.

A function is its module and name; its compiled body with all constants; defaults;
the values in its closure; the functions of the same module that it calls by name, and
those that they call; and the module's plain constants (numbers, strings, and tuples
of them) that any of these read. So editing a helper or a ``CUTOFF = 5.0`` makes old
results invalid, while comments, layout and the text of the docstring do not. What is
imported from other modules counts by name only.

The compiled body stands for the source because it is always there (lambdas, functions
typed at a prompt), is never out of step with what runs (a script edited meanwhile) and
has no comments. Another minor version of Python compiles differently: tasks run again.

A class is its name and, if it is the user's own (neither built in nor installed), its
methods and plain constants, and those of its bases.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ssdag.dataflow import arrayhash
from ssdag.dataflow.encoding import FINDERS, SIZE, Feeder, Update, Walk, class_name, sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LRU = type(functools.lru_cache(len))
_BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_class_digests: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()


def function_digest(fn: Callable[..., Any]) -> bytes:
    """Return the 20-byte digest of a function or other callable.

    It is made anew at each call, because closures may change; make it once per app.

    Raises
    ------
    SerializationError
        A default or closure value cannot be digested.
    """
    hasher = blake2b(digest_size=SIZE)
    walk = Walk()
    walk.feed(hasher.update, fn)
    if not isinstance(fn, (types.FunctionType, type)) and "__call__" in dir(type(fn)):
        call = type(fn).__call__  # an object with __call__: its class may be an installed one
        walk.feed(hasher.update, call)
    return hasher.digest()


def feeder_for(cls: type) -> Feeder | None:
    """Return what encodes values of a type of code, or None."""
    if issubclass(cls, type):
        return _class
    if issubclass(cls, functools.partial):
        return _partial
    if cls in _BUILTIN:
        return _builtin
    return _FEEDERS.get(cls)


# -- functions -----------------------------------------------------------------------


def _function(update: Update, value: types.FunctionType, walk: Walk) -> None:
    if value in walk.code:  # it calls itself through its closure or its class
        sized(update, b"@", _name(value))
        return
    inner = Walk(walk.code | {value})
    hasher = blake2b(_name(value), digest_size=SIZE)
    _own(hasher.update, value, inner)
    for name, helper in sorted(_reached(value).items()):
        inner.feed(hasher.update, name)
        _own(hasher.update, helper, inner)
    sized(update, b"@", hasher.digest())


def _own(update: Update, fn: types.FunctionType, walk: Walk) -> None:
    """Encode what belongs to the function itself."""
    _code(update, fn.__code__, walk, docstring=fn.__doc__)
    walk.feed(update, fn.__defaults__)
    walk.feed(update, fn.__kwdefaults__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        walk.feed(update, name)
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        walk.feed(update, content)
    constants = {
        name: value
        for name in _names(fn.__code__)
        if name in fn.__globals__ and _plain(value := fn.__globals__[name])
        and not name.startswith("__")
    }  # fmt: skip
    walk.feed(update, constants)


def _reached(fn: types.FunctionType) -> dict[str, types.FunctionType]:
    """Return the functions of the same module that `fn` uses, directly or not."""
    found: dict[str, types.FunctionType] = {}
    open_ = [fn]
    for user in open_:  # grows while it is read
        for name in _names(user.__code__):
            other = user.__globals__.get(name)
            if isinstance(other, _LRU):
                other = other.__wrapped__
            if (
                isinstance(other, types.FunctionType)
                and other.__module__ == fn.__module__
                and other is not fn
                and name not in found
            ):
                found[name] = other
                open_.append(other)
    return found


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a body may look up; attribute names are among them."""
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_plain, value))
    return type(value) in _PLAIN


def _code(update: Update, code: types.CodeType, walk: Walk, docstring: str | None = None) -> None:
    consts = code.co_consts
    if docstring is not None and consts and consts[0] is docstring:
        consts = (None, *consts[1:])
    update(b"K")
    sized(update, b"k", code.co_code)
    sized(update, b"x", code.co_exceptiontable)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    walk.feed(update, (code.co_name, counts))
    walk.feed(update, (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
    walk.feed(update, consts)


def _name(fn: Any) -> bytes:
    return f"{getattr(fn, '__module__', None)}.{fn.__qualname__}".encode("utf-8", "surrogatepass")


def _method(update: Update, value: types.MethodType, walk: Walk) -> None:
    update(b"M")
    walk.feed(update, value.__func__)
    walk.feed(update, value.__self__)


def _builtin(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"u", _name(value))
    owner = getattr(value, "__self__", None)
    if isinstance(owner, types.ModuleType):
        owner = None  # its name is in __module__
    walk.feed(update, owner if owner is not None else getattr(value, "__objclass__", None))


def _partial(update: Update, value: functools.partial[Any], walk: Walk) -> None:
    sized(update, b"a", class_name(type(value)))
    walk.feed(update, value.func)
    walk.feed(update, value.args)
    walk.feed(update, value.keywords)


def _wrapper(update: Update, value: Any, walk: Walk) -> None:
    sized(update, b"w", class_name(type(value)))
    walk.feed(update, value.__wrapped__)


def _property(update: Update, value: property, walk: Walk) -> None:
    update(b"y")
    walk.feed(update, (value.fget, value.fset, value.fdel))


def _module(update: Update, value: types.ModuleType, walk: Walk) -> None:
    sized(update, b"q", value.__name__.encode())


_FEEDERS: dict[type, Feeder] = {
    types.FunctionType: _function,
    types.CodeType: _code,
    types.MethodType: _method,
    types.ModuleType: _module,
    _LRU: _wrapper,
    staticmethod: _wrapper,
    classmethod: _wrapper,
    property: _property,
}


# -- classes -------------------------------------------------------------------------


def _class(update: Update, value: type, walk: Walk) -> None:
    name = class_name(value)
    if value in walk.code or not _is_users(value):
        sized(update, b"C", name)
        return
    known = _class_digests.get(value)
    if known is None:
        hasher = blake2b(name, digest_size=SIZE)
        inner = Walk(walk.code | {value})
        for base in value.__mro__:
            inner.feed(hasher.update, class_name(base))
            if _is_users(base):
                inner.feed(hasher.update, dict(_members(base)))
        known = hasher.digest()
        if not walk.code:  # else it is cut short where it leads back to what is in progress
            _class_digests[value] = known
    sized(update, b"C", known)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if _plain(member):
            if not name.startswith("__"):
                yield name, member
        elif type(member) in _FEEDERS and not isinstance(member, types.ModuleType):
            yield name, member


@functools.lru_cache(maxsize=1024)
def _module_is_users(name: str) -> bool:
    if name == "__main__":
        return True
    path = getattr(sys.modules.get(name), "__file__", None)
    if not path:
        return False
    return not os.path.abspath(path).startswith(_installed())


@functools.cache
def _installed() -> tuple[str, ...]:
    """Return the folders of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {entry for entry in sys.path if entry.endswith(("-packages", "-dynload"))}
    return tuple(os.path.join(os.path.abspath(folder), "") for folder in sorted(folders))


def _is_users(cls: type) -> bool:
    return _module_is_users(cls.__module__)


# Here, and not where digests are asked for: a function's defaults and closure hold
# arrays and functions too, whichever module was imported first.
FINDERS[:] = [feeder_for, arrayhash.feeder_for]

__all__ = ["feeder_for", "function_digest"]
