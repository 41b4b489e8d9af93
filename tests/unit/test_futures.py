# SPDX-License-Identifier: BSD-3-Clause
"""The lean future is a ``concurrent.futures.Future`` for all of the standard library."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import copy
import gc
import pickle
import sys
import threading
import time
from concurrent.futures import CancelledError, InvalidStateError
from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import SerializationError
from ssdag.futures import LOCK, WAIT_GUARD, DataFuture, Future
from ssdag.references import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 30.0


class Seven(Reference):
    """A reference whose value is 7."""

    def resolve(self) -> int:
        return 7

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return ()


def in_threads(*functions: Callable[[], object]) -> None:
    """Run functions at the same time; raise what the first failing one raised."""
    with cf.ThreadPoolExecutor(len(functions)) as pool:
        for call in [pool.submit(function) for function in functions]:
            call.result(DEADLINE_S)


@pytest.fixture
def restless() -> Iterator[None]:
    """Switch threads as often as the interpreter can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- one future ----------------------------------------------------------------------


def test_result_error_and_cancel() -> None:
    value: Future[int] = Future()
    assert not value.done()
    assert not value.cancelled()
    assert not value.running()
    value.set_result(3)
    assert value.done()
    assert value.result() == 3
    assert value.exception() is None
    assert not value.cancel()

    failed: Future[int] = Future()
    error = ValueError("no")
    failed.set_exception(error)
    assert failed.exception() is error
    with pytest.raises(ValueError, match="no"):
        failed.result()

    cancelled: Future[int] = Future()
    assert cancelled.cancel()
    assert cancelled.cancel()
    assert cancelled.cancelled()
    assert cancelled.done()
    with pytest.raises(CancelledError):
        cancelled.result()
    with pytest.raises(CancelledError):
        cancelled.exception()
    assert not cancelled.set_running_or_notify_cancel()


def test_states_are_those_of_the_standard_library() -> None:
    """``wait`` and ``as_completed`` look at ``_state`` itself."""
    future: Future[int] = Future()
    assert future._state == cf._base.PENDING
    assert future.set_running_or_notify_cancel()
    assert future.running()
    assert future._state == cf._base.RUNNING
    assert not future.cancel()
    future.set_result(1)
    assert future._state == cf._base.FINISHED
    other: Future[int] = Future()
    other.cancel()
    assert other._state == cf._base.CANCELLED_AND_NOTIFIED


