# SPDX-License-Identifier: BSD-3-Clause
"""Segments: used again only when nobody reads them, gone when they should be."""

from __future__ import annotations

import errno
import gc
import logging
import os
import pickle
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ssdag.wire import shared
from ssdag.wire.mapping import map_private
from ssdag.wire.serialize import loads
from ssdag.wire.shared import (
    LEASES,
    Handle,
    Lent,
    SegmentPool,
    SharedValue,
    attach_leased,
    take_released,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 30.0
PAGE = 4096


@pytest.fixture
def pool(tmp_path: Path) -> SegmentPool:
    return SegmentPool(str(tmp_path), "hub")


@pytest.fixture(autouse=True)
def nothing_released() -> Iterator[None]:
    """Start with empty lists of what this process has released and mapped."""
    take_released()
    shared.MAPPED.clear()
    yield
    take_released()
    shared.MAPPED.clear()


def put(pool: SegmentPool, data: bytes) -> str:
    path = pool.store(memoryview(data))
    assert path is not None
    return path


def files(pool: SegmentPool) -> int:
    assert pool._folder is not None
    return len(os.listdir(pool._folder))


# -- the pool -----------------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Random stores and releases: what is held never changes, and memory is bounded."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(3)
        self.folder = Path("/dev/shm", f"pytest-segments-{os.getpid()}")
        self.folder.mkdir()
        self.pool = SegmentPool(str(self.folder), "w1")
        self.content: dict[str, bytes] = {}
        self.most = 0

    def teardown(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    @rule(target=held, size=st.sampled_from([1, 2, 100, PAGE, PAGE + 1, 3 * PAGE, 8 * PAGE]))
    def store(self, size: int) -> str:
        data = self.random.randbytes(size)
        path = put(self.pool, data)
        assert path not in self.content, "somebody reads it"
        self.content[path] = data
        self.most = max(self.most, len(self.content))
        return path

    @rule(path=consumes(held))
    def release(self, path: str) -> None:
        del self.content[path]
        self.pool.release(path)

    @invariant()
    def all_that_is_held_is_whole(self) -> None:
        for path, data in self.content.items():
            with open(path, "rb") as file:
                assert file.read(len(data)) == data

    @invariant()
    def free_segments_are_used_again(self) -> None:
        # At most as many of each of the seven sizes as were ever held at a time.
        assert files(self.pool) <= 7 * max(1, self.most)


PoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


def test_a_released_segment_is_the_next_of_its_size(pool: SegmentPool) -> None:
    first = put(pool, b"a" * 5000)
    other = put(pool, b"b" * 100)
    pool.release(first)
    for i in range(5):
        path = put(pool, bytes([i]) * (5000 + i))
        assert path == first
        assert Path(path).read_bytes()[: 5000 + i] == bytes([i]) * (5000 + i)
        pool.release(path)
    assert Path(other).read_bytes()[:100] == b"b" * 100
    assert files(pool) == 2


def test_files_are_private(pool: SegmentPool) -> None:
    assert os.stat(put(pool, b"secret")).st_mode & 0o777 == 0o600


def test_pools_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    pools = [SegmentPool(str(tmp_path), name) for name in ("hub", "w1", "w11")]
    paths = [put(pool, b"x" * 10) for pool in pools for _ in range(12)]
    assert len(set(paths)) == 36


def test_only_so_much_is_kept(pool: SegmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "KEEP_BYTES", 4 * 8192)
    paths = [put(pool, b"x" * 8000) for _ in range(10)]
    assert files(pool) == 10
    for path in paths:
        pool.release(path)
    assert files(pool) == 4
    again = [put(pool, b"y" * 8000) for _ in range(10)]
    for path in again:
        pool.release(path)
    assert files(pool) == 4


def test_no_folder_refuses_all() -> None:
    assert SegmentPool(None, "hub").store(memoryview(b"x")) is None


class FullDisk:
    """``os.pwrite`` where only so many bytes find room; then as tmpfs fails."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._pwrite = os.pwrite

    def __call__(self, fd: int, data: memoryview, offset: int) -> int:
        new = max(0, offset + len(data) - os.fstat(fd).st_size)
        if not new:
            return self._pwrite(fd, data, offset)
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._pwrite(fd, data[: min(len(data), self.room)], offset)
        self.room -= count
        return count


def test_a_full_disk_is_no_error_and_leaves_nothing(
    pool: SegmentPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held, free = put(pool, b"h" * 5000), put(pool, b"f" * 5000)
    pool.release(free)
    disk = FullDisk(300_000)
    monkeypatch.setattr(os, "pwrite", disk)
    with caplog.at_level(logging.WARNING):
        assert pool.store(memoryview(b"x" * 400_000)) is None
        # What was kept warm is given to whoever needs memory; what is read stays.
        assert os.listdir(os.path.dirname(held)) == [os.path.basename(held)]
        assert pool.store(memoryview(b"x" * 400_000)) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "sent by socket" in caplog.text
    assert Path(held).read_bytes() == b"h" * 5000
    disk.room = 1 << 30
    assert Path(put(pool, b"x" * 400_000)).read_bytes() == b"x" * 400_000
    pool.release(held)
    assert put(pool, b"n" * 5000) == held


def test_a_segment_that_grows_where_there_is_no_room_is_no_sigbus(
    pool: SegmentPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is mapped as it is used the second time; pages behind its content do not exist."""
    path = put(pool, b"a" * 8193)
    for _ in range(2):
        pool.release(path)
        assert put(pool, b"b" * 8193) == path
    assert mappings(path) == 1
    pool.release(path)
    assert put(pool, b"b" * 10_000) == path  # more pages than it had when it was mapped
    pool.release(path)

    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert put(pool, b"c" * 10_000) == path, "its pages are there"
    assert Path(path).read_bytes()[:10_000] == b"c" * 10_000
    pool.release(path)
    pool._warned = True  # a captured warning would hold the traceback, which holds the mapping
    assert pool.store(memoryview(b"d" * 16384)) is None
    assert files(pool) == mappings(path) == pool._kept == 0
    assert not any(pool._free.values())


def test_release_in_the_middle_of_a_store_does_not_wait(pool: SegmentPool) -> None:
    """The garbage collector may run a finalizer while this thread holds the lock."""
    path = put(pool, b"x" * 100)
    with pool._lock:
        thread = threading.Thread(target=pool.release, args=(path,), daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert put(pool, b"y" * 100) == path, "it was remembered"


def test_threads_release_while_one_stores(pool: SegmentPool) -> None:
    """A worker stores; finalizers of views run in any of its threads."""
    stored: list[tuple[str, bytes]] = []
    wrong: list[str] = []
    some = threading.Semaphore(0)

    def check_and_release() -> None:
        while True:
            some.acquire()
            path, data = stored.pop()
            if not path:
                return
            if Path(path).read_bytes()[: len(data)] != data:
                wrong.append(path)
            pool.release(path)

    threads = [threading.Thread(target=check_and_release, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(600):
        data = i.to_bytes(4, "big") * (200 + i % 5)
        stored.append((put(pool, data), data))
        some.release()
    for _ in threads:
        stored.insert(0, ("", b""))
        some.release()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert wrong == []


FORK = """
import os, sys
from ssdag.wire.shared import Handle, SegmentPool
pool = SegmentPool(sys.argv[1], "hub")
path = pool.store(memoryview(b"x" * 5000))
handle = Handle(path, 5000, pool.release)
pid = os.fork()
if not pid:
    del handle           # the child's copy ends; the parent still reads
    os._exit(pool.store(memoryview(b"y" * 5000)) == path)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert bytes(handle.attach()) == b"x" * 5000
del handle
assert pool.store(memoryview(b"z" * 5000)) == path
"""


def test_a_forked_child_frees_nothing_of_its_parent(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], check=True, timeout=60)


# -- readers ------------------------------------------------------------------------------


@pytest.fixture
def freed() -> list[str]:
    """Paths that handles have released."""
    return []


def segment(tmp_path: Path, data: bytes, name: str = "w1-1") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def test_a_segment_is_free_with_its_last_view(tmp_path: Path, freed: list[str]) -> None:
    path = segment(tmp_path, b"abc" * 3000)
    handle = Handle(path, 9000, freed.append)
    first = np.frombuffer(handle.attach(), np.uint8)
    second = np.frombuffer(handle.attach(), np.uint8)
    part = first[10:20]
    del handle, first
    assert freed == []
    assert bytes(part[:3]) == b"bca"
    del part
    assert freed == []
    del second
    assert freed == [path]


def test_a_handle_that_is_never_read_is_released_once(tmp_path: Path, freed: list[str]) -> None:
    handle = Handle(segment(tmp_path, b"a"), 1, freed.append)
    del handle
    gc.collect()
    assert len(freed) == 1


def test_a_reader_changes_only_its_own_view(tmp_path: Path, freed: list[str]) -> None:
    path = segment(tmp_path, b"a" * 5000)
    handle = Handle(path, 5000, freed.append)
    first, second = handle.attach(), handle.attach()
    first[:] = b"b" * 5000
    assert bytes(second) == b"a" * 5000
    assert Path(path).read_bytes() == b"a" * 5000


def test_only_the_bytes_that_count_are_shown(tmp_path: Path, freed: list[str]) -> None:
    handle = Handle(segment(tmp_path, b"new" + b"old" * 5000), 3, freed.append)
    assert bytes(handle.attach()) == b"new"


def test_a_segment_that_is_gone(tmp_path: Path, freed: list[str]) -> None:
    handle = Handle(str(tmp_path / "none"), 10, freed.append)
    with pytest.raises(FileNotFoundError):
        handle.attach()


def test_what_is_kept_outlives_its_file(tmp_path: Path, freed: list[str]) -> None:
    lent = Lent()
    paths = [segment(tmp_path, bytes([65 + i]) * 5000, f"w1-{i}") for i in range(3)]
    handles = [Handle(path, 5000, freed.append) for path in paths]
    for handle in handles:
        lent.add(handle)
    gone = handles.pop()
    lent.discard(gone.path)
    del gone, handle
    lent.keep_all()
    for path in paths:
        os.unlink(path)
    for i, handle in enumerate(handles):
        assert handle.path in lent
        first, second = handle.attach(), handle.attach()
        assert bytes(first) == bytes([65 + i]) * 5000
        first[:10] = b"x" * 10
        assert bytes(second) == bytes([65 + i]) * 5000
    assert paths[2] not in lent


def test_a_file_that_cannot_be_kept_is_told_and_the_others_are_kept(
    tmp_path: Path, freed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    lent = Lent()
    lost = Handle(str(tmp_path / "none"), 10, freed.append)
    kept = Handle(segment(tmp_path, b"a" * 10), 10, freed.append)
    lent.add(lost)
    lent.add(kept)
    lent.keep_all()
    assert "is lost" in caplog.text
    os.unlink(kept.path)
    assert bytes(kept.attach()) == b"a" * 10


def mappings(path: str) -> int:
    return sum(path in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_mapping_is_undone_and_holds_no_descriptor(tmp_path: Path) -> None:
    path = segment(tmp_path, b"a" * 100_000)
    before = len(os.listdir("/proc/self/fd"))
    told: list[int] = []
    views = [map_private(path, 100_000, lambda: told.append(1)) for _ in range(50)]
    assert mappings(path) >= 1
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(view[99_999] == 97 and len(view) == 100_000 for view in views)
    views.clear()
    assert mappings(path) == 0
    assert len(told) == 50


# -- values in segments ---------------------------------------------------------------------


def value_of(
    tmp_path: Path, freed: list[str], *arrays: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> SharedValue:
    """Make what an executor makes of a result with large arrays."""
    raw: list[memoryview] = []
    payload = pickle.dumps(list(arrays), 5, buffer_callback=lambda buffer: raw.append(buffer.raw()))
    handles = [
        Handle(segment(tmp_path, bytes(view), f"w1-{i}"), len(view), freed.append)
        for i, view in enumerate(raw)
    ]
    return SharedValue(payload, handles)


def test_a_value_resolves_to_copies_of_its_own(tmp_path: Path, freed: list[str]) -> None:
    value = value_of(tmp_path, freed, np.arange(1000.0), np.ones(500))
    first, second = value.resolve(), value.resolve()
    first[0][:] = -1
    assert np.array_equal(second[0], np.arange(1000.0))
    assert np.array_equal(value.resolve()[0], np.arange(1000.0))
    del first
    assert freed == []
    del value, second
    assert sorted(freed) == [str(tmp_path / "w1-0"), str(tmp_path / "w1-1")]


def test_buffers_of_the_frame_are_copied_too(tmp_path: Path) -> None:
    raw: list[memoryview] = []
    payload = pickle.dumps(np.ones(10), 5, buffer_callback=lambda b: raw.append(b.raw()))
    value = SharedValue(payload, [bytearray(raw[0])])
    value.resolve()[:] = 5
    assert value.resolve().sum() == 10.0


def test_somebody_else_who_pickles_it_gets_the_value_itself(
    tmp_path: Path, freed: list[str]
) -> None:
    value = value_of(tmp_path, freed, np.arange(100.0))
    data = pickle.dumps(value, 5)
    os.unlink(tmp_path / "w1-0")
    (array,) = loads(data)
    assert np.array_equal(array, np.arange(100.0))


def send(value: object) -> tuple[bytes, list[Handle]]:
    """Pickle as the hub does, and return what it must hold for the worker."""
    taken: list[Handle] = []
    LEASES.taken = taken
    try:
        return pickle.dumps(value, 5), taken
    finally:
        LEASES.taken = None


def test_sent_on_it_is_a_few_bytes_and_each_lease_is_given_back_once(
    tmp_path: Path, freed: list[str]
) -> None:
    value = value_of(tmp_path, freed, np.arange(100_000.0), np.ones(100_000))
    other = value_of(tmp_path, freed, np.arange(100_000.0))
    data, taken = send([value, other, value])
    assert len(data) < 1000
    # The same object twice in one pickle travels once, as pickle does it.
    assert Counter(handle.path for handle in taken) == Counter(
        [str(tmp_path / "w1-0"), str(tmp_path / "w1-1"), str(tmp_path / "w1-0")]
    )
    arrays = loads(data)
    assert np.array_equal(arrays[0][0], np.arange(100_000.0))
    assert sorted(shared.MAPPED) == sorted(handle.path for handle in taken)
    assert take_released() == []
    del arrays
    assert Counter(take_released()) == Counter(handle.path for handle in taken)
    assert take_released() == []
    assert freed == [], "the worker's views are not the driver's"


def test_leases_belong_to_the_thread_that_pickles(tmp_path: Path, freed: list[str]) -> None:
    """A done callback that pickles while the hub does must not take its leases."""
    value = value_of(tmp_path, freed, np.arange(100_000.0))
    LEASES.taken = []
    try:
        sizes: list[int] = []
        thread = threading.Thread(target=lambda: sizes.append(len(pickle.dumps(value, 5))))
        thread.start()
        thread.join(DEADLINE_S)
        assert sizes[0] > 800_000, "the value itself"
        assert LEASES.taken == []
    finally:
        LEASES.taken = None


def test_a_value_whose_engine_has_ended_is_sent_whole(tmp_path: Path, freed: list[str]) -> None:
    value = value_of(tmp_path, freed, np.arange(1000.0))
    handle: Handle = value.__ssdag_parts__()[1][0]
    handle.keep()
    os.unlink(handle.path)
    data, taken = send(value)
    assert taken == []
    assert np.array_equal(loads(data)[0], np.arange(1000.0))
    assert np.array_equal(value.resolve()[0], np.arange(1000.0))


def test_a_leased_segment_that_cannot_be_mapped_is_not_noted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        attach_leased(str(tmp_path / "none"), 10)
    assert shared.MAPPED == []
    assert take_released() == []
