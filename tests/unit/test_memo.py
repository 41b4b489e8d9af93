# SPDX-License-Identifier: BSD-3-Clause
"""The memo: found again in the run, in the next run, and never an error to a task."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.dataflow.checkpoint import Checkpoint
from ssdag.dataflow.memo import Memo, dumps_resolved
from ssdag.references import Reference

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

K1, K2, K3 = (bytes([n]) * 20 for n in (1, 2, 3))


class Ref(Reference):
    """A value that is gone after `lost` is set."""

    lost = False

    def __init__(self, value: Any) -> None:
        self.value = value

    def resolve(self) -> Any:
        if self.lost:
            raise LookupError("the block is gone")
        return self.value

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return (self.value,)


def test_in_memory() -> None:
    memo = Memo(max_entries=1)  # without a file, nothing may leave
    assert memo.lookup(K1) == (False, None)
    value, nothing = object(), None
    memo.store(K1, value)
    memo.store(K2, nothing)
    assert memo.lookup(K1) == (True, value)
    assert memo.lookup(K2) == (True, None)
    assert (memo.hits, memo.misses, len(memo)) == (2, 1, 2)


def test_the_next_run_finds_it(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint)
        memo.store(K1, {"a": np.arange(3)}, "app", 0.5)
        memo.store(K2, None)
        memo.store(K3, lambda x: x + 1)
        found, value = memo.lookup(K1)
        assert found
        assert value["a"].sum() == 3
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint)
        found, value = memo.lookup(K1)
        assert found
        assert value["a"].tolist() == [0, 1, 2]
        assert memo.lookup(K2) == (True, None)
        assert memo.lookup(K3)[1](1) == 2
        assert memo.lookup(b"\0" * 20) == (False, None)


def test_references_are_stored_as_their_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint)
        reference = Ref([1, 2])
        memo.store(K1, reference)
        memo.store(K2, {"deep": [Ref("x")], "code": lambda: 1})
        assert memo.lookup(K1) == (True, reference)  # this run keeps the reference
    monkeypatch.setattr(Ref, "lost", True)
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint)
        assert memo.lookup(K1) == (True, [1, 2])
        assert memo.lookup(K2)[1]["deep"] == ["x"]


def test_what_cannot_be_pickled_stays_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint)
        lock = threading.Lock()
        memo.store(K1, lock, "one")
        memo.store(K2, [lock], "one")
        assert len(caplog.records) == 1
        assert "results of one cannot be written" in caplog.text
        monkeypatch.setattr(Ref, "lost", True)
        memo.store(K3, Ref(1), "two")
        assert len(caplog.records) == 2
        assert memo.lookup(K1) == (True, lock)
        assert memo.lookup(K2) == (True, [lock])
        assert len(checkpoint) == 0


def test_what_cannot_be_loaded_any_more_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.put(K1, dumps_resolved(Ref))
        checkpoint.put(K2, b"no pickle at all")
        monkeypatch.delattr(sys.modules[__name__], "Ref")
        memo = Memo(checkpoint)
        assert memo.lookup(K1) == (False, None)
        assert memo.lookup(K2) == (False, None)
    assert len(caplog.records) == 1
    assert "its task runs again" in caplog.text


def test_memory_bound(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint, max_entries=2)
        for key in (K1, K2):
            memo.store(key, [key])
        memo.lookup(K1)  # so K2 is the least recently used
        memo.store(K3, [K3])
        assert len(memo) == 2
        first = memo.lookup(K1)[1]
        assert memo.lookup(K1)[1] is first
        assert memo.lookup(K2) == (True, [K2])  # from the file
        assert memo.lookup(K2)[1] is memo.lookup(K2)[1]
        assert len(memo) == 2


def test_a_checkpoint_that_takes_no_rows(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    checkpoint.close()
    memo = Memo(checkpoint, max_entries=1)
    for key in (K1, K2, K3):
        memo.store(key, key)
    assert [memo.lookup(key) for key in (K1, K2, K3)] == [(True, K1), (True, K2), (True, K3)]


def test_calls_in_flight() -> None:
    memo, first, second = Memo(), object(), object()
    assert memo.claim(K1, first) is None
    assert memo.claim(K1, second) is first
    assert memo.claim(K2, second) is None
    memo.release(K1, second)
    assert memo.claim(K1, second) is first
    memo.release(K1, first)
    memo.release(K1, first)
    assert memo.claim(K1, second) is None
    assert set(memo.pending) == {K1, K2}


def test_threads(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        memo = Memo(checkpoint, max_entries=5)
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                for n in range(200):
                    key = bytes([n % 20]) * 20
                    found, value = memo.lookup(key)
                    assert not found or value == n % 20
                    memo.store(key, n % 20)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(checkpoint) == 20
