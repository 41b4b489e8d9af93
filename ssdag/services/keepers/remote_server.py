# SPDX-License-Identifier: BSD-3-Clause
"""What we see of a server on another node, by what its keeper reports."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING

from ssdag.errors import ConfigError, ServiceStartError, SsdagError, StoreError
from ssdag.services.servers.places import PlacedServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.services.keepers.launch import Report
    from ssdag.services.keepers.remote import RemotePlace

_log = logging.getLogger("ssdag")

#: Beyond what a server itself may take, for the way there and back.
SLACK_S = 10.0
#: Of servers, and of questions to them.
NUMBERS = itertools.count(1)


class RemoteServer(PlacedServer):
    """A server on another node; see :class:`PlacedServer`."""

    def __init__(self, place: RemotePlace, name: str, outlives: bool) -> None:
        self._place = place
        self._name = name
        self.outlives = outlives
        self.hostname = place.hostname
        self._answered = threading.Event()
        self._ended = False
        #: Set when it has ended, or we let it go.
        self._over = threading.Event()
        self._cleared = threading.Event()
        self._told = threading.Condition()
        self._questions: dict[int, tuple[list[Report], threading.Event]] = {}
        self._tails = 0
        self._code: int | None = None
        self._tail = ""
        self.failure: ServiceStartError | None = None
        self.pid = 0
        self.host, self.port, self.socket, self.folder = "", 0, None, ""

    def __repr__(self) -> str:
        return f"<RemoteServer {self.pid} {self.address} on {self.hostname}>"

    # -- reports; in the thread that reads them ---------------------------------------

    def started(self, report: Report) -> None:
        """Take the facts of a start."""
        for name in ("pid", "host", "port", "socket", "folder"):
            setattr(self, name, report[name])
        self._answered.set()

    def failed(self, error: ServiceStartError) -> None:
        """Take the failure of a start."""
        self.failure = error
        self._answered.set()
        self._ended = True
        self._over.set()
        self._cleared.set()

    def ended(self, code: int | None, tail: str) -> None:
        """Take its end."""
        if not self._ended:
            self._code, self._tail = code, tail
            self._ended = True
            self._over.set()
        self.tell(tail)

    def tell(self, tail: str) -> None:
        """Take the last lines of its log."""
        with self._told:
            self._tail = tail
            self._tails += 1
            self._told.notify_all()

    def cleared(self) -> None:
        """Take that its files are removed."""
        self._cleared.set()

    def lost(self, why: str) -> None:
        """Take that its keeper is gone, and it with it."""
        if not self._answered.is_set():
            self.failed(ServiceStartError(f"no server on {self.hostname}: {why}", log_tail=why))
        self.ended(None, self._tail if self._ended else why)
        self.cleared()

    # -- for the orchestrator ---------------------------------------------------------

    def wait_started(self, timeout_s: float) -> bool:
        """Return whether the keeper has answered in time."""
        return self._answered.wait(timeout_s)

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until it has ended; None where its node was lost, or we let it go."""
        if not self._over.wait(timeout):
            raise TimeoutError(f"the server on {self.hostname} still runs after {timeout} s")
        return self._code

    def running(self) -> bool:
        """Return whether it has not ended."""
        return not self._ended

    def let_go(self) -> None:
        """Have :meth:`wait` return."""
        self._over.set()

    def log_tail(self) -> str:
        """Return its last lines; blocks for a second at most."""
        if self._ended:
            return self._tail
        with self._told:
            seen = self._tails
            if self._place.order(do="log", id=self._name):
                self._told.wait_for(lambda: self._tails != seen, 1.0)
            return self._tail

    def ask_there(self, words: Sequence[bytes], timeout_s: float) -> str | SsdagError:
        """Have its keeper send it one command, where it cannot be reached from here.

        Parameters
        ----------
        words : sequence of bytes
            The command; its answer must be text.
        timeout_s : float
            How long that may take.

        Returns
        -------
        str or SsdagError
            The answer; ConfigError with the server's words if it refuses, StoreError if
            none comes.
        """
        waiting = threading.Event()
        seq = next(NUMBERS)
        answers: list[Report] = []
        self._questions[seq] = answers, waiting
        try:
            texts = [word.decode() for word in words]
            sent = self._place.order(
                do="tell", id=self._name, seq=seq, words=texts, timeout_s=timeout_s
            )
            if not sent or not waiting.wait(timeout_s + 1.0):
                return StoreError(f"nothing is heard of the server on {self.hostname}")
        finally:
            del self._questions[seq]
        report = answers[0]
        if report["lost"]:
            return StoreError(str(report["lost"]))
        return ConfigError(str(report["refused"])) if report["refused"] else str(report["text"])

    def answered(self, report: Report) -> None:
        """Take the answer to a command."""
        question = self._questions.get(report["seq"])
        if question is not None:
            question[0].append(report)
            question[1].set()

    def end(self, grace_s: float) -> None:
        """Wait `grace_s` for its end, then have it killed."""
        if self._ended:
            return
        sent = self._place.order(do="end", id=self._name, grace_s=grace_s)
        if not sent or not self._over.wait(grace_s + SLACK_S):
            # With the launch, now or at our end, the scheduler ends what it has started.
            _log.warning("the keeper on %s does not answer and is given up", self.hostname)
            self._place.abandon()

    def clear(self) -> None:
        """Have its files removed."""
        if not self._cleared.is_set() and self._place.order(do="clear", id=self._name):
            self._cleared.wait(SLACK_S)
