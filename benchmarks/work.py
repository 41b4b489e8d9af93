# SPDX-License-Identifier: BSD-3-Clause
"""The task bodies of the benchmarks: importable, so every backend ships them by name."""

from __future__ import annotations

import time
from typing import TypeVar

T = TypeVar("T")


def identity(value: T) -> T:
    """The no-op: gives back what it got."""
    return value


def add_one(value: int) -> int:
    """One link of a chain."""
    return value + 1


def combine(*values: int) -> int:
    """One node of a graph; its result depends on every parent."""
    return (1 + sum(values)) % 1_000_003


def busy(seconds: float) -> float:
    """Use `seconds` of CPU time, however often the machine takes the core away."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return seconds


def hold(fifo: str) -> int:
    """Sleep, without using the CPU, until somebody opens the named pipe for writing."""
    with open(fifo, "rb") as pipe:
        return len(pipe.read())
