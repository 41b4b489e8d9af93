# SPDX-License-Identifier: BSD-3-Clause
"""Opens, checks and repairs checkpoint files; what is done with the rows is elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.dataflow import salvage
from ssdag.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("ssdag")

_BUSY_S = 30.0
#: Above this size a file is not read through when it is opened.
_CHECK_BYTES = 1 << 30
_VERSION = 1

_SCHEMA = """CREATE TABLE results (
    key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, app TEXT NOT NULL,
    created REAL NOT NULL, run_time_s REAL NOT NULL, digest BLOB NOT NULL)"""
#: Writes one salvage.Row; the last writer of a key wins.
PUT = """INSERT INTO results VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    value = excluded.value, app = excluded.app, created = excluded.created,
    run_time_s = excluded.run_time_s, digest = excluded.digest"""

#: File systems on which several machines may have the file open: there SQLite's
#: write-ahead log, which needs shared memory, would corrupt it.
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "afs", "panfs", "pvfs",
            "orangefs", "wekafs", "glusterfs", "9p", "fuse", "dvs")  # fmt: skip


#: What SQLite says of a file that is damaged; anything else may pass by itself.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def open_file(path: Path) -> tuple[sqlite3.Connection, int | None]:
    """Open a checkpoint file; make it if it is not there, repair it if it is damaged.

    Returns
    -------
    connection : sqlite3.Connection
    saved : int or None
        How many rows were saved, if it was damaged.

    Raises
    ------
    CheckpointError
        The file is something else; it was not touched.
    sqlite3.Error, OSError
        It cannot be made, read or repaired here and now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(path.parent):
        if _is_sound(path):
            return connect(path), None
        with path.open("r+b") as file:
            # SQLite's shared lock on these bytes shows that another process has it
            # open: taking the file from under it would lose what it writes.
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 512, 0x40000000)
            except OSError:
                raise OSError("the file is damaged, and another process uses it") from None
        saved = _repair(path)
        return connect(path), saved


def connect(path: Path) -> sqlite3.Connection:
    """Connect to a file that has been opened before.

    Several processes use one write-ahead log through shared memory, which network file
    systems lack: there it is a rollback journal.
    """
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA page_size = {salvage.PAGE_BYTES}")
        # Before anything is changed: a file of another program stays as it is.
        _is_ours(connection, path)
        mode = "TRUNCATE" if on_network(path.parent) else "WAL"
        try:
            (got,) = connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
        except sqlite3.OperationalError:
            (got,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if got == 'wal' else 'FULL'}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection | None:
    """Connect to a file that cannot be written, or return None if there is none."""
    # The second form is for a folder where not even the log's index can be made.
    for option in ("mode=ro", "immutable=1"):
        connection = None
        try:
            connection = sqlite3.connect(
                f"{path.as_uri()}?{option}", uri=True, isolation_level=None, check_same_thread=False
            )
            if _is_ours(connection, path):
                return connection
        except sqlite3.Error:
            pass
        if connection is not None:
            connection.close()
    return None


def _is_sound(path: Path) -> bool:
    """Open and check the file, and make the table in a new one."""
    # SQLite takes a file of one byte, whichever, for a new one.
    if path.exists() and path.stat().st_size == 1 and path.read_bytes() != salvage.MAGIC[:1]:
        raise _foreign(path, "not a checkpoint file")
    try:
        connection = connect(path)
        try:
            return _check(connection, path)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
            raise
        if not salvage.looks_like_ours(path):
            raise _foreign(path, "not a checkpoint file") from error
        return False


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Return False if the file is new; raise if it is another program's."""
    # One statement, so that another process that makes the table is seen whole or not.
    owner, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if owner == salvage.APPLICATION_ID:
        if version > _VERSION:
            raise _foreign(path, "the checkpoint of a newer version of ssdag")
        return True
    if owner or tables or version:
        raise _foreign(path, "an SQLite file of another program")
    return False


def _check(connection: sqlite3.Connection, path: Path) -> bool:
    if not _is_ours(connection, path):
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection, path):
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA application_id = {salvage.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
        return True
    if path.stat().st_size > _CHECK_BYTES:
        connection.execute("SELECT 1 FROM results LIMIT 1").fetchone()
        return True
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    return bool(verdict == "ok")


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is {what}; it was left as it is: give the checkpoint another name",
        path=str(path),
    )


def _repair(path: Path) -> int:
    """Put the whole rows into a new file, which then takes the name; return how many."""
    rescue = path.with_name(path.name + ".rescue")
    rescue.unlink(missing_ok=True)
    new = sqlite3.connect(rescue, isolation_level=None)
    try:
        new.execute(f"PRAGMA page_size = {salvage.PAGE_BYTES}")
        new.execute("PRAGMA journal_mode = OFF")
        new.execute("PRAGMA synchronous = FULL")
        _check(new, rescue)
        new.execute("BEGIN")
        new.executemany(PUT, salvage.rows(path))
        new.execute("COMMIT")
        (saved,) = new.execute("SELECT count(*) FROM results").fetchone()
    except BaseException:
        new.close()
        rescue.unlink(missing_ok=True)
        raise
    new.close()
    kept = salvage.set_aside(path)
    rescue.replace(path)
    _log.warning(
        "the checkpoint %s was damaged: %d rows were saved; the damaged file is kept as %s",
        path,
        saved,
        kept.name,
    )
    return int(saved)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time make, check or repair the checkpoints of a folder.

    The lock is on the folder itself, so no lock file stays behind. Some network file
    systems do not lock folders: there it is left to SQLite alone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def on_network(folder: Path) -> bool:
    """Say whether a folder is on a network file system."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:  # no /proc
        return False
    for line in lines:
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind.startswith(_NETWORK)


__all__ = ["PUT", "connect", "connect_to_read", "on_network", "open_file"]
