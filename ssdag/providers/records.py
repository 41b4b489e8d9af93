# SPDX-License-Identifier: BSD-3-Clause
"""What a provider remembers of its jobs, and how an answer changes it.

The rules are here, once, for all schedulers: a final state never changes, a job that the
scheduler no longer names is ``UNKNOWN`` at first and ``FAILED`` only after a stated time,
and what ended after we asked for it is ``CANCELLED`` where the scheduler does not say.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdag.providers.base import JobSpec, JobStatus
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def ended(exit_code: int | None, signal: int | None = None, reason: str = "") -> JobStatus:
    """Return the status of a job that is over: COMPLETED only with exit code 0, no signal."""
    if signal:
        return JobStatus(JobState.FAILED, None, signal, reason or f"killed by signal {signal}")
    if exit_code:
        return JobStatus(JobState.FAILED, exit_code, None, reason or f"exit code {exit_code}")
    return JobStatus(JobState.COMPLETED, exit_code, None, reason)


def combine(parts: Sequence[JobStatus]) -> JobStatus:
    """Return the status of an array from those of its tasks.

    It is over when all of them are; then the first one that did not end well speaks for all.
    """
    states = {part.state for part in parts}
    if all(state.final for state in states):
        for state in (JobState.FAILED, JobState.TIMEOUT, JobState.CANCELLED):
            if state in states:
                return next(part for part in parts if part.state is state)
        return parts[0]
    for state in (JobState.RUNNING, JobState.UNKNOWN, JobState.HELD, JobState.PENDING):
        if state in states:
            found = next(part for part in parts if part.state is state)
            some_ended = any(other.final for other in states)
            if some_ended and state is not JobState.UNKNOWN:
                return replace(found, state=JobState.RUNNING)
            return found
    return parts[0]


@dataclass
class _Record:
    status: JobStatus
    job: JobSpec | None = None
    missing_since: float | None = None
    cancelled: bool = False


class JobTable:
    """The jobs of one provider. Threads may share it.

    Parameters
    ----------
    lost_after_s : float
        So long after it was first missing, a job that no source knows is FAILED.
    cancel_is_told : bool
        Whether the scheduler itself says of a cancelled job that it was cancelled.
    clock : callable
        Seconds that only grow.
    """

    def __init__(
        self,
        lost_after_s: float,
        cancel_is_told: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost_after_s = lost_after_s
        self._cancel_is_told = cancel_is_told
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}

    def _record(self, job_id: str) -> _Record:
        record = self._records.get(job_id)
        if record is None:
            record = self._records[job_id] = _Record(JobStatus(JobState.PENDING))
        return record

    def add(self, job_id: str, job: JobSpec) -> None:
        """Remember a job that was just submitted; what an equal id said before is forgotten."""
        with self._lock:
            self._records[job_id] = _Record(JobStatus(JobState.PENDING), job)

    def forget(self, job_ids: Iterable[str]) -> None:
        """Remember these jobs no longer."""
        with self._lock:
            for job_id in job_ids:
                self._records.pop(job_id, None)

    def spec(self, job_id: str) -> JobSpec | None:
        """Return what was asked for; None for jobs that this provider did not submit."""
        with self._lock:
            record = self._records.get(job_id)
            return None if record is None else record.job

    def status(self, job_id: str) -> JobStatus:
        """Return what is known; a job that nobody has spoken of yet is PENDING."""
        with self._lock:
            return self._record(job_id).status

    def mark_cancelled(self, job_ids: Iterable[str]) -> None:
        """Remember that the scheduler took our request to end these jobs."""
        with self._lock:
            for job_id in job_ids:
                record = self._record(job_id)
                record.cancelled = record.cancelled or not record.status.state.final

    def learn(self, job_id: str, status: JobStatus) -> None:
        """Take what the scheduler says of a job."""
        with self._lock:
            record = self._record(job_id)
            record.missing_since = None
            if record.status.state.final:
                return
            if status.state.final and record.cancelled and not self._cancel_is_told:
                status = replace(status, state=JobState.CANCELLED, reason="cancelled by us")
            if not status.hosts and record.status.hosts:
                status = replace(status, hosts=record.status.hosts)
            record.status = status

    def miss(self, job_id: str) -> None:
        """Take that an answer, which was whole, does not speak of a job."""
        with self._lock:
            record = self._record(job_id)
            if record.status.state.final:
                return
            if record.cancelled:
                self._end(record, JobState.CANCELLED, "cancelled by us")
                return
            now = self._clock()
            if record.missing_since is None:
                record.missing_since = now
            away_s = now - record.missing_since
            if away_s >= self.lost_after_s:
                self._end(
                    record,
                    JobState.FAILED,
                    f"the scheduler has not known job {job_id} for {away_s:.0f} s, and how it "
                    "ended is told nowhere",
                )
            # One that was never seen may be too new for the answer: it stays pending.
            elif record.status.state not in (JobState.PENDING, JobState.UNKNOWN):
                record.status = replace(
                    record.status,
                    state=JobState.UNKNOWN,
                    reason=f"the scheduler does not know job {job_id} (any more)",
                )

    @staticmethod
    def _end(record: _Record, state: JobState, reason: str) -> None:
        record.status = JobStatus(state, None, None, reason, record.status.hosts)
