# SPDX-License-Identifier: BSD-3-Clause
"""Blocks: asked for, watched and given back, through a provider.

One thread decides and talks to the scheduler, which may take its time; the provider's
watcher tells what becomes of jobs. A block fails that ends by itself before it did any
work. After a few of these in a row nothing is asked for any more, and what waits fails
with the scheduler's reason and the last words of the last block.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import BlockError, ProviderError, SubmitError
from ssdag.executors.pilot import losses
from ssdag.executors.pilot.block import Block, Noting, view_of, words_of
from ssdag.executors.pilot.scaling import Decision, Limits, decide
from ssdag.providers.watch import Watcher
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ssdag.executors.pilot.hub import PilotHub
    from ssdag.providers.base import JobSpec, JobStatus, Provider

_log = logging.getLogger("ssdag.executors")

#: How often the strategy looks by itself.
_STEP_S = 0.25
#: A scheduler that does not answer is asked again for so long.
_PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 10.0
#: Blocks that are cancelled at the end may take so long to go.
_GONE_S = 30.0
#: The hub's thread deals with the end of a block in this time, unless it is very busy.
_ENDED_S = 10.0
#: A block that ends so shortly before its time has come to its end.
_NEAR_END_S = 30.0
#: A job without managers ends by itself in this time, or is cancelled.
_DESERTED_S = 2.0


class Blocks(threading.Thread):
    """Keeps as many blocks as are needed.

    Parameters
    ----------
    label : str
        The executor's label.
    provider : Provider
    hub : PilotHub
    limits : Limits
    job : callable
        Gives the job of the block with a number.
    init_blocks : int
        Blocks that are asked for at the start.
    slots_per_block : int or None
        Tasks that one runs at a time, as far as is known before one has come.
    failures_allowed : int
        Blocks in a row that may fail.
    """

    def __init__(
        self,
        label: str,
        provider: Provider,
        hub: PilotHub,
        limits: Limits,
        job: Callable[[int], JobSpec],
        *,
        init_blocks: int,
        slots_per_block: int | None,
        failures_allowed: int,
    ) -> None:
        super().__init__(name=f"ssdag-blocks-{label}", daemon=True)
        self._label = label
        self._provider = provider
        self._hub = hub
        self._limits = limits
        self._job = job
        self._init = init_blocks
        self._slots = slots_per_block
        self._allowed = failures_allowed
        self._live: dict[int, Block] = {}
        self._by_job: dict[str, Block] = {}
        #: Blocks that have done nothing yet.
        self.unproved: set[int] = set()
        self.failures = 0
        self.walltime_s = provider.options.walltime_s
        self._number = 0
        self._stirred = threading.Event()
        self._gone = threading.Condition()
        self._closing = False
        self._busy_at = time.monotonic()
        self._not_before = 0.0
        self._refused_since = 0.0
        noting: Any = Noting(provider, self._waits)
        self._watcher = Watcher(noting, self._on_change)

    # -- called by the hub's thread --------------------------------------------------

    def wake(self) -> None:
        """Have the strategy look soon."""
        if not self._stirred.is_set():
            self._stirred.set()

    def look(self) -> None:
        """Have the scheduler asked soon: a manager is gone, or cannot be reached."""
        self._watcher.nudge()
        self.wake()

    def _waits(self, job_ids: Iterable[str], since: float) -> None:
        """Note that jobs had not begun at a time."""
        for job_id in job_ids:
            block = self._by_job.get(job_id)
            if block is not None and not block.arrived:
                block.waited_until = since

    def deadline(self, number: int) -> float | None:
        """Return when a block ends at the latest (monotonic); None if it is not ours."""
        block = self._live.get(number)
        if block is None or block.released:
            return None
        return block.waited_until + block.job.walltime_s

    def arrived(self, number: int, workers: int) -> None:
        """Note that a manager of a block has come."""
        block = self._live.get(number)
        if block is not None:
            block.arrived += 1
            block.slots += workers
            self._slots = max(block.slots, workers * block.job.nodes)
            self.wake()

    def proved(self, number: int) -> None:
        """Note that a block has done a task."""
        self.unproved.discard(number)
        block = self._live.get(number)
        if block is not None:
            block.proved = True
            self.failures = 0

    # -- called by anybody -----------------------------------------------------------

    def job_ids(self) -> list[str]:
        """Return the scheduler's ids of the blocks that have not ended."""
        return [block.job_id for block in tuple(self._live.values()) if block.job_id]

    def stop(self) -> None:
        """Cancel all blocks; blocks until they are gone, or :data:`_GONE_S` are over."""
        self._closing = True
        self.wake()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(_GONE_S)
        end = time.monotonic() + _GONE_S
        self._release([block for block in tuple(self._live.values()) if not block.released])
        self._watcher.nudge()
        with self._gone:
            left = self._gone.wait_for(lambda: not self._live, end - time.monotonic())
        self._watcher.close()
        if not left:
            _log.warning(
                "executor %r: the scheduler has not ended %s yet", self._label, self.job_ids()
            )

    # -- the thread ------------------------------------------------------------------

    def run(self) -> None:
        """Decide and act until :meth:`stop`."""
        try:
            for _ in range(self._init):
                self._start_block()
            while not self._closing:
                self._stirred.wait(_STEP_S)
                self._stirred.clear()
                if not self._closing:
                    self._act(self._decide(time.monotonic()))
        except Exception as error:  # thread top, and the boundary to plug-ins
            _log.exception("the blocks of executor %r cannot be managed", self._label)
            failure = BlockError(f"executor {self._label!r} cannot manage its blocks: {error}")
            failure.__cause__ = error
            self._give_up(failure)

    def _decide(self, now: float) -> Decision:
        if self._hub.failure is not None:
            return Decision()
        peers = tuple(self._hub.peers.values())
        self._find_deserted({peer.block for peer in peers}, now)
        parked = self._hub.parked
        waiting = len(self._hub.queue) + len(parked)
        if waiting:
            self._busy_at = now
        shortest = 0.0
        if parked and not len(self._hub.queue):
            shortest = min((t.options.walltime_s or 0.0 for t in tuple(parked)), default=0.0)
        views = [
            view_of(block, [p for p in peers if p.block == block.number], now, shortest)
            for block in tuple(self._live.values())
            if not block.released
        ]
        limits = self._limits
        gone = len(self._live) - len(views)
        if gone:  # cancelled blocks hold their places until they have left
            limits = Limits(
                limits.min_blocks,
                max(limits.max_blocks - gone, 0),
                limits.parallelism,
                limits.max_idle_s,
            )
        return decide(limits, waiting, views, self._slots, now - self._busy_at)

    def _find_deserted(self, manned: set[int], now: float) -> None:
        """Give blocks back whose managers are all gone, though the job is there."""
        for block in tuple(self._live.values()):
            if block.number in manned or not block.arrived or block.released:
                block.deserted_since = 0.0
            elif not block.deserted_since:
                block.deserted_since = now
            elif now - block.deserted_since > _DESERTED_S:
                self._release([block])
                if not block.proved:
                    self._failed(block, "its managers came and were lost")

    def _act(self, decision: Decision) -> None:
        for number in decision.drain:
            block = self._live.get(number)
            if block is not None:
                self._drain(block)
        self._release([self._live[n] for n in decision.cancel if n in self._live])
        if decision.start and time.monotonic() >= self._not_before:
            for _ in range(decision.start):
                if not self._start_block() or self._closing:
                    break

    def _drain(self, block: Block) -> None:
        def drain() -> None:
            for peer in self._hub.peers.values():
                if peer.block == block.number:
                    peer.draining = True
            block.draining = True
            self.wake()

        _log.info("executor %r: block %d drains", self._label, block.number)
        self._hub.call_and_wait(drain, _STEP_S)

    def _release(self, blocks: list[Block]) -> None:
        """Cancel blocks; their managers end by that."""
        for block in blocks:
            block.released = True
        job_ids = [block.job_id for block in blocks if block.job_id]
        if not job_ids:
            return
        _log.info("executor %r: cancels %s", self._label, ", ".join(job_ids))
        try:
            self._provider.cancel(job_ids)
        except ProviderError as error:
            _log.warning("executor %r: cannot cancel blocks: %s", self._label, error)
            for block in blocks:
                block.released = self._closing
        self._watcher.nudge()

    def _start_block(self) -> bool:
        self._number += 1
        try:
            job = self._job(self._number)
        except BlockError as error:  # no node could ever reach us
            self._give_up(error)
            return False
        except ProviderError as error:
            self._refused(error)
            return False
        block = Block(self._number, job)
        # Before it is there: its manager may be quicker than the scheduler's answer.
        self._live[block.number] = block
        self.unproved.add(block.number)
        try:
            block.job_id = self._provider.submit(block.job)
        except SubmitError as error:
            self._forget(block)
            self._failed(block, str(error), error)
            return False
        except ProviderError as error:
            self._forget(block)
            self._refused(error)
            return False
        except BaseException:
            self._forget(block)
            raise
        self._refused_since = 0.0
        self._by_job[block.job_id] = block
        self._watcher.add(block.job_id)
        _log.info("executor %r: block %d is job %s", self._label, block.number, block.job_id)
        if self._closing:  # while the scheduler thought about it
            self._release([block])
        return True

    def _refused(self, error: ProviderError) -> None:
        """Wait for a scheduler that does not answer."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        away_s = now - self._refused_since
        if away_s > _PATIENCE_S:
            self._give_up(BlockError(
                f"executor {self._label!r}: no block could be asked for in "
                f"{_PATIENCE_S:g} s: {error}", stderr_tail=error.stderr_tail
            ))  # fmt: skip
            return
        self._not_before = now + min(max(away_s, 0.2), _LONGEST_PAUSE_S)
        _log.warning("executor %r: no block yet: %s", self._label, error)

    # -- called by the watcher's thread ----------------------------------------------

    def _on_change(self, job_id: str, status: JobStatus) -> None:
        block = self._by_job.get(job_id)
        if block is None:
            return
        block.status = status
        if status.state.final:
            if self._closing:  # the hub may be waiting for us
                self._hub.call(lambda: self._ended(block, status))
            else:
                self._hub.call_and_wait(lambda: self._ended(block, status), _ENDED_S)
            if block.useless:  # here, not in the hub's thread: this may ask another machine
                self._failed(block, words_of(status))
            with self._gone:
                self._forget(block)
                self._gone.notify_all()
        self.wake()

    def _ended(self, block: Block, status: JobStatus) -> None:
        """Deal with the end of a block, in the hub's thread."""
        near = block.waited_until + block.job.walltime_s - time.monotonic() < _NEAR_END_S
        cut = status.state is not JobState.FAILED or near or block.released
        why = f"job {block.job_id} ended: {words_of(status)}"
        for peer in tuple(self._hub.peers.values()):
            if peer.block == block.number:
                losses.lost(self._hub, peer, why, cut=cut)
        useless = not block.arrived or (not block.proved and status.state is JobState.FAILED)
        block.useless = useless and not block.released and not self._closing

    def _failed(self, block: Block, reason: str, error: ProviderError | None = None) -> None:
        self.failures += 1
        _log.warning("executor %r: block %d failed: %s", self._label, block.number, reason)
        self._not_before = time.monotonic() + min(0.1 * 2**self.failures, _LONGEST_PAUSE_S)
        if self.failures < self._allowed:
            return
        tail = (
            error.stderr_tail if error is not None else self._provider.last_words(block.job).strip()
        )
        times = f"{self.failures} blocks in a row" if self.failures > 1 else "a block"
        failure = BlockError(
            f"executor {self._label!r}: {times} failed, the last one (job "
            f"{block.job_id or 'refused'}): {reason}" + (f"\n{tail}" if tail else ""),
            job_id=block.job_id,
            stderr_tail=tail,
        )
        failure.__cause__ = error
        self._give_up(failure)

    def _give_up(self, error: BlockError) -> None:
        self._hub.call(lambda: self._hub.give_up(error))

    def _forget(self, block: Block) -> None:
        self._live.pop(block.number, None)
        self._by_job.pop(block.job_id, None)
        self.unproved.discard(block.number)
