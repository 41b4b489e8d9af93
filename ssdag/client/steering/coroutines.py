# SPDX-License-Identifier: BSD-3-Clause
"""Steering, step counters and checkpoints for coroutines. What waits takes no thread."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ssdag.client.steering.checkpoints import Checkpoint, Saved
from ssdag.client.steering.handle import Handle, check_count
from ssdag.client.steering.steering import Command, Steering
from ssdag.client.steering.steps import StepCounter
from ssdag.client.transport.deadline import Deadline
from ssdag.client.waiting.conditions import Condition
from ssdag.errors import DataTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.async_client import AsyncClient
    from ssdag.client.transport.resp import Reply

_H = TypeVar("_H", bound=Handle)


class _AsyncHandle(Generic[_H]):
    """A handle whose calls are awaited.

    Attributes
    ----------
    handle : Handle
        The same thing with calls that block.
    """

    def __init__(self, client: AsyncClient, handle: _H) -> None:
        self._client = client
        self.handle = handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.handle.name!r} at {self._client.client.address}>"

    async def _do(self, method: Callable[..., Any], *args: Any) -> Any:
        return await self._client._in_thread(method, *args)

    async def _wait(
        self, condition: Condition, timeout_s: float | None, method: Callable[..., Any], *args: Any
    ) -> Any:
        """Wait for a condition; return what `method` finds, whose last argument is a timeout."""
        deadline = Deadline(timeout_s)
        while True:
            await self._client.wait(condition, deadline.left_s)
            with contextlib.suppress(DataTimeoutError):  # others changed it meanwhile
                return await self._do(method, *args, 0)

    def _newest(self, what: str, holds: Callable[[int], bool]) -> Condition:
        """Return the condition that the newest entry is of such a step."""

        def is_there(reply: Reply) -> bool:
            return isinstance(reply, list) and bool(reply) and holds(int(_step_of(reply[0])))

        key = self.handle._key
        look = (b"XREVRANGE", key, b"+", b"-", b"COUNT", b"1")
        return Condition(what, self.handle.name, (key,), look, is_there)


class AsyncSteering(_AsyncHandle[Steering]):
    """A channel of commands whose calls are awaited; made by :meth:`AsyncClient.steering`.

    Attributes
    ----------
    handle : Steering
        The same channel with calls that block.
    """

    @property
    def stopped(self) -> bool:
        """True once a command ``"stop"`` has been taken here."""
        return self.handle.stopped

    async def post(self, command: str, value: Any = None) -> int:
        """Send a command to all who ask here; see :meth:`Steering.post`."""
        return int(await self._do(self.handle.post, command, value))

    async def check(self, step: int | None = None) -> list[Command]:
        """Return the commands that are new here; see :meth:`Steering.check`."""
        found: list[Command] = await self._do(self.handle.check, step)
        return found

    async def wait(self, timeout_s: float | None = None) -> list[Command]:
        """Wait until there is a command that is new here; see :meth:`Steering.wait`."""
        key = self.handle._key
        look = (b"XRANGE", key, b"(" + self.handle._seen, b"+", b"COUNT", b"1")
        new = Condition("command in channel", self.handle.name, (key,), look)
        found: list[Command] = await self._wait(new, timeout_s, self.handle.wait)
        return found

    async def clear(self) -> None:
        """Forget all commands and steps; see :meth:`Steering.clear`."""
        await self._do(self.handle.clear)


class AsyncStepCounter(_AsyncHandle[StepCounter]):
    """A step counter whose calls are awaited; made by :meth:`AsyncClient.step_counter`.

    Attributes
    ----------
    handle : StepCounter
        The same counter with calls that block.
    """

    async def done(self, step: int, rank: int = 0) -> int:
        """Say that a rank has finished a step; see :meth:`StepCounter.done`."""
        return int(await self._do(self.handle.done, step, rank))

    async def step(self) -> int:
        """Return the last step that all ranks have finished; -1 before the first."""
        return int(await self._do(lambda: self.handle.step))

    async def wait(self, step: int, timeout_s: float | None = None) -> int:
        """Wait until all ranks have finished a step; see :meth:`StepCounter.wait`."""
        check_count("step", step, 0)
        finished = self._newest(f"step {step} of counter", lambda now: now >= step)
        return int(await self._wait(finished, timeout_s, self.handle.wait, step))

    async def clear(self) -> None:
        """Forget all steps; see :meth:`StepCounter.clear`."""
        await self._do(self.handle.clear)


class AsyncCheckpoint(_AsyncHandle[Checkpoint]):
    """A checkpoint whose calls are awaited; made by :meth:`AsyncClient.checkpoint`.

    Attributes
    ----------
    handle : Checkpoint
        The same checkpoint with calls that block.
    """

    async def save(self, step: int, value: Any, rank: int = 0) -> bool:
        """Save what a rank has of a step; see :meth:`Checkpoint.save`."""
        return bool(await self._do(self.handle.save, step, value, rank))

    async def load(self, rank: int = 0, step: int | None = None) -> Saved:
        """Return what a rank has saved; see :meth:`Checkpoint.load`."""
        found: Saved = await self._do(self.handle.load, rank, step)
        return found

    async def steps(self) -> list[int]:
        """Return the steps of the complete ones that are there, the newest last."""
        found: list[int] = await self._do(lambda: self.handle.steps)
        return found

    async def wait(self, after: int = -1, timeout_s: float | None = None) -> int:
        """Wait for a complete one of a later step than `after`; see :meth:`Checkpoint.wait`."""
        complete = self._newest(f"step after {after} of checkpoint", lambda now: now > after)
        return int(await self._wait(complete, timeout_s, self.handle.wait, after))

    async def delete(self) -> bool:
        """Delete all of it; see :meth:`Checkpoint.delete`."""
        return bool(await self._do(self.handle.delete))


def _step_of(entry: Any) -> bytes:
    """Return the step in an entry of a stream, as both kinds keep it in their first field."""
    step: bytes = entry[1][1]
    return step
