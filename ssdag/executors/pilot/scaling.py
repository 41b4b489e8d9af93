# SPDX-License-Identifier: BSD-3-Clause
"""How many blocks there should be: numbers in, decisions out. Pure.

Blocks are asked for until they have room for the wanted part of the open tasks. They
are let go after a time without work: those that still wait in the scheduler's queue
first, then idle ones, the longest idle first. An idle block drains before it is
cancelled: it gets no task any more, and goes when it holds none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Limits:
    """What the user allows.

    Parameters
    ----------
    min_blocks, max_blocks : int
        Blocks that are kept, and the most at one time.
    parallelism : float
        Part of the open tasks that there should be room for.
    max_idle_s : float
        Blocks above the least go after so long without work.
    """

    min_blocks: int = 0
    max_blocks: int = 1
    parallelism: float = 1.0
    max_idle_s: float = 60.0


@dataclass(frozen=True)
class BlockView:
    """A block, as the strategy sees it.

    Parameters
    ----------
    number : int
    arrived : bool
        A manager of it has connected. False: it waits, is held, starts, or is in a
        state that nobody knows; it occupies its place all the same.
    draining : bool
        It gets no more tasks.
    useful : bool
        It can take tasks that wait; False near its end.
    tasks : int
        That it holds.
    idle_s : float
        How long it has had none.
    """

    number: int
    arrived: bool = False
    draining: bool = False
    useful: bool = True
    tasks: int = 0
    idle_s: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What to do now.

    Parameters
    ----------
    start : int
        Blocks to ask for.
    drain : tuple of int
        Blocks that shall get no more tasks.
    cancel : tuple of int
        Blocks to cancel at once: they wait in the queue, or have drained.
    """

    start: int = 0
    drain: tuple[int, ...] = field(default=())
    cancel: tuple[int, ...] = field(default=())


def wanted_blocks(limits: Limits, open_tasks: int, slots_per_block: int | None) -> int:
    """Return how many blocks there should be for so many open tasks.

    Parameters
    ----------
    limits : Limits
    open_tasks : int
        Tasks that wait or run.
    slots_per_block : int or None
        Tasks that one block runs at a time; None while nobody knows it: then one block
        is asked for, which will tell.
    """
    if not open_tasks:
        return limits.min_blocks
    if slots_per_block is None:
        wanted = 1
    else:
        # A sum of small errors must not ask for another block.
        wanted = math.ceil(open_tasks * limits.parallelism / slots_per_block - 1e-9)
    return min(max(wanted, 1, limits.min_blocks), limits.max_blocks)


def decide(
    limits: Limits,
    waiting: int,
    blocks: Sequence[BlockView],
    slots_per_block: int | None,
    calm_s: float,
) -> Decision:
    """Decide what to do now.

    Parameters
    ----------
    limits : Limits
    waiting : int
        Tasks that no block holds.
    blocks : sequence of BlockView
        All that have not ended.
    slots_per_block : int or None
        See :func:`wanted_blocks`.
    calm_s : float
        How long no task has waited.
    """
    drained = tuple(b.number for b in blocks if b.draining and not b.tasks)
    staying = [b for b in blocks if not b.draining]
    held = sum(b.tasks for b in staying)
    wanted = wanted_blocks(limits, waiting + held, slots_per_block)
    # A block near its end helps nobody who waits, but its place is taken until it is gone.
    serving = [b for b in staying if b.useful or (b.tasks and not waiting)]
    start = max(0, min(wanted - len(serving), limits.max_blocks - len(blocks)))
    if start:
        return Decision(start=start, cancel=drained)
    surplus = len(staying) - wanted
    cancel: list[int] = []
    drain: list[int] = []
    pending = [b.number for b in staying if not b.arrived]
    if surplus > 0 and not waiting and calm_s >= limits.max_idle_s:
        cancel = sorted(pending, reverse=True)[:surplus]  # the youngest have waited least
        surplus -= len(cancel)
    idle = [b for b in staying if b.arrived and not b.tasks and b.idle_s >= limits.max_idle_s]
    idle.sort(key=lambda b: -b.idle_s)
    if surplus > 0 and len(cancel) == len(pending):
        drain = [b.number for b in idle[:surplus]]
    if waiting and len(blocks) >= limits.max_blocks and not any(b.useful for b in staying):
        # Nobody could take what waits, and there is no place for another block.
        drain += [b.number for b in idle if b.number not in drain]
    return Decision(0, tuple(drain), (*drained, *cancel))
