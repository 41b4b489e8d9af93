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
    from collections.abc import Callable, Iterator, Sequence

#: Functions that a table remembers by identity before it starts afresh.
_MANY = 4096


def by_name(func: Callable[..., Any]) -> tuple[str, str, bool] | None:
    """Say where a worker can import the function.

    Returns
    -------
    tuple of (str, str, bool) or None
        Module, qualified name, and whether what is found there wraps the function (an
        app does); None if it must travel by value.
    """
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
    if found is func:
        return module_name, qualname, False
    if getattr(found, "__wrapped__", None) is func:
        return module_name, qualname, True
    return None


@functools.lru_cache(maxsize=1024)
def _importable(module_name: str) -> bool:
    """Say whether a fresh interpreter with our ``sys.path`` would find the same file."""
    top, _, rest = module_name.partition(".")
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return True
    if not _would_be_found(top, None):
        return False
    above = top
    for part in rest.split(".") if rest else ():
        folders = getattr(sys.modules.get(above), "__path__", None)
        above = f"{above}.{part}"
        if folders is None or not _would_be_found(above, folders):
            return False
    return True


def _would_be_found(name: str, folders: Sequence[str] | None) -> bool:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:  # made by hand
        return False
    try:
        found = PathFinder.find_spec(name, folders)
        if found is None:  # an editable install has a finder of its own
            found = next(filter(None, (f.find_spec(name, folders) for f in _editable())), None)
    except (ImportError, ValueError, OSError):
        return False
    return found is not None and bool(found.origin == spec.origin)


def _editable() -> Iterator[Any]:
    """Give the finders of editable installs; a worker's site has them too."""
    for finder in sys.meta_path:
        cls = finder if isinstance(finder, type) else type(finder)
        if cls.__module__.startswith("__editable__") and hasattr(finder, "find_spec"):
            yield finder


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
        return pickle.dumps(_by_value(func), 5)
    except SerializationError as error:
        shown = getattr(func, "__qualname__", repr(type(func)))
        raise SerializationError(
            f"function {shown} cannot be sent to a worker ({error}); define it at module "
            "level, or pass what it closes over as an argument"
        ) from error


def _by_value(func: Callable[..., Any]) -> bytes:
    """Pickle a function with its code, also where pickle would write a name.

    It does so for every function of a module that is loaded here, and would have the
    worker import a module that it cannot find.
    """
    inner: Any = func
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or name == "__main__" or _importable(module.__name__):
        return dumps(func)
    import cloudpickle

    # For good: classes of the module may come as arguments.
    cloudpickle.register_pickle_by_value(module)
    try:
        by_value: bytes = cloudpickle.dumps(func, 5)
    except Exception as error:  # user code
        raise SerializationError(f"{type(error).__name__}: {error}") from error
    return by_value


def load_function(blob: bytes) -> Callable[..., Any]:
    """Return the function; a coroutine function comes as one that runs it to its end."""
    content = pickle.loads(blob)
    if isinstance(content, tuple):
        module_name, qualname, wrapped = content
        func = _walk(importlib.import_module(module_name), qualname)
        if wrapped:  # by an app; another decorator belongs to the function
            func = func.__wrapped__
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
