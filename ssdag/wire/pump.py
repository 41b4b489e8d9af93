# SPDX-License-Identifier: BSD-3-Clause
"""Passes a command's stderr on to our own, and remembers the last of it.

The thread that waits for the command does it: one ``poll`` on the pipe and on the end of
the process. So there is no thread and no file per command, output shows at once, and
nothing is lost however much it is.
"""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from ssdag.wire.streams import TAIL_BYTES, last_lines

if TYPE_CHECKING:
    from ssdag.wire.process import Process

_CHUNK = 65536


class StderrPump:
    """A pipe from a command to descriptor 2.

    Attributes
    ----------
    fd : int
        The end for the child; close it with :meth:`started` once the child has it.
    """

    def __init__(self, target: int = 2) -> None:
        self._reading, self.fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reading, False)
        self._target = target
        self._tail = b""

    def started(self) -> None:
        """Close the child's end here, so that the end of the output can be seen."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Close both ends."""
        self.started()
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1

    def tail(self) -> str:
        """Return the last lines that came through."""
        return last_lines(self._tail)

    def wait(self, process: Process, timeout: float | None) -> int:
        """Pass output on until the process has ended; return its exit code.

        Raises
        ------
        TimeoutError
            It still runs after `timeout` seconds.
        """
        end = process.hold()
        try:
            if end >= 0:
                self._serve(end, None if timeout is None else time.monotonic() + timeout)
        finally:
            process.let_go()
        code = process.wait()
        self.finish()
        return code

    def _serve(self, end: int, deadline: float | None) -> None:
        """Pass output on until descriptor `end` is readable."""
        poller = select.poll()
        poller.register(end, select.POLLIN)
        poller.register(self._reading, select.POLLIN)
        pause = None
        while True:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                pause = min(int(left * 1000) + 1, 1 << 30)
            ready = [fd for fd, _ in poller.poll(pause)]
            if end in ready:
                return
            if ready and self.pass_on() is False:
                poller.unregister(self._reading)

    def fileno(self) -> int:
        """Return our end, for a selector; readable means that :meth:`pass_on` has work."""
        return self._reading

    def pass_on(self) -> bool | None:
        """Move one chunk; False at the end of the output, None if there is none now."""
        try:
            data = os.read(self._reading, _CHUNK)
        except BlockingIOError:
            return None
        if not data:
            return False
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        while data and self._target >= 0:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:  # somebody made our stderr non-blocking
                select.select([], [self._target], [])
            except OSError:  # nobody reads it any more: keep the tail only
                self._target = -1
        return True

    def finish(self) -> None:
        """Take what is left in the pipe; what the command left running keeps its stderr."""
        more: bool | None = True
        while more:
            more = self.pass_on()
        if more is None:  # a background process holds the pipe: it must not meet SIGPIPE
            rest, self._reading = StderrPump._adopt(self._reading, self._target), -1
            threading.Thread(target=rest._drain, name="ssdag-stderr", daemon=True).start()

    @classmethod
    def _adopt(cls, reading: int, target: int) -> StderrPump:
        pump = cls.__new__(cls)
        pump._reading, pump.fd, pump._target, pump._tail = reading, -1, target, b""
        os.set_blocking(reading, True)
        return pump

    def _drain(self) -> None:
        while self.pass_on():
            pass
        self.close()
