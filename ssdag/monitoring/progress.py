# SPDX-License-Identifier: BSD-3-Clause
"""A progress bar over futures: live on a terminal, sober lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

#: Seconds between two lines where there is no terminal, and between two redraws.
_LINE_S = 5.0
_DRAW_S = 0.1


class Progress:
    """Counts futures as they end and shows it on stderr, from :meth:`start` to :meth:`close`.

    Parameters
    ----------
    futures : sequence of futures
        What is counted.
    description : str
        The bar's name.
    """

    def __init__(self, futures: Sequence[Future[Any]], description: str) -> None:
        self._futures = futures
        self._total = len(futures)
        self._done = 0
        self._failed = 0
        self._closed = False
        self._description = description
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._show, name="ssdag-progress", daemon=True)
        for future in futures:
            future.add_done_callback(self._count)

    def start(self) -> None:
        """Begin to show it; apart from making it, so that Ctrl-C here leaves it to close."""
        self._thread.start()

    def _count(self, future: Future[Any]) -> None:
        failed = _failed(future)
        with self._lock:
            if not self._closed:
                self._done += 1
                self._failed += failed

    def close(self) -> None:
        """Show the last state and end."""
        # Who waits is woken before callbacks run, so some may not be counted yet.
        ended = [future for future in self._futures if future.done()]
        failed = sum(map(_failed, ended))
        with self._lock:
            self._closed = True
            self._done, self._failed = len(ended), failed
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _show(self) -> None:
        if sys.stderr.isatty():
            self._show_bar()
        else:
            self._show_lines()

    def _show_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[red]{task.fields[failed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(self._description, total=self._total, failed="")
            last = False
            while not last:
                last = self._stop.wait(_DRAW_S)
                failed = f"{self._failed} failed" if self._failed else ""
                bar.update(task, completed=self._done, failed=failed)

    def _show_lines(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(_LINE_S)
            failed = f", {self._failed} failed" if self._failed else ""
            seconds = time.monotonic() - self._began
            sys.stderr.write(
                f"{self._description}: {self._done} of {self._total} done{failed}, "
                f"{seconds:.1f} s\n"
            )


def _failed(future: Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None
