# SPDX-License-Identifier: BSD-3-Clause
"""A relay to a server that writes down what a client says, and can cut it off."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Recorder:
    """A TCP relay to a server.

    Parameters
    ----------
    target : str
        Path of the server's unix socket.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: Bytes of each of the next connections that reach the server before it is cut.
        self.cuts: list[int | None] = []
        #: Called as ``on_sent(data)`` for all that is sent to the server, before it gets there.
        self.on_sent: Callable[[bytes], None] = lambda _: None
        #: Bytes to the server, for each connection.
        self.sent: list[bytearray] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)
        for sock in self._open:
            _shut(sock)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._open):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._open += [near, far]
            self.sent.append(bytearray())
            cut = self.cuts.pop(0) if self.cuts else None
            # Closed when both directions have ended: a shutdown leaves the writer waiting.
            both = threading.Barrier(2, near.close)
            for work, args in ((self._up, (self.sent[-1], cut)), (self._down, ())):
                thread = threading.Thread(target=work, args=(near, far, both, *args))
                thread.start()
                self._threads.append(thread)

    def _up(
        self,
        near: socket.socket,
        far: socket.socket,
        both: threading.Barrier,
        sent: bytearray,
        cut: int | None,
    ) -> None:
        try:
            while data := near.recv(1 << 16):
                if cut is not None:
                    data = data[: cut - len(sent)]
                sent += data
                self.on_sent(data)
                ends = cut is not None and len(sent) >= cut
                if ends:
                    _shut(near)  # so that no answer to the last bytes gets through
                far.sendall(data)
                if ends:
                    break
        except OSError:
            pass
        for sock in (near, far):
            _shut(sock)
        both.wait()

    def _down(self, near: socket.socket, far: socket.socket, both: threading.Barrier) -> None:
        try:
            while data := far.recv(1 << 16):
                near.sendall(data)
        except OSError:
            pass
        for sock in (near, far):
            _shut(sock)
        both.wait()

    def commands(self) -> list[list[bytes]]:
        """Return all commands of all connections, without the log-ins."""
        lines = [line for data in self.sent for line in parse(bytes(data))]
        return [line for line in lines if line[0] != b"AUTH"]

    def clear(self) -> None:
        """Forget what was sent."""
        for data in self.sent:
            data.clear()


def parse(data: bytes) -> list[list[bytes]]:
    """Return the commands in a stream of bytes; it must hold whole ones."""
    lines: list[list[bytes]] = []
    at = 0

    def number() -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        value = int(data[at + 1 : end])
        at = end + 2
        return value

    while at < len(data):
        assert data[at : at + 1] == b"*"
        words = []
        for _ in range(number()):
            assert data[at : at + 1] == b"$"
            length = number()
            words.append(data[at : at + length])
            at += length
            assert data[at : at + 2] == b"\r\n"
            at += 2
        lines.append(words)
    return lines


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
