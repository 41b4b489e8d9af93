# SPDX-License-Identifier: BSD-3-Clause
"""The slot table and the order in which steps get slots."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag import Resources
from ssdag.errors import UnsupportedError
from ssdag.executors.allocation.request import Request, request_of, shown
from ssdag.executors.allocation.schedule import Schedule
from ssdag.executors.allocation.slots import Placement, SlotTable
from ssdag.providers.base import Node


def nodes(count: int, cores: int = 4, gpus: int = 0) -> list[Node]:
    return [Node(f"n{i}", cores, tuple(map(str, range(gpus)))) for i in range(1, count + 1)]


def where(placement: Placement | None) -> list[tuple[str, int, tuple[int, ...]]]:
    assert placement is not None
    return [(part.host, part.ranks, part.cores) for part in placement.parts]


# -- what is asked -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (Resources(), Request()),
        (Resources(cores=3), Request(cores_per_rank=3)),
        (Resources(gpus=2), Request(gpus_per_rank=2)),
        (Resources(ranks=4), Request(4, launched=True)),
        (Resources(ranks=8, nodes=2), Request(8, nodes=2, launched=True)),
        (Resources(ranks_per_node=2, nodes=3), Request(6, 1, 0, 3, 2, launched=True)),
        (Resources(ranks=5, ranks_per_node=2), Request(5, 1, 0, 3, 2, launched=True)),
        (Resources(nodes=2), Request(2, nodes=2, whole=True)),
        (Resources(nodes=2, cores=3), Request(2, 3, nodes=2)),
        (
            Resources(ranks=2, cores_per_rank=3, gpus_per_rank=1, memory_bytes=7),
            Request(2, 3, 1, memory_bytes=7, launched=True),
        ),
    ],
)  # fmt: skip
def test_resources_have_one_meaning(given_: Resources, expected: Request) -> None:
    assert request_of(given_) == expected
    assert request_of(None) == Request()
    assert request_of(None, mpi=True) == Request(launched=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Resources(ranks=4, cores=2), "cores_per_rank"),
        (Resources(ranks=4, gpus=2), "gpus_per_rank"),
        (Resources(ranks=4, nodes=1, ranks_per_node=2), "2 nodes, not on nodes=1"),
        (Resources(ranks=1, nodes=2), "too few"),
    ],
)
def test_contradictions_are_told(wrong: Resources, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text):
        request_of(wrong)


def test_layouts() -> None:
    assert list(Request(4).layouts(4)) == [(4,), (2, 2), (3, 1), (1, 1, 1, 1)]
    assert list(Request(5).layouts(3)) == [(5,), (3, 2), (4, 1), (2, 2, 1)]
    assert list(Request(5).layouts(3, most=3)) == [(3, 2), (2, 2, 1)]
    assert list(Request(5, nodes=4).layouts(4)) == [(2, 1, 1, 1)]
    assert list(Request(5, nodes=3, ranks_per_node=2).layouts(4)) == [(2, 2, 1)]
    assert list(Request(2, nodes=2).layouts(1)) == []


# -- the table ---------------------------------------------------------------------------


def test_best_fit_keeps_room_for_large_steps() -> None:
    table = SlotTable(nodes(2))
    assert where(table.place(Request(cores_per_rank=3))) == [("n1", 1, (0, 1, 2))]
    assert where(table.place(Request())) == [("n1", 1, (3,))]
    assert where(table.place(Request(4))) == [("n2", 4, (0, 1, 2, 3))]
    assert table.place(Request()) is None


def test_ranks_spread_only_if_they_must() -> None:
    table = SlotTable(nodes(3))
    table.place(Request(cores_per_rank=2))
    table.place(Request(nodes=1, whole=True))
    assert where(table.place(Request(4))) == [("n3", 4, (0, 1, 2, 3))]
    table = SlotTable(nodes(2))
    table.place(Request(cores_per_rank=2))
    assert where(table.place(Request(4))) == [("n2", 4, (0, 1, 2, 3))]
    table = SlotTable(nodes(2))
    table.place(Request(2, cores_per_rank=2, nodes=2))
    assert where(table.place(Request(4))) == [("n1", 2, (2, 3)), ("n2", 2, (2, 3))]


def test_gpus_have_names_and_are_spared() -> None:
    table = SlotTable([Node("gpu", 4, ("a", "b")), Node("cpu", 4)])
    plain = table.place(Request())
    assert plain is not None
    assert plain.hosts == ("cpu",)
    first, second = table.place(Request(gpus_per_rank=1)), table.place(Request(gpus_per_rank=1))
    assert first is not None
    assert second is not None
    assert (first.parts[0].gpus, second.parts[0].gpus) == (("a",), ("b",))
    assert table.place(Request(gpus_per_rank=1)) is None
    table.release(first)
    again = table.place(Request(gpus_per_rank=1))
    assert again is not None
    assert again.parts[0].gpus == ("a",)


def test_memory_counts_where_it_is_known() -> None:
    table = SlotTable([Node("n1", 4, (), 100)])
    assert table.place(Request(memory_bytes=60)) is not None
    assert table.place(Request(memory_bytes=60)) is None
    assert table.place(Request(memory_bytes=40)) is not None
    assert "101 bytes" in str(table.refusal(Request(memory_bytes=101)))
    assert "not known" in str(SlotTable(nodes(1)).refusal(Request(memory_bytes=1)))


def test_a_refusal_has_the_figures() -> None:
    table = SlotTable(nodes(2, 4, 1))
    for request, text in (
        (Request(9, launched=True), "9 ranks, 1 core each asked, but it has 2 nodes with 4 cores"),
        (Request(3, nodes=3, whole=True), "3 nodes wholly"),
        (Request(2, gpus_per_rank=2, launched=True), "2 GPUs each.*4 cores and 1 GPUs each"),
    ):
        with pytest.raises(AssertionError, match=text):
            raise AssertionError(table.refusal(request))
    assert table.refusal(Request(8)) is None
    assert shown(Request(4, nodes=2, ranks_per_node=2, launched=True)).startswith("2 nodes, 4 ran")


def test_slots_are_given_back_once() -> None:
    table = SlotTable(nodes(1))
    placement = table.place(Request(2))
    assert placement is not None
    table.release(placement)
    with pytest.raises(ValueError, match="not taken"):
        table.release(placement)


requests = st.builds(
    Request,
    ranks=st.integers(1, 6),
    cores_per_rank=st.integers(1, 4),
    gpus_per_rank=st.integers(0, 1),
    nodes=st.none() | st.just(1) | st.just(2),
    whole=st.booleans(),
)
tables = st.lists(
    st.builds(
        lambda i, cores, gpus: Node(f"n{i}", cores, tuple(map(str, range(gpus)))),
        st.integers(0, 10**6),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(tables, st.lists(st.tuples(requests, st.integers(0, 5)), max_size=60))
def test_slots_never_overlap_and_never_leak(
    allocation: list[Node], steps: list[tuple[Request, int]]
) -> None:
    table = SlotTable(allocation)
    running: list[Placement] = []
    for request, ends in steps:
        before = table.free_cores
        placement = table.place(request)
        if placement is None:
            assert table.free_cores == before
            if not running:
                assert table.refusal(request) is not None, "it fits when all is free"
        else:
            assert table.refusal(request) is None
            assert sum(part.ranks for part in placement.parts) == request.ranks
            for part in placement.parts:
                if request.whole:
                    assert len(part.cores) == allocation[part.index].cores
                else:
                    assert len(part.cores) == part.ranks * request.cores_per_rank
                    assert len(part.gpus) == part.ranks * request.gpus_per_rank
            if request.nodes is not None:
                assert len({part.index for part in placement.parts}) == request.nodes
            running.append(placement)
        for kind in ("cores", "gpus"):
            held = [
                (part.index, item)
                for step in running
                for part in step.parts
                for item in getattr(part, kind)
            ]
            assert len(held) == len(set(held))
        assert table.free_cores == sum(n.cores for n in allocation) - sum(
            step.cores for step in running
        )
        for _ in range(min(ends, len(running))):
            table.release(running.pop(0))
    for step in running:
        table.release(step)
    assert table.free_cores == sum(node.cores for node in allocation)
    for index, node in enumerate(allocation):
        whole = table.place(Request(nodes=1, whole=True), set(range(len(allocation))) - {index})
        assert whole is not None
        assert whole.parts[0].gpus == node.gpus


# -- the order ---------------------------------------------------------------------------


def started(schedule: Schedule[str], now: float = 0.0) -> list[str]:
    return [key for key, _ in schedule.take(now)]


def test_priority_then_age_and_holes_are_filled() -> None:
    schedule: Schedule[str] = Schedule(nodes(1))
    schedule.add("low", Request(2), 0, 0)
    schedule.add("large", Request(3), 1, 0)
    schedule.add("small", Request(1), 0, 0)
    assert started(schedule) == ["large", "small"]
    assert len(schedule) == 1


def test_a_large_step_gets_its_turn() -> None:
    schedule: Schedule[str] = Schedule(nodes(2), reserve_after_s=10)
    running: list[Placement] = []
    numbers = itertools.count()

    def stream(now: float) -> list[str]:
        """Two steps of one core more, one that has run longest ends, all that fits starts."""
        for _ in range(2):
            schedule.add(f"s{next(numbers)}", Request(), 0, now)
        if running:
            schedule.release(running.pop(0))
        new = schedule.take(now)
        running.extend(placement for _, placement in new)
        return [key for key, _ in new]

    for now in range(8):
        stream(now)
    schedule.add("large", Request(2, cores_per_rank=4, nodes=2), 0, 8)
    for now in range(8, 18):
        assert "large" not in stream(now)
    for now in range(18, 18 + 8):
        if "large" in stream(now):
            break
    else:
        pytest.fail("eight ends after its reservation it still waits")
    assert len(running) == 1


def test_a_reservation_binds_only_those_behind_it() -> None:
    schedule: Schedule[str] = Schedule(nodes(2), reserve_after_s=0)
    schedule.add("busy", Request(), 0, 0)
    ((_, busy),) = schedule.take(0)
    schedule.add("both", Request(2, cores_per_rank=4, nodes=2), 0, 0)
    schedule.add("same", Request(), 0, 1)
    schedule.add("urgent", Request(), 1, 1)
    assert started(schedule, 1) == ["urgent"]
    assert started(schedule, 1) == []
    assert schedule.remove("both")
    assert started(schedule, 2) == ["same"]
    schedule.release(busy)


def test_removed_steps_do_not_start() -> None:
    schedule: Schedule[str] = Schedule(nodes(1))
    for name in "abc":
        schedule.add(name, Request(cores_per_rank=4), 0, 0)
    assert schedule.remove("a")
    assert not schedule.remove("a")
    ((name, placement),) = schedule.take(0)
    assert name == "b"
    schedule.release(placement)
    assert schedule.drain() == ["c"]
    assert started(schedule) == []


@settings(deadline=None)
@given(tables, st.lists(st.tuples(requests, st.integers(0, 2), st.integers(0, 3)), max_size=40))
def test_every_step_that_fits_runs_at_last(
    allocation: list[Node], steps: list[tuple[Request, int, int]]
) -> None:
    schedule: Schedule[int] = Schedule(allocation, reserve_after_s=3)
    expected, seen = set(), []
    running: list[Placement] = []
    now = 0.0
    for number, (request, priority, ends) in enumerate(steps):
        now += 1
        if schedule.table.refusal(request) is not None:
            continue
        expected.add(number)
        schedule.add(number, request, priority, now)
        for key, placement in schedule.take(now):
            seen.append(key)
            running.append(placement)
        for _ in range(min(ends, len(running))):
            schedule.release(running.pop(0))
    while len(schedule):
        now += 1
        new = schedule.take(now)
        assert new or running, "steps wait, and nothing runs"
        seen += [key for key, _ in new]
        running += [placement for _, placement in new]
        if running:
            schedule.release(running.pop(0))
    assert sorted(seen) == sorted(expected)
