# SPDX-License-Identifier: BSD-3-Clause
"""``await`` on the library's futures."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from ssdag.futures import DataFuture, Future
from ssdag.references import Reference

DEADLINE_S = 10.0


class Fetched(Reference):
    """A value whose fetching tells in which thread it was done."""

    __slots__ = ()

    def resolve(self) -> Any:
        return threading.current_thread()

    def __ssdag_parts__(self) -> tuple[Any, ...]:
        return ()


def later(call: Any, *args: object) -> None:
    threading.Thread(target=call, args=args).start()


def test_values_and_errors() -> None:
    async def work() -> None:
        done: Future[int] = Future()
        done.set_result(1)
        assert await done == 1
        good: Future[int] = Future()
        later(good.set_result, 2)
        assert await asyncio.wait_for(good, DEADLINE_S) == 2
        bad: Future[int] = Future()
        later(bad.set_exception, ValueError("bad"))
        with pytest.raises(ValueError, match="bad"):
            await bad
        dropped: DataFuture[int] = DataFuture("a")
        later(dropped.cancel)
        with pytest.raises(CancelledError):
            await dropped

    asyncio.run(work())


def test_fetching_does_not_block_the_loop() -> None:
    async def work() -> None:
        future: DataFuture[Any] = DataFuture("a")
        later(future.set_result, Fetched())
        assert await future is not threading.main_thread()

    asyncio.run(work())


def test_who_awaits_may_be_cancelled() -> None:
    """The future is that of others, too, and goes on."""

    async def work() -> Future[int]:
        shared: Future[int] = Future()

        async def wait() -> int:
            return await shared

        impatient, patient = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        assert not shared.done()
        later(shared.set_result, 3)
        assert await asyncio.wait_for(patient, DEADLINE_S) == 3
        left: Future[int] = Future()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(left, 0.01)
        return left

    left = asyncio.run(work())
    left.set_result(4)  # the loop that wanted to know is closed


def test_many_at_once() -> None:
    async def work() -> list[int]:
        futures: list[Future[int]] = [Future() for _ in range(1000)]

        def finish() -> None:
            for i, future in enumerate(futures):
                future.set_result(i)

        later(finish)

        async def one(future: Future[int]) -> int:
            return await future

        return await asyncio.gather(*map(one, futures))

    assert asyncio.run(work()) == list(range(1000))
