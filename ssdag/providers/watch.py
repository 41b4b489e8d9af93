# SPDX-License-Identifier: BSD-3-Clause
"""One thread that watches all jobs of a provider and tells what changes.

It asks soon after something has happened (a new job, a change) and ever more seldom while
nothing does, so that a scheduler sees one query every ten seconds from a campaign that
waits, and a job that ends at once is noticed at once. A campaign in which something always
happens does not ask more often over the long run than the provider's ``least_poll_s``.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from ssdag.providers.base import JobStatus
from ssdag.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.providers.base import Provider

_log = logging.getLogger("ssdag")

#: So many queries may follow one another as fast as there are changes.
BURST = 20


class Watcher:
    """Polls the jobs of one provider until each is over.

    The thread begins with the first job and ends with :meth:`close`; without jobs it
    sleeps. Threads may share a watcher.

    Parameters
    ----------
    provider : Provider
    on_change : callable
        Called in the watcher's thread as ``on_change(job_id, status)`` when the state,
        the reason or the hosts of a job have changed, and for the last time when it is
        over. What it raises is logged.
    first_delay_s, longest_delay_s : float
        Time between two queries: the first one after a change, then 1.5 times the last
        one, up to the longest. Each is varied by a fifth, so that many drivers do not ask
        in step.
    """

    def __init__(
        self,
        provider: Provider,
        on_change: Callable[[str, JobStatus], None],
        *,
        first_delay_s: float = 0.1,
        longest_delay_s: float = 10.0,
    ) -> None:
        self._provider = provider
        self._on_change = on_change
        self._first_s = first_delay_s
        self._longest_s = longest_delay_s
        self._delay_s = first_delay_s
        self._credit = float(BURST)
        self._credited_s = time.monotonic()
        self._wake = threading.Condition()
        self._jobs: dict[str, JobStatus] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._nudged = False

    def add(self, job_id: str) -> None:
        """Watch a job too, from PENDING on; returns at once."""
        with self._wake:
            if self._closed:
                return
            self._jobs.setdefault(job_id, JobStatus(JobState.PENDING))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"ssdag-watch-{self._provider.name}", daemon=True
                )
                self._thread.start()
            self._soon()

    def remove(self, job_id: str) -> None:
        """Watch a job no longer; unknown ones are ignored."""
        with self._wake:
            self._jobs.pop(job_id, None)

    def nudge(self) -> None:
        """Ask soon, since something has happened: a job was cancelled, a manager is gone."""
        with self._wake:
            self._soon()

    def _soon(self) -> None:
        self._delay_s = self._first_s
        self._nudged = True
        self._wake.notify_all()

    def close(self, patience_s: float = 5.0) -> None:
        """End the thread. Jobs are left as they are.

        A query that is under way is waited for, but for no longer than `patience_s`: the
        thread ends by itself when a scheduler that is silent now has answered.
        """
        with self._wake:
            self._closed = True
            self._jobs.clear()
            self._wake.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience_s)

    def _run(self) -> None:
        while (job_ids := self._next()) is not None:
            try:
                found = self._provider.poll(job_ids)
            except Exception:  # thread top: a provider that breaks its promise
                _log.exception("polling %s failed", self._provider.name)
                continue
            for job_id, status in found.items():
                self._take(job_id, status)

    def _next(self) -> list[str] | None:
        """Wait until it is time to ask; None at the end."""
        with self._wake:
            self._wake.wait_for(lambda: self._jobs or self._closed)
            self._nudged = False
            pause_s = self._delay_s * random.uniform(0.8, 1.2)
            self._delay_s = min(self._delay_s * 1.5, self._longest_s)
            if pause_s > self._first_s * 1.2:  # a nudge shortens a long pause, not a short one
                if self._wake.wait_for(lambda: self._nudged or self._closed, pause_s):
                    self._wake.wait_for(lambda: self._closed, self._first_s)
            else:
                self._wake.wait_for(lambda: self._closed, pause_s)
            self._wake.wait_for(lambda: self._closed, self._spend())
            return None if self._closed else list(self._jobs)

    def _spend(self) -> float:
        """Take the price of a query; return the seconds to wait where there is no credit."""
        least_s = self._provider.least_poll_s
        if least_s <= 0:
            return 0.0
        now = time.monotonic()
        self._credit = min(float(BURST), self._credit + (now - self._credited_s) / least_s)
        self._credited_s = now
        self._credit -= 1
        return max(0.0, -self._credit * least_s)

    def _take(self, job_id: str, status: JobStatus) -> None:
        with self._wake:
            old = self._jobs.get(job_id)
            if old is None or old == status:
                return
            if status.state.final:
                del self._jobs[job_id]
            else:
                self._jobs[job_id] = status
            self._delay_s = self._first_s
        try:
            self._on_change(job_id, status)
        except Exception:  # thread top: user code
            _log.exception("what was to be done about job %s failed", job_id)
