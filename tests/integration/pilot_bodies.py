# SPDX-License-Identifier: BSD-3-Clause
"""What the tasks of the pilot's tests do, and the scripts that they kill."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.contract.bodies import hold, note, same, touch, wait_for

__all__ = ["hold", "note", "same", "touch", "wait_for"]


def pid() -> int:
    """Return the number of the worker's process."""
    return os.getpid()


def where() -> tuple[str, int]:
    """Return the block and the worker's number there."""
    return os.environ["SSDAG_BLOCK_ID"], int(os.environ["SSDAG_WORKER_RANK"])


def stay(seconds: float) -> str:
    """Take some time; return the block."""
    time.sleep(seconds)
    return os.environ["SSDAG_BLOCK_ID"]


def hold_noted(log: str, release: str) -> int:
    """Note that it began, end when it may; return how often it has begun."""
    note(log, "begun")
    wait_for(release)
    with open(log) as file:
        return len(file.readlines())


def meet(mine: str, others: list[str]) -> str:
    """Return when all others are here too."""
    touch(mine)
    for other in others:
        wait_for(other)
    return os.environ["SSDAG_BLOCK_ID"]


def seen(names: list[str]) -> dict[str, Any]:
    """Return parts of the worker's environment and its cores."""
    return {name: os.environ.get(name) for name in names} | {"cores": os.sched_getaffinity(0)}


def meet_on_node(mine: str, others: list[str]) -> str:
    """Return when all others are here too; return the node."""
    meet(mine, others)
    return os.environ["SSDAG_NODE"]


def namespace(number: int) -> tuple[int, int]:
    """Return the number, and which network we are in."""
    return number, os.stat("/proc/self/ns/net").st_ino


def double(data: bytes) -> bytes:
    """Return it twice."""
    return data + data
