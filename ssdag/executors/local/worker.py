# SPDX-License-Identifier: BSD-3-Clause
"""The worker process: takes frames of tasks, runs them in order, sends results back.

It imports as little as it can: its start is the start of the user's first result.
Results are sent when the input is empty, when 200 µs have passed since the last frame,
before a task whose function is known to be slow, and, by a helper thread, when a task
turns out to be slow: a slow task never holds back the results of quick ones.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import socket
import sys
import threading
import traceback
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from ssdag.errors import SerializationError
from ssdag.executors.local.messages import (
    ERROR,
    MAX_CREDIT,
    PATH,
    PICKLED,
    PLAIN,
    SKIPPED,
    SKIPPED_FLAG,
    Packer,
    Page,
)
from ssdag.references import UNRESOLVED, fetch_unresolved
from ssdag.wire import context
from ssdag.wire.frames import FrameReader, FrameWriter, encode
from ssdag.wire.raised import dump_raised
from ssdag.wire.serialize import dump_error, loads
from ssdag.wire.shared import MAPPED, RELEASED, SegmentPool, attach_leased, take_released

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FLUSH_NS = 200_000
_SLOW_NS = 1_000_000
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
#: Longer plain values go by pickle, where large buffers may leave the frame.
_PLAIN_BYTES = 64 * 1024


class _Function:
    """A function of the table; loaded when it is first called."""

    __slots__ = ("_blob", "_call", "slow")

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._call: Callable[..., Any] | None = None
        self.slow = True  # until a run shows otherwise

    def get(self) -> Callable[..., Any]:
        if self._call is None:
            from ssdag.wire.functions import load_function

            try:
                self._call = load_function(self._blob)
            except ImportError as error:
                error.add_note(
                    "The worker process could not import the function's module; it must be "
                    "importable from the folder and sys.path of the script that started ssdag."
                )
                raise
        return self._call


class Worker:
    """One worker process.

    Parameters
    ----------
    sock : socket.socket
        The connection to the hub, blocking.
    page : Page
        The memory shared with the hub.
    """

    def __init__(self, sock: socket.socket, page: Page) -> None:
        self._sock = sock
        self._reader = FrameReader(sock)
        self._writer = FrameWriter(sock)
        self._counters = page.counters
        self._flags = page.flags
        self._functions: dict[int, _Function] = {}
        self._results: deque[tuple[Any, ...]] = deque()
        self._sending = threading.Lock()
        #: Set while a result waits to be sent and another task may be running.
        self._unsent = threading.Event()
        self._last_flush = 0
        self._number = 0
        self._packer = Packer(SegmentPool(None, ""), 0)

    def run(self) -> None:
        """Serve until the hub closes the connection."""
        self._greet()
        threading.Thread(target=self._flush_late, name="ssdag-flush", daemon=True).start()
        reader = self._reader
        while True:
            frame = reader.take()
            if frame is None:
                self._flush()
                _flush_streams()
                reader.read()
                continue
            functions, tasks, released = pickle.loads(frame.body)
            for number, blob in functions:
                if number == PATH:
                    sys.path[:] = pickle.loads(blob)
                else:
                    self._functions[number] = _Function(blob)
            for path in released:
                self._packer.pool.release(path)
            self._run_tasks(tasks, iter(frame.buffers))
            del frame, functions, tasks  # not while we wait: arguments may be large

    def _greet(self) -> None:
        """Take the first frame: where we are."""
        while not self._reader.read():
            pass
        frame = self._reader.take()
        assert frame is not None
        hello = pickle.loads(frame.body)
        sys.path[:] = hello["path"]
        sys.argv[:] = hello["argv"]
        if hello["cwd"] is not None:
            os.chdir(hello["cwd"])
        if hello["near"]:
            context.share_memory()
        self._packer = Packer(SegmentPool(hello["folder"], hello["name"]), hello["threshold"])

    def _run_tasks(self, tasks: list[tuple[Any, ...]], buffers: Iterator[Any]) -> None:
        counters, flags, results = self._counters, self._flags, self._results
        ring = 2 * MAX_CREDIT
        number = self._number
        now = monotonic_ns()
        for function_number, arguments, entries in tasks:
            number += 1
            function = self._functions[function_number]
            if function.slow and results:
                self._flush()
                now = monotonic_ns()
            counters[0] = now
            counters[1] = number
            if flags[number % ring]:
                flags[number % ring] = SKIPPED_FLAG  # should we die: it has not run
                if entries is not None:
                    _pass_over(entries, buffers)
                result: tuple[Any, ...] = (SKIPPED, None, None, ())
                ended = now
            else:
                result = self._call(function, arguments, entries, buffers)
                ended = monotonic_ns()
                function.slow = ended - now > _SLOW_NS
            counters[2] = number
            code, value, own, beside = result
            results.append((code, value, own, now, ended, beside))
            now = ended
            # Buffers beside the pickle are the user's memory: out before he changes it.
            if beside or now - self._last_flush > _FLUSH_NS:
                self._flush()
                now = monotonic_ns()
            elif not self._unsent.is_set():
                self._unsent.set()
            del result, value, own, beside
        self._number = number

    def _call(
        self, function: _Function, arguments: Any, entries: Any, buffers: Iterator[Any]
    ) -> tuple[Any, ...]:
        """Run one task; whatever the user's code raises becomes its result."""
        try:
            # First, so that the frame's buffers stay in step whatever fails below.
            own = None if entries is None else _attach(entries, buffers)
            call = function.get()
            if type(arguments) is tuple:
                value = call(*arguments)
            else:
                args, kwargs = loads(arguments, own)
                del own
                value = call(*args, **kwargs) if kwargs else call(*args)
                del args, kwargs
                if UNRESOLVED:
                    fetch_unresolved()
        except BaseException as error:  # user code, which may also raise SystemExit
            if type(entries) is tuple:
                _give_back_unmapped(entries[1])
            return ERROR, dump_raised(error, __file__), None, ()
        cls = type(value)
        if cls in _PLAIN and (cls not in (str, bytes) or len(value) < _PLAIN_BYTES):
            return PLAIN, value, None, ()
        try:
            # Now, not when it is sent: a later task may change what this one returned.
            payload, own = self._packer.pack(value)
        except SerializationError as error:
            return ERROR, dump_error(SerializationError(f"the task's result: {error}")), None, ()
        except BaseException as error:  # __reduce__ is user code too
            return ERROR, dump_raised(error, __file__), None, ()
        return PICKLED, payload, own, self._packer.take_buffers()

    def _flush(self) -> None:
        with self._sending:
            if self._results or RELEASED:
                self._send()

    def _send(self) -> None:
        """Send what there is; the sending lock is held."""
        batch = []
        buffers: list[memoryview] = []
        for _ in range(len(self._results)):
            result = self._results.popleft()
            buffers += result[5]
            batch.append(result[:5])
        self._writer.send(encode(pickle.dumps((batch, take_released()), 5), buffers))
        self._last_flush = monotonic_ns()

    def _flush_late(self) -> None:
        """Send finished results while a slow task runs; asleep when nothing waits."""
        pause = threading.Event()
        while True:
            self._unsent.wait()
            pause.wait(0.001)
            self._unsent.clear()  # before the look: a result that comes later sets it again
            if self._results:
                self._flush()

    def after_fork(self) -> None:
        """Keep a child that user code forked away from the hub.

        Its copy of the connection would hide our end from the hub. And should it return
        from the task, it must not go on with ours: the released views stop it.
        """
        self._sock.close()
        self._counters.release()
        self._flags.release()
        self._sending = threading.Lock()


