# SPDX-License-Identifier: BSD-3-Clause
"""Questions of workers that only the driver can answer; at the manager.

Workers ask by a socket in the node's private folder (see
:mod:`ssdag.wire.routes`), the driver answers over the manager's link.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("ssdag.executors")

_ANSWER_S = 80.0
_ASK_S = 10.0
_LARGEST_BYTES = 1 << 16


class Questions:
    """Takes questions of workers, and gives them the driver's answers.

    Parameters
    ----------
    folder : str
        Private; the socket is made in it.
    ask : callable
        ``ask(number, what, name)`` sends a question to the driver; called in other threads.
    """

    def __init__(self, folder: str, ask: Callable[[int, str, str], None]) -> None:
        self.path = os.path.join(folder, "questions")
        self._ask = ask
        self._numbers = itertools.count(1)
        self._open: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(64)
        threading.Thread(target=self._listen, name="ssdag-questions", daemon=True).start()

    def answered(self, number: int, answer: dict[str, Any]) -> None:
        """Take an answer of the driver's."""
        waiting = self._open.pop(number, None)
        if waiting is not None:
            waiting.put(answer)

    def close(self) -> None:
        """Take no more questions."""
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave accept() waiting
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                worker, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(worker,), daemon=True).start()

    def _serve(self, worker: socket.socket) -> None:
        number = next(self._numbers)
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._open[number] = waiting
        try:
            worker.settimeout(_ASK_S)
            with worker, worker.makefile("rb") as question:
                said = json.loads(question.readline(_LARGEST_BYTES))
                self._ask(number, str(said["what"]), str(said["name"]))
                try:
                    answer = waiting.get(timeout=_ANSWER_S)
                except queue.Empty:
                    answer = {"error": f"the driver has not answered for {_ANSWER_S:g} s"}
                worker.sendall(json.dumps(answer).encode() + b"\n")
        except (OSError, ValueError, KeyError) as error:
            _log.warning("a question of a worker could not be answered: %s", error)
        finally:
            self._open.pop(number, None)
