# SPDX-License-Identifier: BSD-3-Clause
"""Bodies of tests of values by reference; in a module, as workers import them."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client.transport.address import Address
from ssdag.connectors.base import Connector
from ssdag.connectors.directory import DirectoryConnector
from ssdag.connectors.lazy import is_resolved
from ssdag.errors import StoreError
from ssdag.wire import context
from tests.integration.pilot_bodies import meet_on_node

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]

#: What a body has left in its worker.
LEFT: list[Any] = []


def make(n: int, value: float = 1.0) -> Array:
    return np.full(n, value)


async def make_async(n: int) -> Array:
    return np.full(n, 1.0)


def note(path: str, n: int) -> Array:
    """Make an array, and count that in a file."""
    with open(path, "a") as file:
        file.write("x")
    return np.full(n, 1.0)


def note_and_double(path: str, array: Array) -> Array:
    with open(path, "a") as file:
        file.write("x")
    return 2 * array


def double(array: Array) -> Array:
    return 2 * array


def total(array: Array) -> float:
    return float(np.sum(array))


def totals(arrays: list[Array], **named: Array) -> float:
    return float(sum(a.sum() for a in (*arrays, *named.values())))


def size(data: bytes) -> int:
    return len(data)


def cut_off() -> None:
    """Let this worker reach no server."""

    def connect(self: Address, timeout_s: float | None) -> Any:
        raise OSError(f"no route to {self}")

    Address.connect = connect  # type: ignore[method-assign]


def given(db: Any) -> bool:
    return db is not None


def ping(db: Any) -> bool:
    db.ping()
    return True


def pause_and_make(pause_s: float, n: int) -> Array:
    time.sleep(pause_s)
    return np.full(n, 1.0)


def meet_and_make(door: str, doors: list[str], n: int, db: Any = None) -> tuple[str, Array]:
    """Make an array on a node, while others are at work on theirs."""
    return meet_on_node(door, doors), np.full(n, 1.0)


def nodes_of(values: list[tuple[str, Array]]) -> tuple[set[str], float]:
    return {node for node, _ in values}, sum(float(array.sum()) for _, array in values)


def fail(array: Array) -> None:
    raise ValueError(f"after {array.size}")


def parts(n: int) -> dict[str, Any]:
    return {"a": np.full(n, 1.0), "text": "x" * n, "many": [np.full(n, 2.0)] * 2}


def look(array: Array, used: bool) -> tuple[bool, bool, float]:
    """Say whether an argument was there before its use, and is after it."""
    before = is_resolved(array)
    found = float(array.sum()) if used else 0.0
    return before, is_resolved(array), found


def leave(array: Array) -> int:
    LEFT.append(array)
    return os.getpid()


def left() -> tuple[int, float]:
    return os.getpid(), float(LEFT.pop().sum())


def give_back(array: Array) -> Array:
    return array


def use_late(path: str, array: Array) -> float:
    """Do something, and only then look at the argument."""
    with open(path, "a") as file:
        file.write("x")
    return float(array.sum())


def is_memory_of_this_machine(array: Array) -> bool:
    with open("/proc/self/maps") as maps:
        return "/dev/shm/ssdag-" in maps.read()


def stored(folder: DirectoryConnector) -> list[Path]:
    """Return the files of the values that engines have in a folder."""
    gc.collect()
    return [path for path in Path(folder.path).glob("ssdag.value.*/*") if path.is_file()]


def lose(folder: DirectoryConnector) -> None:
    """Remove the values that engines have in a folder."""
    paths = stored(folder)
    assert paths
    for path in paths:
        path.unlink()


class HalfBlind(Connector):
    """A folder that only the driver can read, and only workers can write, or neither.

    Parameters
    ----------
    path : str
        The folder.
    denied : tuple of str
        What workers cannot do.
    """

    kind = "blind"
    scope = "shared"

    def __init__(self, path: str, denied: tuple[str, ...]) -> None:
        self._inner = DirectoryConnector(path)
        self._path, self._denied = path, denied

    def __reduce__(self) -> tuple[Any, ...]:
        return HalfBlind, (self._path, self._denied)

    def _check(self, what: str) -> None:
        if context.in_worker() and what in self._denied:
            raise StoreError(f"no {what} here")

    def write(self, key: str, parts: Sequence[Any]) -> None:
        self._check("write")
        self._inner.write(key, parts)

    def read(self, key: str) -> memoryview:
        self._check("read")
        return self._inner.read(key)

    def add(self, key: str, parts: Sequence[Any]) -> bool:
        return self._inner.add(key, parts)

    def take(self, key: str) -> memoryview:
        return self._inner.take(key)

    def wait(self, key: str, timeout_s: float | None = None) -> None:
        self._inner.wait(key, timeout_s)

    def exists(self, key: str) -> bool:
        return self._inner.exists(key)

    def size(self, key: str) -> int:
        return self._inner.size(key)

    def delete(self, key: str) -> bool:
        return self._inner.delete(key)

    def keys(self, pattern: str = "*") -> list[str]:
        return self._inner.keys(pattern)


def fail_second_time(path: str, n: int) -> Array:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) > 1:
        raise ValueError("not again")
    return np.full(n, 1.0)


def hold_second_time(path: str, gate: str, n: int) -> Array:
    """Make an array; the second time wait until a file is gone."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) > 1:
        while os.path.exists(gate):
            time.sleep(0.01)
    return np.full(n, 1.0)


class Forgetful(HalfBlind):
    """A folder that loses whatever is written to it."""

    def __init__(self, path: str, denied: tuple[str, ...] = ()) -> None:
        super().__init__(path, denied)

    def __reduce__(self) -> tuple[Any, ...]:
        return Forgetful, (self._path,)

    def write(self, key: str, parts: Sequence[Any]) -> None:
        """Forget it."""


def die_with(array: Array) -> None:
    assert array.size
    os.kill(os.getpid(), signal.SIGKILL)
