# SPDX-License-Identifier: BSD-3-Clause
"""One launch of keepers: the launcher's process, orders to them, reports from them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ssdag.errors import ServiceError, ServiceStartError
from ssdag.services.servers.server import how_ended
from ssdag.wire import guard
from ssdag.wire.process import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Report = dict[str, Any]

#: An order that the launcher does not take in this time is given up.
_SEND_S = 10.0
#: A launcher is given so long to end its keepers before it is killed.
_GRACE_S = 10.0
_TAIL_BYTES = 2000
#: Keepers are asked so often whether they are there, and lost if they have said nothing for
#: so long. Their servers may well live: this is for nodes that hang or are cut off.
BEAT_S = 5.0
SILENT_S = 60.0


class KeeperLaunch:
    """A launcher's process and the keepers that it has started.

    Parameters
    ----------
    argv : sequence of str
        The launch line.
    env : mapping
        The launcher's whole environment.
    where : str
        The nodes, for messages.
    ranks : int
        How many keepers it starts.
    on_report : callable
        ``on_report(report)``, in the reader's thread; None as report: the launch is over.

    Raises
    ------
    ServiceStartError
        The launcher cannot be executed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        where: str,
        ranks: int,
        on_report: Callable[[Report | None], None],
    ) -> None:
        self.where = where
        self.argv = list(argv)
        #: Why it is over; empty while it is not.
        self.over = ""
        self._on_report = on_report
        self.ranks = ranks
        self._needed = ranks
        self._outlived = False
        self._sending = threading.Lock()
        self._noise: deque[str] = deque(maxlen=5)
        self._heard: dict[int, float] = {}
        self._beaten = 0.0
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        guard.ensure()
        try:
            self._process = spawn(
                argv,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr.fileno(),
            )
        except OSError as error:
            self._stderr.close()
            os.close(self._wake_fd)
            raise ServiceStartError(
                f"{argv[0]}, which starts servers on {where}, cannot be executed: {error.strerror}"
            ) from error
        # srun kills a step that it is told to end: keepers had no time to tidy up.
        guard.session(self._process.pid, _GRACE_S, alone_s=_GRACE_S)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._reader = threading.Thread(target=self._read, name="ssdag-keepers", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process number of the launcher."""
        return self._process.pid

    def send(self, order: Mapping[str, Any]) -> None:
        """Send an order; blocks while the launcher takes it.

        Raises
        ------
        ServiceError
            The launch is over, or the launcher does not take it.
        """
        data = json.dumps(order).encode() + b"\n"
        deadline = time.monotonic() + _SEND_S
        with self._sending:
            pipe = self._process.stdin
            if self.over or pipe is None or pipe.closed:
                raise ServiceError(self.over or f"the keepers on {self.where} were let go")
            poller = select.poll()
            poller.register(pipe, select.POLLOUT)
            try:
                while data:
                    if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                        raise ServiceError(
                            f"{self.argv[0]} has not taken an order for {self.where} in {_SEND_S} s"
                        )
                    with contextlib.suppress(BlockingIOError):
                        data = data[os.write(pipe.fileno(), data) :]
            except BrokenPipeError:
                raise ServiceError(f"the keepers on {self.where} have ended") from None

    def words(self) -> str:
        """Return the last lines that launcher and keepers printed to stderr."""
        if self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        data = os.pread(self._stderr.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join([*self._noise, data.decode("utf-8", "replace").strip()]).strip()

    def _read(self) -> None:
        """Take reports until the launcher ends."""
        pipe = self._process.stdout
        assert pipe is not None
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        poller.register(self._wake_fd, select.POLLIN)
        rest = b""
        self._beaten = time.monotonic()
        while True:
            left_s = self._beaten + BEAT_S - time.monotonic()
            if left_s <= 0:
                self._beat()
            elif ready := dict(poller.poll(left_s * 1000 + 1)):
                if self._wake_fd in ready:
                    return
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
        try:
            how = how_ended(self._process.wait(_GRACE_S))
        except TimeoutError:
            how = "it closed its output"
        tail = self.words()
        self.over = f"the launch of keepers on {self.where} is over ({how})" + (
            f"; its last words:\n{tail}" if tail else ""
        )
        self._on_report(None)

    def _take(self, line: bytes) -> None:
        try:
            report = json.loads(line)
            rank = int(report["from"])
        except (ValueError, KeyError, TypeError):  # launchers and sites print what they like
            self._noise.append(line.decode("utf-8", "replace"))
            return
        self._heard[rank] = time.monotonic()
        self._on_report(report)

    def _beat(self) -> None:
        """See that keepers are there, as a node may vanish without a word."""
        now, before = time.monotonic(), self._beaten
        self._beaten = now
        if now - before > 2 * BEAT_S + 1:  # we were suspended, and what was said is not read
            self._heard = dict.fromkeys(self._heard, now)
        for rank, heard in list(self._heard.items()):
            if now - heard > SILENT_S:
                del self._heard[rank]
                self._on_report({"from": rank, "silent": now - heard})
            elif now - heard > 1.5 * BEAT_S:
                self._on_report({"from": rank, "quiet": now - heard})
        with contextlib.suppress(ServiceError):
            self.send({"do": "ping"})

    def let_go(self) -> None:
        """Leave the keepers alone when we end: they have servers that outlive us."""
        guard.release_session(self._process.pid)

    def kill(self) -> None:
        """End the launcher, and by it the keepers; reports tell when that is done."""
        self._process.terminate_session(_GRACE_S)

    def leave(self, *, outlives: bool) -> None:
        """Note that one of the keepers is not needed any more; the last one ends the launch.

        Parameters
        ----------
        outlives : bool
            Whether it has servers that go on.
        """
        with self._sending:
            self._outlived |= outlives
            self._needed -= 1
            if self._needed > 0:
                return
        self.close()

    def close(self) -> None:
        """Close the keepers' input, by which they end; wait for that, else kill the launcher.

        Does not wait where servers go on.
        """
        with self._sending:
            if self._process.stdin is not None:
                self._process.stdin.close()
        if self._outlived:
            os.eventfd_write(self._wake_fd, 1)  # nobody is to be asked, or lost, any more
            self._reader.join(_GRACE_S)
            self._tidy()
            return
        try:
            self._process.wait(_GRACE_S)
        except TimeoutError:
            self._process.terminate_session(_GRACE_S)
        self._process.kill_session()
        guard.release_session(self._process.pid)
        self._reader.join(_GRACE_S)
        self._tidy()

    def _tidy(self) -> None:
        """Close what the reader had open."""
        if not self._reader.is_alive() and self._wake_fd >= 0:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._stderr.close()
            os.close(self._wake_fd)
            self._wake_fd = -1