def test_finishing_twice_is_an_error_and_changes_nothing() -> None:
    future: Future[int] = Future()
    future.set_result(1)
    with pytest.raises(InvalidStateError):
        future.set_result(2)
    with pytest.raises(InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(InvalidStateError):
        future.set_running_or_notify_cancel()
    assert future.result() == 1


def test_it_is_lean() -> None:
    """No instance dictionary and no condition until somebody waits."""
    future: Future[int] = Future()
    future.set_result(1)
    assert future.result() == 1
    assert future._cond is None
    assert sys.getsizeof(future) <= 136
    waited: Future[int] = Future()
    with pytest.raises(TimeoutError):
        waited.result(0.0)
    assert waited._cond is None  # Ctrl-C in result() can leave no condition locked
    cf.wait([waited], 0.0)
    assert waited._cond is not None


def test_a_timeout_is_the_builtin_one_and_leaves_the_future_alone() -> None:
    future: Future[int] = Future()
    with pytest.raises(TimeoutError):
        future.result(0.001)
    with pytest.raises(cf.TimeoutError):
        future.exception(0.001)
    future.set_result(5)
    assert future.result(0) == 5


def test_callbacks_run_once_in_order_and_at_once_when_done() -> None:
    seen: list[int] = []
    future: Future[int] = Future()
    for i in range(4):
        future.add_done_callback(lambda _, i=i: seen.append(i))  # type: ignore[misc]
    assert seen == []
    future.set_result(0)
    assert seen == [0, 1, 2, 3]
    future.add_done_callback(lambda done: seen.append(done.result() + 9))
    assert seen == [0, 1, 2, 3, 9]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_callback_that_raises_is_logged_and_the_others_run(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """SystemExit too: it would end the thread that serves all others."""
    seen: list[int] = []

    def bad(_: Future[int]) -> None:
        raise error("from a callback")

    future: Future[int] = Future()
    future.add_done_callback(bad)
    future.add_done_callback(lambda _: seen.append(1))
    future.set_result(0)
    assert seen == [1]
    assert "from a callback" in caplog.text


def test_callbacks_run_without_the_lock() -> None:
    """A callback may complete other futures, add callbacks and wait."""
    first: Future[int] = Future()
    second: Future[int] = Future()
    free: list[bool] = []

    def look() -> None:
        free.append(LOCK.acquire(timeout=DEADLINE_S))
        LOCK.release()

    def chain(done: Future[int]) -> None:
        in_threads(look)
        second.set_result(done.result() + 1)

    first.add_done_callback(chain)
    first.set_result(1)
    assert free == [True]
    assert second.result(DEADLINE_S) == 2


def test_a_reference_is_resolved_by_result_only() -> None:
    future: Future[Any] = Future()
    future.set_result(Seven())
    assert future.result() == 7
    assert isinstance(future._result, Seven)


def test_a_raised_error_keeps_no_frame_of_the_waiter_alive() -> None:
    class Big:
        pass

    def waiter(future: Future[int]) -> Any:
        import weakref

        big = Big()
        with pytest.raises(ValueError, match="x"):
            future.result()
        return weakref.ref(big)

    future: Future[int] = Future()
    future.set_exception(ValueError("x"))
    ref = waiter(future)
    del future
    gc.collect()
    assert ref() is None


def test_a_future_cannot_be_pickled_or_copied_and_says_what_to_do() -> None:
    future: Future[int] = Future()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(SerializationError, match="argument of an app"):
            attempt(future)


def test_repr_tells_the_state_and_never_shows_the_value() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("repr of a user's object")

    future: Future[Any] = Future()
    assert "pending" in repr(future)
    future.set_result(Loud())
    assert repr(future) == "<Future done with Loud>"
    failed: Future[Any] = Future()
    failed.set_exception(KeyError("k"))
    assert "failed with KeyError" in repr(failed)
    cancelled: Future[Any] = Future()
    cancelled.cancel()
    assert "cancelled" in repr(cancelled)
    assert "tensor 'u.3'" in repr(DataFuture("u.3", "tensor"))


def test_cancelling_a_future_of_data_calls_its_hook_once() -> None:
    calls: list[Any] = []
    future: DataFuture[int] = DataFuture("u", "tensor")
    future._on_cancel = calls.append
    assert future.cancel()
    assert future.cancel()
    assert calls == [future]


def test_the_guard_is_asked_only_for_waits_without_end() -> None:
    asked: list[str] = []

    def before(future: Future[Any]) -> Callable[[], None]:
        asked.append("before")
        future.set_result(1)
        return lambda: asked.append("after")

    WAIT_GUARD.before_wait = before
    try:
        bounded: Future[int] = Future()
        with pytest.raises(TimeoutError):
            bounded.result(0.0)
        assert asked == []
        endless: Future[int] = Future()
        assert endless.result() == 1
        assert asked == ["before", "after"]
    finally:
        WAIT_GUARD.before_wait = None


# -- with the standard library -------------------------------------------------------


def test_wait_in_its_three_ways() -> None:
    futures: list[Future[int]] = [Future() for _ in range(4)]
    done, left = cf.wait(futures, timeout=0.0)
    assert not done
    assert left == set(futures)
    futures[0].set_result(0)
    done, left = cf.wait(futures, return_when=cf.FIRST_COMPLETED, timeout=DEADLINE_S)
    assert done == {futures[0]}
    futures[1].set_exception(ValueError())
    done, left = cf.wait(futures, return_when=cf.FIRST_EXCEPTION, timeout=DEADLINE_S)
    assert done == set(futures[:2])
    threading.Timer(0.0, futures[2].cancel).start()
    threading.Timer(0.0, futures[3].set_result, (1,)).start()
    done, left = cf.wait(futures, timeout=DEADLINE_S)
    assert not left


def test_as_completed_mixed_with_stock_futures() -> None:
    ours: Future[int] = Future()
    stock: cf.Future[int] = cf.Future()
    early: Future[int] = Future()
    early.set_result(0)
    order: list[object] = []
    with cf.ThreadPoolExecutor(1) as pool:
        for future in cf.as_completed([ours, stock, early], timeout=DEADLINE_S):
            order.append(future)
            if future is early:
                pool.submit(ours.set_result, 1)
            elif future is ours:
                pool.submit(stock.set_result, 2)
    assert order == [early, ours, stock]


def test_asyncio_awaits_and_cancels() -> None:
    async def work() -> tuple[int, str, bool]:
        good: Future[int] = Future()
        bad: Future[int] = Future()
        dropped: Future[int] = Future()
        with cf.ThreadPoolExecutor(1) as pool:
            pool.submit(good.set_result, 4)
            pool.submit(bad.set_exception, ValueError("bad"))
            value = await asyncio.wait_for(asyncio.wrap_future(good), DEADLINE_S)
            try:
                await asyncio.wait_for(asyncio.wrap_future(bad), DEADLINE_S)
            except ValueError as error:
                text = str(error)
            wrapped = asyncio.wrap_future(dropped)
            wrapped.cancel()
            await asyncio.sleep(0)  # the cancel goes back by a callback of the loop
        return value, text, dropped.cancelled()

    assert asyncio.run(work()) == (4, "bad", True)


# -- races -----------------------------------------------------------------------------


@pytest.mark.usefixtures("restless")
def test_the_race_of_a_lazy_condition() -> None:
    """``wait`` must not return early, and nobody may sleep through an end.

    A completer that changed the state first and looked for a condition afterwards made
    ``wait`` return futures that were not done (one run of three): it reads the states
    twice while it holds the conditions. Kept for ever.
    """
    end = time.monotonic() + 3.0
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        futures: list[Future[int]] = [Future() for _ in range(24)]
        start = threading.Barrier(5)

        def complete(
            part: int, futures: list[Future[int]] = futures, start: threading.Barrier = start
        ) -> None:
            start.wait(DEADLINE_S)
            for i in range(part, len(futures), 2):
                if i % 7 == 3:
                    futures[i].set_exception(ValueError(i))
                elif i % 11 == 5:
                    futures[i].cancel()
                else:
                    futures[i].set_result(i)

        def wait_all(
            futures: list[Future[int]] = futures, start: threading.Barrier = start
        ) -> None:
            start.wait(DEADLINE_S)
            done, left = cf.wait(futures, timeout=DEADLINE_S)
            assert not left
            assert all(future.done() for future in done)

        def in_order_of_end(
            futures: list[Future[int]] = futures, start: threading.Barrier = start
        ) -> None:
            start.wait(DEADLINE_S)
            seen = set()
            for future in cf.as_completed(futures, timeout=DEADLINE_S):
                assert future.done()
                seen.add(future)
            assert len(seen) == len(futures)

        def each(futures: list[Future[int]] = futures, start: threading.Barrier = start) -> None:
            start.wait(DEADLINE_S)
            called = threading.Semaphore(0)
            for i, future in enumerate(futures):
                future.add_done_callback(lambda _: called.release())
                if i % 7 == 3:
                    with pytest.raises(ValueError, match=f"^{i}$"):
                        future.result(DEADLINE_S)
                elif i % 11 == 5:
                    with pytest.raises(CancelledError):
                        future.result(DEADLINE_S)
                else:
                    assert future.result(DEADLINE_S) == i
            for _ in futures:
                assert called.acquire(timeout=DEADLINE_S)

        in_threads(lambda: complete(0), lambda: complete(1), wait_all, in_order_of_end, each)
    assert rounds > 10


@pytest.mark.usefixtures("restless")
def test_first_completed_is_really_completed() -> None:
    """The same race, seen from ``FIRST_COMPLETED``: what is returned as done is done."""
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        futures: list[Future[int]] = [Future() for _ in range(8)]

        def complete(futures: list[Future[int]] = futures) -> None:
            for future in futures:
                future.set_result(1)

        def drain(futures: list[Future[int]] = futures) -> None:
            left: set[cf.Future[int]] = set(futures)
            while left:
                done, left = cf.wait(left, DEADLINE_S, cf.FIRST_COMPLETED)
                assert done
                assert all(future.result(0) == 1 for future in done)

        in_threads(complete, drain, drain)


@pytest.mark.usefixtures("restless")
def test_one_of_many_completers_wins() -> None:
    for _ in range(300):
        future: Future[int] = Future()
        called: list[int] = []
        future.add_done_callback(lambda f, called=called: called.append(1))  # type: ignore[misc]
        wins: list[str] = []

        def finish(future: Future[int] = future, wins: list[str] = wins) -> None:
            try:
                future.set_result(1)
                wins.append("result")
            except InvalidStateError:
                pass

        def cancel(future: Future[int] = future, wins: list[str] = wins) -> None:
            if future.cancel():
                wins.append("cancel")

        in_threads(finish, cancel, finish)
        assert len(wins) == 1
        assert future.cancelled() == (wins == ["cancel"])
        assert called == [1]


def test_asyncio_stress() -> None:
    """A thousand awaited futures, completed by four threads."""

    async def work() -> list[int]:
        futures: list[Future[int]] = [Future() for _ in range(1000)]
        with cf.ThreadPoolExecutor(4) as pool:
            awaited = [asyncio.wrap_future(future) for future in futures[:500]]
            for i, future in enumerate(futures):
                pool.submit(future.set_result, i)
            awaited += [asyncio.wrap_future(future) for future in futures[500:]]
            return await asyncio.wait_for(asyncio.gather(*awaited), DEADLINE_S)

    assert asyncio.run(work()) == list(range(1000))
