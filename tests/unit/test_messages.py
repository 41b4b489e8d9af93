# SPDX-License-Identifier: BSD-3-Clause
"""What hub and workers say: values packed into frames, and answers matched with tasks."""

from __future__ import annotations

import itertools
import os
import pickle
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.errors import SerializationError
from ssdag.executors.local import answers
from ssdag.executors.local.messages import (
    ERROR,
    MAX_CREDIT,
    OUT_OF_BAND_BYTES,
    PICKLED,
    PLAIN,
    SKIPPED,
    SKIPPED_FLAG,
    Packer,
    Page,
    collect,
)
from ssdag.tasks import AppSpec, Options, Task
from ssdag.wire.frames import Frame
from ssdag.wire.serialize import dump_error, loads
from ssdag.wire.shared import LEASES, Handle, SegmentPool, SharedValue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.executors.local.hub import Hub
    from ssdag.executors.local.link import Link
    from ssdag.tasks import Manager, Outcome

THRESHOLD = 2 * OUT_OF_BAND_BYTES


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("I stay here")


class RefusesToLoad:
    def __reduce__(self) -> Any:
        return int, ("none",)


@pytest.fixture
def pool(tmp_path: Path) -> SegmentPool:
    return SegmentPool(str(tmp_path), "w1")


@pytest.fixture
def packer(pool: SegmentPool) -> Packer:
    return Packer(pool, THRESHOLD)


def array(nbytes: int, seed: int = 1) -> Any:
    return np.arange(nbytes, dtype=np.uint8) + np.uint8(seed % 200)


def segment(path: str, size: int) -> bytes:
    return Path(path).read_bytes()[:size]


def unpack(payload: bytes, entries: list[Any] | None, buffers: Iterator[Any]) -> Any:
    return loads(payload, collect(entries or [], buffers, segment))


# -- the packer ---------------------------------------------------------------------------