def _attach(entries: Any, buffers: Iterator[Any]) -> list[Any]:
    """Return the buffers of a task's arguments; those of the frame are taken in any case."""
    if type(entries) is tuple:
        entries = entries[0]
        MAPPED.clear()
    own = [next(buffers) if entry == -1 else entry for entry in entries]
    return [attach_leased(*part) if type(part) is tuple else part for part in own]


def _pass_over(entries: Any, buffers: Iterator[Any]) -> None:
    """Leave out a task's buffers, and give back the segments that it would have read."""
    if type(entries) is tuple:
        entries, leased = entries
        RELEASED.extend(leased)
    for entry in entries:
        if entry == -1:
            next(buffers)


def _give_back_unmapped(leased: list[str]) -> None:
    """Release the segments that a task's arguments did not come to read."""
    for path in leased:
        if path in MAPPED:
            MAPPED.remove(path)
        else:
            RELEASED.append(path)


def _flush_streams() -> None:
    """Write out what tasks printed; they may have closed or replaced the streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def main(sock_fd: int, page_fd: int) -> None:
    """Run a worker on inherited descriptors; ends the process when the hub is gone."""
    context.enter_worker()
    pid = os.getpid()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A task that is killed has shown what it printed, and lines stay whole.
        sys.stdout.reconfigure(line_buffering=True)
    sock = socket.socket(fileno=sock_fd)
    page = Page(page_fd)
    os.close(page_fd)
    os.set_inheritable(sock_fd, False)
    exit_code = 1
    try:
        worker = Worker(sock, page)
        os.register_at_fork(after_in_child=worker.after_fork)
        worker.run()
    except (EOFError, ConnectionError):
        exit_code = 0
    except BaseException:  # thread top, of a process
        if os.getpid() != pid:
            sys.stderr.write("ssdag: a process that a task forked ended by returning from it\n")
        else:
            traceback.print_exc()
    finally:
        # No interpreter shutdown: threads that user code left behind must not keep us.
        _flush_streams()
        os._exit(exit_code)
