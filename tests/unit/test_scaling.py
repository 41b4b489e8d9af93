# SPDX-License-Identifier: BSD-3-Clause
"""The strategy of blocks: numbers in, decisions out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag.executors.pilot.scaling import BlockView, Decision, Limits, decide, wanted_blocks

LIMITS = Limits(min_blocks=0, max_blocks=4, max_idle_s=10.0)


@pytest.mark.parametrize(
    ("tasks", "slots", "parallelism", "wanted"),
    [
        (0, 4, 1.0, 0),
        (1, 4, 1.0, 1),
        (4, 4, 1.0, 1),
        (5, 4, 1.0, 2),
        (100, 4, 1.0, 4),
        (16, 4, 0.5, 2),
        (16, 4, 0.0, 1),  # some block is needed
        (30, 10, 0.1, 1),  # 30 * 0.1 is a little more than 3
        (100, None, 1.0, 1),  # the first one will tell how many it takes
    ],
)
def test_how_many_blocks_are_wanted(
    tasks: int, slots: int | None, parallelism: float, wanted: int
) -> None:
    assert wanted_blocks(replace(LIMITS, parallelism=parallelism), tasks, slots) == wanted


def test_blocks_that_wait_are_counted() -> None:
    """Also those that are held, or in a state that nobody knows: all that are not there."""
    blocks = [BlockView(1), BlockView(2)]
    assert decide(LIMITS, 8, blocks, 4, 0.0) == Decision()
    assert decide(LIMITS, 9, blocks, 4, 0.0) == Decision(start=1)
    assert decide(LIMITS, 99, blocks, 4, 0.0) == Decision(start=2)


def test_the_least_is_kept() -> None:
    limits = replace(LIMITS, min_blocks=2)
    assert decide(limits, 0, [], 4, 99.0) == Decision(start=2)
    idle = [BlockView(i, arrived=True, idle_s=99.0) for i in (1, 2, 3)]
    assert decide(limits, 0, idle, 4, 99.0) == Decision(drain=(1,))


def test_blocks_in_the_queue_go_first() -> None:
    blocks = [
        BlockView(1, arrived=True, idle_s=50.0),
        BlockView(2, arrived=True, tasks=4),
        BlockView(3),
        BlockView(4),
    ]
    assert decide(LIMITS, 0, blocks, 4, 11.0) == Decision(drain=(1,), cancel=(4, 3))
    assert decide(LIMITS, 0, blocks, 4, 9.0) == Decision(), "not before there was calm"
    limits = replace(LIMITS, min_blocks=2)
    assert decide(limits, 0, blocks, 4, 11.0) == Decision(cancel=(4, 3))


def test_the_longest_idle_goes_and_drains_before_it_is_cancelled() -> None:
    blocks = [
        BlockView(1, arrived=True, tasks=1),
        BlockView(2, arrived=True, idle_s=11.0),
        BlockView(3, arrived=True, idle_s=12.0),
        BlockView(4, arrived=True, idle_s=9.0),
    ]
    assert decide(LIMITS, 0, blocks, 1, 60.0) == Decision(drain=(3, 2))
    draining = [replace(b, draining=b.number == 3) for b in blocks]
    assert decide(LIMITS, 0, draining, 1, 60.0).cancel == (3,)
    busy = [replace(b, draining=b.number == 3, tasks=1) for b in blocks]
    assert decide(LIMITS, 0, busy, 1, 60.0) == Decision(), "it got a task just before"


def test_a_block_near_its_end_is_no_help() -> None:
    """Its place is taken all the same, unless it is idle."""
    blocks = [BlockView(1, arrived=True, useful=False, tasks=2)]
    assert decide(LIMITS, 1, blocks, 2, 0.0) == Decision(start=2)
    one = replace(LIMITS, max_blocks=1)
    assert decide(one, 1, blocks, 2, 0.0) == Decision()
    idle = [BlockView(1, arrived=True, useful=False, idle_s=11.0)]
    assert decide(one, 1, idle, 2, 0.0) == Decision(drain=(1,))


@given(
    st.builds(
        lambda least, more, parallelism: Limits(least, least + more, parallelism, 10.0),
        st.integers(0, 3), st.integers(1, 5), st.floats(0, 1),
    ),
    st.integers(0, 1000),
    st.lists(
        st.builds(
            BlockView,
            number=st.just(0), arrived=st.booleans(), draining=st.booleans(),
            useful=st.booleans(), tasks=st.integers(0, 9), idle_s=st.floats(0, 100),
        ),
        max_size=6,
    ),
    st.none() | st.integers(1, 100),
    st.floats(0, 100),
)  # fmt: skip
def test_what_always_holds(
    limits: Limits, waiting: int, views: list[BlockView], slots: int | None, calm_s: float
) -> None:
    blocks = [
        replace(v, number=i, tasks=v.tasks if v.arrived else 0)
        for i, v in enumerate(views[: limits.max_blocks])
    ]
    decision = decide(limits, waiting, blocks, slots, 0.0 if waiting else calm_s)
    assert len(blocks) + decision.start <= limits.max_blocks
    by_number = {b.number: b for b in blocks}
    going = [by_number[n] for n in (*decision.drain, *decision.cancel)]
    assert len({b.number for b in going}) == len(going)
    assert not any(b.tasks for b in going), "nobody loses a task"
    assert all(b.draining or not b.arrived for b in map(by_number.get, decision.cancel) if b)
    assert not (decision.start and decision.drain)
    if waiting and not blocks:
        assert decision.start >= 1
