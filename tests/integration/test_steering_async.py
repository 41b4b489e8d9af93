# SPDX-License-Identifier: BSD-3-Clause
"""Steering, step counters and checkpoints of coroutines."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.steering import coroutines
from ssdag.client.steering.checkpoints import Checkpoint
from ssdag.client.steering.steering import Steering
from ssdag.client.steering.steps import StepCounter
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError
from ssdag.services.orchestrator import Orchestrator
from tests.integration.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=SERVERS)
def db(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    with Orchestrator(server=request.param) as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.flush_db()
        yield made


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (coroutines.AsyncSteering, Steering),
        (coroutines.AsyncStepCounter, StepCounter),
        (coroutines.AsyncCheckpoint, Checkpoint),
    ],
)
def test_the_same_calls(ours: type, theirs: type) -> None:
    """Each public call has its counterpart, with the same arguments."""
    for name, method in vars(theirs).items():
        if name.startswith("_") or name == "kind":
            continue
        other = getattr(ours, name)
        assert other.__doc__
        if inspect.isfunction(method):
            assert inspect.iscoroutinefunction(other), name
            assert (
                list(inspect.signature(method).parameters.values())[1:]
                == list(inspect.signature(other).parameters.values())[1:]
            )


def test_commands(client: Client) -> None:
    async def main() -> None:
        steering = client.aio.steering("flow")
        assert await steering.check(0) == []
        waiting = asyncio.create_task(steering.wait(20))
        assert await client.aio.steer("dt", 0.5, channel="flow") == 1
        (command,) = await waiting
        assert (command.name, command.value, command.step) == ("dt", 0.5, 1)
        assert not steering.stopped
        await client.aio.steering("flow").post("stop")
        assert [one.name for one in await steering.wait(20)] == ["stop"]
        assert steering.stopped
        with pytest.raises(DataTimeoutError, match="command in channel 'flow'"):
            await steering.wait(0.01)
        await steering.clear()
        assert await client.aio.steering("flow").check() == []

    asyncio.run(main())


def test_steps(client: Client) -> None:
    async def main() -> None:
        counter = client.aio.step_counter("flow", ranks=3)
        assert await counter.step() == -1
        waiting = [asyncio.create_task(counter.wait(step, 20)) for step in range(4)]
        for rank in range(3):
            assert not waiting[0].done()
            await counter.done(3, rank)
        assert await asyncio.gather(*waiting) == [3, 3, 3, 3]
        assert await counter.wait(2) == 3
        with pytest.raises(DataTimeoutError, match="step 4 of counter 'flow'"):
            await counter.wait(4, 0.01)
        with pytest.raises(ConfigError, match="step='4'"):
            await counter.wait("4")  # type: ignore[arg-type]
        await counter.clear()
        assert await counter.step() == -1

    asyncio.run(main())


def test_checkpoints(client: Client) -> None:
    async def main() -> None:
        checkpoint = client.aio.checkpoint("flow", ranks=2, keep=2)
        with pytest.raises(MissingDataError):
            await checkpoint.load()
        waiting = asyncio.create_task(checkpoint.wait(timeout_s=20))
        assert not await checkpoint.save(7, np.arange(3), 0)
        assert not waiting.done()
        assert await checkpoint.save(7, {"dt": 0.5}, 1)
        assert await waiting == 7
        step, value = await checkpoint.load(rank=1)
        assert (step, value) == (7, {"dt": 0.5})
        assert await checkpoint.steps() == [7]
        with pytest.raises(DataTimeoutError, match="step after 7 of checkpoint 'flow'"):
            await checkpoint.wait(7, 0.01)
        assert await checkpoint.delete()
        assert not await checkpoint.delete()

    asyncio.run(main())


def test_waiting_takes_no_thread(client: Client) -> None:
    async def main() -> None:
        counter, steering = client.aio.step_counter(), client.aio.steering()
        waiting = [asyncio.create_task(counter.wait(0, 20)) for _ in range(50)]
        waiting.append(asyncio.create_task(client.aio.checkpoint().wait(timeout_s=20)))
        commands = asyncio.create_task(steering.wait(20))
        await client.aio.ping()
        assert threading.active_count() < 20
        await client.aio.checkpoint().save(0, 1)
        await counter.done(0)
        await steering.post("stop")
        assert await asyncio.gather(*waiting) == [0] * 51
        assert (await commands)[0].name == "stop"

    asyncio.run(main())
    assert not client.closed
