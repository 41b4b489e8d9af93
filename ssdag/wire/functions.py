# SPDX-License-Identifier: BSD-3-Clause
"""Functions to bytes, once: importable ones by name, those of ``__main__`` by value.

A decorated function's name leads to its app, not to the function; the app keeps the
function in ``__wrapped__``, where the receiver finds it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pickle
import sys
from hashlib import blake2b
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from ssdag.errors import SerializationError
from ssdag.wire.serialize import dumps

if TYPE_CHECKING:
    from collections.abc import Callable

#: Functions that a table remembers by identity before it starts afresh.
_MANY = 4096


def by_name(func: Callable[..., Any]) -> tuple[str, str] | None:
    """Return ``(module, qualname)`` if a worker can import the function, else None."""
    module_name = getattr(func, "__module__", None)
    qualname = getattr(func, "__qualname__", None)
    if not module_name or not qualname or module_name == "__main__" or "<" in qualname:
        return None
    module = sys.modules.get(module_name)
    if module is None or not _importable(module_name):
        return None
    try:
        found = _walk(module, qualname)
    except AttributeError:
        return None
    if found is func or getattr(found, "__wrapped__", None) is func:
        return module_name, qualname
    return None


@functools.lru_cache(maxsize=1024)
def _importable(module_name: str) -> bool:
    """Say whether a fresh interpreter with our ``sys.path`` would find the same file."""
    top = module_name.partition(".")[0]
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return True
    try:
        found = PathFinder.find_spec(top)
    except (ImportError, ValueError, OSError):
        return False
    if found is None:  # an editable install has a finder of its own
        return any(
            getattr(finder, "find_spec", None) is not None
            and not isinstance(finder, type)
            and finder.find_spec(top, None) is not None
            for finder in sys.meta_path
            if type(finder).__module__.startswith("__editable__")
        )
    return bool(found.origin == spec.origin)


def _walk(module: Any, qualname: str) -> Any:
    for part in qualname.split("."):
        module = getattr(module, part)
    return module


def dump_function(func: Callable[..., Any]) -> bytes:
    """Return bytes from which :func:`load_function` gets the function.

    Raises
    ------
    SerializationError
        It closes over something that cannot be pickled.
    """
    name = by_name(func)
    if name is not None:
        return pickle.dumps(name, 5)
    try:
        return pickle.dumps(dumps(func), 5)
    except SerializationError as error:
        shown = getattr(func, "__qualname__", repr(type(func)))
        raise SerializationError(
            f"function {shown} cannot be sent to a worker ({error}); define it at module "
            "level, or pass what it closes over as an argument"
        ) from error


def load_function(blob: bytes) -> Callable[..., Any]:
    """Return the function; a coroutine function comes as one that runs it to its end."""
    content = pickle.loads(blob)
    if isinstance(content, tuple):
        module_name, qualname = content
        func = _walk(importlib.import_module(module_name), qualname)
        # The name of a decorated function leads to its app.
        func = getattr(func, "__wrapped__", func) if not inspect.isfunction(func) else func
    else:
        func = pickle.loads(content)
    return runnable(func)


def runnable(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return `func`, or for a coroutine function one that runs it in a new event loop."""
    if not inspect.iscoroutinefunction(func):
        return func

    @functools.wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        return asyncio.run(func(*args, **kwargs))

    return run


class FunctionTable:
    """Numbers functions, so that each is sent to a worker once.

    Equal bytes get the same number: lambdas made anew in a loop are sent once.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, Any]] = {}
        self._by_hash: dict[bytes, int] = {}
        self._blobs: list[bytes] = []

    def number(self, func: Callable[..., Any]) -> int:
        """Return the function's number; raises SerializationError if it cannot be sent."""
        known = self._numbers.get(id(func))
        if known is not None:
            return known[0]
        blob = dump_function(func)
        key = blake2b(blob, digest_size=20).digest()
        number = self._by_hash.get(key)
        if number is None:
            number = self._by_hash[key] = len(self._blobs)
            self._blobs.append(blob)
        if len(self._numbers) >= _MANY:
            self._numbers.clear()
        self._numbers[id(func)] = number, func  # holding it keeps its id its own
        return number

    def blob(self, number: int) -> bytes:
        """Return the bytes of a numbered function."""
        return self._blobs[number]