SIZES = st.sampled_from(
    [0, 1, 1000, OUT_OF_BAND_BYTES - 1, OUT_OF_BAND_BYTES, THRESHOLD - 1, THRESHOLD, 3 * THRESHOLD]
)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(st.sampled_from(["good", "lambda", "bad"]), st.lists(SIZES))))
def test_what_is_packed_comes_out(
    values: list[tuple[str, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also behind values that fail halfway, and with those that need a second attempt."""
    folder = tmp_path_factory.mktemp("pool")
    packer = Packer(SegmentPool(str(folder), "w1"), THRESHOLD)
    seeds = itertools.count()
    packed: list[tuple[list[Any], bytes, list[Any] | None]] = []
    large = 0
    for kind, sizes in values:
        arrays = [array(size, next(seeds)) for size in sizes]
        if kind == "bad":
            with pytest.raises(SerializationError, match="I stay here"):
                packer.pack([arrays, Refuses()])
            continue
        payload, entries = packer.pack([arrays, (lambda: 5) if kind == "lambda" else None])
        assert (entries is None) == all(size < OUT_OF_BAND_BYTES for size in sizes)
        packed.append((arrays, payload, entries))
        large += sum(size >= THRESHOLD for size in sizes)
    beside = packer.take_buffers()
    assert packer.buffers == []
    assert packer.nbytes >= sum(map(len, beside))
    buffers = iter([bytearray(b) for b in beside])
    paths = []
    for arrays, payload, entries in packed:
        got, function = unpack(payload, entries, buffers)
        assert all(np.array_equal(a, b) for a, b in zip(arrays, got, strict=True))
        assert function is None or function() == 5
        paths += [entry[0] for entry in entries or () if entry != -1]
    assert next(buffers, None) is None, "nothing is left of those that failed"
    assert len(set(paths)) == len(paths) == large, "each segment has one reader"


def test_segments_of_a_value_that_failed_are_free(packer: Packer, tmp_path: Path) -> None:
    for _ in range(5):
        with pytest.raises(SerializationError):
            packer.pack([array(THRESHOLD), Refuses()])
    payload, entries = packer.pack([array(THRESHOLD), lambda: 1])
    assert entries is not None
    assert len(os.listdir(tmp_path)) == 1
    assert np.array_equal(unpack(payload, entries, iter(()))[0], array(THRESHOLD))


class Exits:
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_in_the_middle_leaves_nothing_either(packer: Packer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        packer.pack([array(OUT_OF_BAND_BYTES), array(THRESHOLD), Exits()])
    assert packer.take_buffers() == []
    _, entries = packer.pack(array(THRESHOLD))
    assert entries is not None
    assert len(entries) == len(os.listdir(tmp_path)) == 1


def test_without_segments_all_goes_beside() -> None:
    packer = Packer(SegmentPool(None, ""), THRESHOLD)
    payload, entries = packer.pack([array(THRESHOLD), array(10)])
    assert entries == [-1]
    assert np.array_equal(unpack(payload, entries, iter(packer.buffers))[0], array(THRESHOLD))


def test_what_lies_beside_is_the_users_memory(packer: Packer) -> None:
    data = array(OUT_OF_BAND_BYTES)
    packer.pack(data)
    assert np.shares_memory(np.frombuffer(packer.buffers[0], np.uint8), data)


def test_leases_of_the_second_attempt_count_once(
    packer: Packer, tmp_path: Path, pool: SegmentPool
) -> None:
    path = pool.store(memoryview(b"x" * THRESHOLD))
    assert path is not None
    payload: list[bytes] = []
    raw: list[memoryview] = []
    payload.append(pickle.dumps(array(THRESHOLD), 5, buffer_callback=lambda b: raw.append(b.raw())))
    value = SharedValue(payload[0], [Handle(path, THRESHOLD, pool.release)])
    taken: list[Handle] = []
    LEASES.taken = taken
    try:
        packer.pack([value, lambda: 1])
    finally:
        LEASES.taken = None
    assert [handle.path for handle in taken] == [path]


# -- the page -----------------------------------------------------------------------------


@pytest.fixture
def pages() -> Iterator[tuple[Page, Page]]:
    """The hub's page and the worker's."""
    ours, fd = Page.create()
    theirs = Page(fd)
    os.close(fd)
    yield ours, theirs
    for page in (ours, theirs):
        page.counters.release()
        page.flags.release()


def test_both_see_one_page(pages: tuple[Page, Page]) -> None:
    ours, theirs = pages
    assert list(ours.counters) == [0, 0, 0]
    assert not any(ours.flags)
    theirs.counters[0], theirs.counters[1], theirs.counters[2] = 1 << 63, 7, 6
    assert list(ours.counters) == [1 << 63, 7, 6]
    ours.revoke(8)
    place = 8 % len(theirs.flags)
    assert theirs.flags[place] == 1
    assert sum(theirs.flags) == 1
    assert not ours.was_skipped(8)
    theirs.flags[place] = SKIPPED_FLAG
    assert ours.was_skipped(8)
    ours.clear(8)
    assert not any(theirs.flags)


def test_a_flag_is_never_that_of_another_task(pages: tuple[Page, Page]) -> None:
    """Neither of one that the worker holds, nor of one that it has not confirmed yet."""
    ours, _ = pages
    assert len(ours.flags) >= 2 * MAX_CREDIT
    for first in (1, MAX_CREDIT, 10 * MAX_CREDIT + 3):
        ours.revoke(first)
        held = range(first + 1, first + 2 * MAX_CREDIT)
        assert not any(ours.flags[n % len(ours.flags)] for n in held)
        ours.clear(first)


# -- answers ------------------------------------------------------------------------------

SPEC = AppSpec(print, "print")


def tasks(count: int, walltime_s: float | None = None) -> list[Task]:
    made = []
    for i in range(count):
        task = Task(SPEC, (), None, Options(walltime_s=walltime_s), cast("Manager", None))
        task.task_id = i
        made.append(task)
    return made


class World:
    """A hub and a link, as far as answers touch them."""

    def __init__(self, held: list[Task | None], timed: int = 0) -> None:
        self.again: list[Task] = []
        self.learned: list[tuple[int, int]] = []
        self.freed: list[str] = []
        self.link = SimpleNamespace(
            fifo=deque(held),
            done=10,
            leases={},
            learn=lambda *what: self.learned.append(what),
            lend=lambda path, size: Handle(path, size, self.freed.append),
        )
        self.hub = SimpleNamespace(timed=timed, requeue=self.again.extend, unpack=answers.load)

    def read(self, results: list[Any], buffers: list[Any], released: Any = ()) -> list[Outcome]:
        frame = Frame(pickle.dumps((results, list(released)), 5), [bytearray(b) for b in buffers])
        return answers.read(
            cast("Hub", self.hub), cast("Link", self.link), answers.parse(frame), frame.buffers
        )


def test_answers_in_the_order_of_the_tasks(packer: Packer) -> None:
    held = tasks(6)
    world = World([held[0], held[1], None, held[2], None, held[3], held[4], held[5]])
    beside = array(OUT_OF_BAND_BYTES, 3)
    payload, entries = packer.pack([beside])
    big, big_entries = packer.pack([array(THRESHOLD), array(OUT_OF_BAND_BYTES, 9)])
    results = [
        (PLAIN, 5, None, 1_000_000_000, 2_000_000_000),
        (ERROR, dump_error(KeyError("k")), None, 0, 500),
        (PLAIN, "of one that was taken back and ran elsewhere too", None, 0, 1),
        (SKIPPED, None, None, 7, 7),
        (SKIPPED, None, None, 7, 7),
        (PICKLED, payload, entries, 0, 1),
        (PICKLED, big, big_entries, 0, 1),
    ]
    outcomes = world.read(results, packer.take_buffers())
    assert [o.task for o in outcomes] == [held[0], held[1], held[3], held[4]]
    assert (outcomes[0].value, outcomes[0].error) == (5, None)
    assert (outcomes[0].started, outcomes[0].ended) == (1.0, 2.0)
    assert isinstance(outcomes[1].error, KeyError)
    assert outcomes[1].value is None
    assert np.array_equal(outcomes[2].value[0], beside)
    assert isinstance(outcomes[3].value, SharedValue)
    large, beside = outcomes[3].value.resolve()
    assert np.array_equal(large, array(THRESHOLD))
    assert np.array_equal(beside, array(OUT_OF_BAND_BYTES, 9))
    assert world.again == [held[2]]
    assert list(world.link.fifo) == [held[5]]
    assert world.link.done == 17
    assert world.learned == [(5, 1_000_000_000 + 500 + 1 + 1 + 1)], "what was skipped did not run"


def test_a_value_that_cannot_be_loaded_does_not_shift_those_behind_it(packer: Packer) -> None:
    held = tasks(3)
    world = World([*held])
    results: list[Any] = []
    for i, bad in enumerate((None, RefusesToLoad(), None)):
        payload, entries = packer.pack([bad, array(OUT_OF_BAND_BYTES, i), array(THRESHOLD - 1, i)])
        results.append((PICKLED, payload, entries, 0, 1))
    outcomes = world.read(results, packer.take_buffers())
    assert np.array_equal(outcomes[0].value[1], array(OUT_OF_BAND_BYTES, 0))
    error = outcomes[1].error
    assert isinstance(error, SerializationError)
    assert "cannot be loaded here: ValueError: invalid literal" in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert np.array_equal(outcomes[2].value[1], array(OUT_OF_BAND_BYTES, 2))
    assert np.array_equal(outcomes[2].value[2], array(THRESHOLD - 1, 2))


def test_leases_end_one_by_one(packer: Packer) -> None:
    world = World([])
    one, two = Handle("/a", 1, world.freed.append), Handle("/a", 1, world.freed.append)
    other = Handle("/b", 1, world.freed.append)
    world.link.leases = {"/a": [one, two], "/b": [other]}
    del one, two, other
    world.read([], [], ["/a", "/unknown"])
    assert {path: len(held) for path, held in world.link.leases.items()} == {"/a": 1, "/b": 1}
    assert world.freed == ["/a"]
    world.read([], [], ["/b", "/a", "/a"])
    assert world.link.leases == {}
    assert sorted(world.freed) == ["/a", "/a", "/b"]
    assert world.learned == []


def test_tasks_with_a_walltime_are_counted_down() -> None:
    held = tasks(3, walltime_s=5.0)
    world = World([*held, None], timed=4)
    result = (PLAIN, 1, None, 0, 1)
    world.read([result, (SKIPPED, None, None, 0, 0), result, result], [])
    # The skipped one is counted by who puts it back, the missing one by who took it.
    assert world.hub.timed == 2


def test_a_segment_of_a_result_is_given_back_with_its_last_view(packer: Packer) -> None:
    payload, entries = packer.pack(array(THRESHOLD))
    world = World([*tasks(1)])
    outcomes = world.read([(PICKLED, payload, entries, 0, 1)], [])
    value = outcomes[0].value.resolve()
    outcomes.clear()
    assert world.freed == []
    del value
    assert entries is not None
    assert world.freed == [entries[0][0]]


@pytest.mark.parametrize("body", [b"", b"nonsense", pickle.dumps(3), pickle.dumps((1, 2, 3))])
def test_nonsense_is_an_error(body: bytes) -> None:
    with pytest.raises((EOFError, pickle.UnpicklingError, TypeError, ValueError)):
        answers.parse(Frame(body, []))
