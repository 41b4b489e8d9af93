# SPDX-License-Identifier: BSD-3-Clause
"""Results that outlive the run: one SQLite file.

Rows are committed in groups by a thread of their own, so that a task never waits for
the disk. A commit is whole or absent, whatever is killed when (a power cut can take the
last few commits, and nothing else). Each row carries a digest of itself: a row that
the disk has changed counts as absent.

A write that fails never reaches a task: it is logged once, and kept in ``failed``.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdag.dataflow import salvage
from ssdag.dataflow.checkpoint_file import PUT, connect, connect_to_read, open_file
from ssdag.errors import CheckpointError

if TYPE_CHECKING:
    import os

_log = logging.getLogger("ssdag")

_BATCH_ROWS = 256
_BATCH_S = 0.05
_BUSY_S = 30.0
#: Rows that wait for the disk may hold this much memory; more are not kept.
_QUEUE_BYTES = 1 << 30


class Checkpoint:
    """A file of results, by key.

    Several checkpoints, in one process or many, may have the same file open. All
    methods are thread-safe. Close it, or the rows of the last 50 ms may be missing.

    Parameters
    ----------
    path : str or os.PathLike
        The file; it and its folder are made if they are not there. A damaged file is
        kept as ``NAME.damaged-N``, and its whole rows go to a new one, with a warning.

    Attributes
    ----------
    path : pathlib.Path
    failed : Exception or None
        The first error that kept rows from the disk (disk full, folder not writable);
        the run goes on without them, and later rows are tried again.
    dropped : int
        Rows that were not written because of that.
    saved : int or None
        Rows that were saved out of a damaged file when this was opened.

    Raises
    ------
    CheckpointError
        The file is something else: not SQLite, or another program's. It is not touched.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.failed: Exception | None = None
        self.dropped = 0
        self.saved: int | None = None
        self._read_only = False
        self._reader: sqlite3.Connection | None = None
        self._read_lock = threading.Lock()
        self._bad_row = False
        self._queue: dict[bytes, tuple[Any, ...]] = {}
        self._writing: dict[bytes, tuple[Any, ...]] = {}
        self._queued_bytes = 0
        self._put_count = 0
        self._written_count = 0
        self._hurry = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if self.path.is_dir():
            raise CheckpointError(f"{self.path} is a folder, not a checkpoint file", path=str(path))
        try:
            self._reader, self.saved = open_file(self.path)
        except (sqlite3.Error, OSError) as error:
            self._fail(error, 0)
            self._read_only = True
            self._reader = connect_to_read(self.path)

    # -- reading ---------------------------------------------------------------------

    def load(self, key: bytes) -> bytes | None:
        """Return the value stored for a key, or None; reads the disk, never raises."""
        with self._changed:
            row = self._queue.get(key) or self._writing.get(key)
        if row is not None:
            return bytes(row[1])
        with self._read_lock:
            if self._reader is None:
                return None
            try:
                found = self._reader.execute(
                    "SELECT value, digest FROM results WHERE key = ?", (key,)
                ).fetchone()
            except sqlite3.Error as error:
                self._fail(error, 0)
                return None
        if found is None:
            return None
        if salvage.row_check(key, found[0]) != found[1]:
            if not self._bad_row:
                self._bad_row = True
                _log.warning(
                    "a row of the checkpoint %s was changed on the disk: its task runs again",
                    self.path,
                )
            return None
        return bytes(found[0])

    def __len__(self) -> int:
        """Return the number of rows on the disk, after waiting for those under way."""
        if not self._closing:
            self.flush(_BUSY_S)
        with self._read_lock, contextlib.suppress(sqlite3.Error):
            if self._reader is not None:
                (count,) = self._reader.execute("SELECT count(*) FROM results").fetchone()
                return int(count)
        return 0

    # -- writing ---------------------------------------------------------------------

    def put(self, key: bytes, blob: bytes, app: str = "", run_time_s: float = 0.0) -> bool:
        """Queue a row; returns at once.

        Returns
        -------
        bool
            False if the row was not taken: the file is closed or cannot be written, or too
            much waits for the disk.
        """
        row = (key, blob, app, time.time(), run_time_s, salvage.row_check(key, blob))
        with self._changed:
            if self._closing or self._read_only:
                return False
            full = self._queued_bytes + len(blob) > _QUEUE_BYTES and bool(self._queue)
            if not full:
                old = self._queue.get(key)
                self._queued_bytes += len(blob) - (len(old[1]) if old else 0)
                self._queue[key] = row
                self._put_count += 1
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="ssdag-checkpoint", daemon=True
                    )
                    self._thread.start()
                if len(self._queue) == 1 or len(self._queue) >= _BATCH_ROWS:
                    self._changed.notify_all()
        if full:
            self._fail(OSError("the disk is too slow: too many rows wait for it"), 1)
        return not full

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the rows put so far have been written or given up.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most; None waits as long as it takes.

        Returns
        -------
        bool
            True if no row is waiting and none was dropped.
        """
        with self._changed:
            goal = self._put_count
            self._hurry = True
            self._changed.notify_all()
            through = self._changed.wait_for(lambda: self._written_count >= goal, timeout)
        return through and not self.dropped

    def close(self) -> None:
        """Write what waits and close the file; again does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._read_lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self) -> None:
        """Commit in groups: the writer thread."""
        connection: sqlite3.Connection | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    break
                self._changed.wait_for(self._batch_is_due, _BATCH_S)
                batch, self._writing, self._queue = self._queue, self._queue, {}
                count, self._queued_bytes = self._put_count, 0
                self._hurry = False
            try:
                if connection is None:
                    connection = connect(self.path)
                _commit(connection, batch)
            except (sqlite3.Error, OSError, CheckpointError) as error:
                self._fail(error, len(batch))
                if connection is not None:
                    connection.close()
                    connection = None
            with self._changed:
                self._writing = {}
                self._written_count = count
                self._changed.notify_all()
        if connection is not None:
            connection.close()

    def _batch_is_due(self) -> bool:
        return len(self._queue) >= _BATCH_ROWS or self._hurry or self._closing

    def _fail(self, error: Exception, dropped: int) -> None:
        first = self.failed is None
        self.failed = self.failed or error
        self.dropped += dropped
        if first:
            _log.warning(
                "the checkpoint %s cannot be used as it should, the run goes on without it: %s",
                self.path, error,
            )  # fmt: skip


def _commit(connection: sqlite3.Connection, batch: dict[bytes, tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(PUT, batch.values())
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:  # some errors have rolled back already
            connection.execute("ROLLBACK")
        raise


__all__ = ["Checkpoint"]
