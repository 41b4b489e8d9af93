# SPDX-License-Identifier: BSD-3-Clause
"""What the tasks of the contract tests do. Workers import this, so it imports little."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any, NoReturn

from ssdag.references import Reference

DEADLINE_S = 30.0


def touch(path: str) -> None:
    """Say that something has happened."""
    with open(path, "w"):
        pass


def wait_for(path: str) -> None:
    """Return when a file exists; fail after a while."""
    end = time.monotonic() + DEADLINE_S
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.002)


def hold(started: str, release: str, value: Any = None) -> Any:
    """Say that it began, and end when it may."""
    touch(started)
    wait_for(release)
    return value


def note(path: str, text: str) -> str:
    """Append a line to a file: one `write`, so lines of several tasks do not mix."""
    with open(path, "a") as file:
        file.write(text + "\n")
    return text


def lines(path: str) -> list[str]:
    """Return what bodies have noted; nothing if none has."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return file.read().split()


def block(held: Any, path: Any, workers: int) -> list[Any]:
    """Keep all workers busy with the app of :func:`hold` until ``release`` is touched."""
    futures = [held(path(f"busy{i}"), path("release")) for i in range(workers)]
    for i in range(workers):
        wait_for(path(f"busy{i}"))
    return futures


def inc(x: int) -> int:
    """Return ``x + 1``."""
    return x + 1


def add(*values: Any) -> Any:
    """Return the sum."""
    return sum(values)


def total(*values: Any) -> int:
    """Return the sum of all numbers, also deep in containers; texts count nothing."""
    result = 0
    for value in values:
        if isinstance(value, dict):
            result += total(*value.keys(), *value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            result += total(*value)
        elif not isinstance(value, str):
            result += value
    return result


def fail(*values: Any) -> NoReturn:
    """Raise a Trouble with the sum of all numbers as its code."""
    raise Trouble(total(*values), "as asked")


def same(value: Any) -> Any:
    """Return what it is given."""
    return value


def show(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return all arguments."""
    return args, kwargs


def where() -> tuple[int, str]:
    """Return the process and the working folder."""
    return os.getpid(), os.getcwd()


class Trouble(Exception):
    """An error whose ``__init__`` takes other arguments than it hands on."""

    def __init__(self, code: int, hint: str) -> None:
        super().__init__(f"trouble {code}")
        self.code = code
        self.hint = hint


def trouble(code: int = 1) -> NoReturn:
    """Raise a Trouble with a cause, a note and an attribute."""
    error = Trouble(code, "try again")
    error.add_note("a note")
    raise error from KeyError("missing")


def exits() -> NoReturn:
    """Call ``sys.exit``."""
    sys.exit(3)


def fails_first(path: str, times: int) -> int:
    """Fail `times` times, then return how often it was called; counts in a file."""
    note(path, "call")
    with open(path) as file:
        calls = len(file.readlines())
    if calls <= times:
        raise Trouble(calls, "again")
    return calls


class Prickly:
    """An object that cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Prickly does not travel")


class OneWay:
    """An object that can be pickled and not loaded."""

    def __reduce__(self) -> Any:
        return _refuse, ("loaded",)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"a OneWay cannot be {word}")


def make_prickly() -> Prickly:
    """Return what cannot be sent."""
    return Prickly()


def make_one_way() -> OneWay:
    """Return what cannot be loaded."""
    return OneWay()


class PricklyError(Exception):
    """An error that holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.inner = Prickly()


def prickly_error() -> NoReturn:
    """Raise what cannot be sent."""
    raise PricklyError("it stings")


class Word(Reference):
    """A reference: its value is made where it is needed."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def resolve(self) -> str:
        if self.text == "broken":
            raise LookupError("nothing there")
        return self.text.upper()

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return (self.text,)


async def double_soon(x: int) -> int:
    """Return ``2 x``, from a coroutine."""
    await asyncio.sleep(0)
    return 2 * x


def speak(text: str, stdout: Any = None, stderr: Any = None) -> int:
    """Print to both streams."""
    sys.stdout.write(f"out {text}\n")
    sys.stderr.write(f"err {text}\n")
    return len(text)


def write_files(names: list[str], outputs: Any = ()) -> int:
    """Write the files that are named, whatever was declared."""
    for name in names:
        with open(name, "w") as file:
            file.write(name)
    return len(names)
