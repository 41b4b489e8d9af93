# SPDX-License-Identifier: BSD-3-Clause
"""Reads the rows that are whole out of a damaged checkpoint file.

SQLite opens a file only if it is all there. Here the pages are read one by one,
without following the tree: every page that looks like a table leaf is decoded (the
format is at https://www.sqlite.org/fileformat2.html, sections 1.3, 1.6, 2.1 and 4.1),
and a row counts if the digest that was stored in it fits. A write-ahead log beside the
file is laid over it, later frames over earlier ones.
"""

from __future__ import annotations

import mmap
import os
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"SQLite format 3\0"
#: "ssda": the application id in the header of our files.
APPLICATION_ID = 0x73736461
#: What our files are made with; used where the header is damaged.
PAGE_BYTES = 4096
_LEAF = 13
_COLUMNS = 6


class Row(NamedTuple):
    """One row, in the order of the columns in the file."""

    key: bytes
    value: bytes
    app: str
    created: float
    run_time_s: float
    check: bytes


def row_check(key: bytes, value: bytes) -> bytes:
    """Return the digest that a row carries, to tell whether it is whole."""
    hasher = blake2b(key, digest_size=16)
    hasher.update(value)
    return hasher.digest()


def looks_like_ours(path: Path) -> bool:
    """Say whether a file that SQLite refuses was one of ours, as far as it goes.

    Must not be called while this process has the file open in SQLite: closing it here
    would drop SQLite's locks.
    """
    with path.open("rb") as file:
        head = file.read(100)
    if head[: len(MAGIC)] != MAGIC[: len(head)]:
        return False
    if len(head) < 72 or int.from_bytes(head[68:72], "big") == APPLICATION_ID:
        return True
    return next(rows(path), None) is not None  # the header itself may be damaged


def rows(path: Path) -> Iterator[Row]:
    """Yield every whole row of a damaged file, in no order, perhaps twice."""
    size = path.stat().st_size
    if not size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        page = int.from_bytes(data[16:18], "big")
        page = 65536 if page == 1 else page
        if page < 512 or page & (page - 1):
            page = PAGE_BYTES
        reserved = data[20] if size > 20 and data[20] <= 64 else 0
        reader = _Reader(data, page, page - reserved, _log_pages(path, page))
        for number in range(1, reader.pages + 1):
            yield from reader.leaf(number)


def _log_pages(path: Path, page: int) -> dict[int, bytes]:
    """Return the pages in the write-ahead log: the last frame of each.

    Frames after the last commit do no harm: a row is whole or it is not.
    """
    log = path.with_name(path.name + "-wal")
    if not log.exists():
        return {}
    found: dict[int, bytes] = {}
    with log.open("rb") as file:
        salts = file.read(32)[16:24]
        while len(head := file.read(24)) == 24 and head[8:16] == salts:
            content = file.read(page)
            found[int.from_bytes(head[:4], "big")] = content.ljust(page, b"\0")
    return found


class _Reader:
    def __init__(self, data: mmap.mmap, page: int, usable: int, log: dict[int, bytes]) -> None:
        self.data = data
        self.page = page
        self.usable = usable
        self.log = log
        self.limit = len(data) + page * len(log)
        self.pages = max(-(-len(data) // page), max(log, default=0))

    def get(self, number: int) -> bytes:
        """Return a page; what the file lacks reads as zeros."""
        found = self.log.get(number)
        if found is None:
            found = self.data[(number - 1) * self.page : number * self.page]
            if len(found) < self.page:
                found = found.ljust(self.page, b"\0")
        return found

    def leaf(self, number: int) -> Iterator[Row]:
        """Yield the whole rows of a page, if it is a leaf of a table."""
        page = self.get(number)
        start = 100 if number == 1 else 0
        if page[start] != _LEAF:
            return
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        for index in range(min(count, (self.usable - start - 8) // 2)):
            at = start + 8 + 2 * index
            cell = int.from_bytes(page[at : at + 2], "big")
            try:
                row = self._row(page, cell)
            except (ValueError, IndexError):  # garbage, as far as it could be read
                continue
            if row is not None:
                yield row

    def _row(self, page: bytes, cell: int) -> Row | None:
        length, at = _varint(page, cell)
        _, at = _varint(page, at)  # the row id
        if not 0 < length <= self.limit:
            return None
        fields = _record(self._payload(page, at, length))
        if len(fields) != _COLUMNS:
            return None
        key, value, app, created, run_time, check = fields
        if not (isinstance(key, bytes) and isinstance(value, bytes)):
            return None
        if row_check(key, value) != check:
            return None
        return Row(key, value, str(app), float(created or 0), float(run_time or 0), check)

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """Return the bytes of a record, with those on overflow pages."""
        room = self.usable - 4
        local = length
        if length > self.usable - 35:
            least = (self.usable - 12) * 32 // 255 - 23
            local = least + (length - least) % room
            if local > self.usable - 35:
                local = least
        if local == length:
            return page[at : at + length]
        parts = [page[at : at + local]]
        follow = int.from_bytes(page[at + local : at + local + 4], "big")
        missing = length - local
        while missing > 0:
            if not 0 < follow <= self.pages:
                raise ValueError("an overflow page is missing")
            content = self.get(follow)
            parts.append(content[4 : 4 + min(room, missing)])
            missing -= room
            follow = int.from_bytes(content[:4], "big")
        return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _record(data: bytes) -> list[Any]:
    """Decode a record: a header of serial types, then the values."""
    size, at = _varint(data, 0)
    if size > 64:
        raise ValueError("not one of our records")
    values: list[Any] = []
    body = size
    while at < size:
        kind, at = _varint(data, at)
        if kind == 0:
            values.append(None)
            continue
        if kind >= 12:
            length = (kind - 12) // 2
        elif kind in (8, 9):
            values.append(kind - 8)
            continue
        elif kind in (10, 11):
            raise ValueError("a serial type that no file has")
        else:
            length = (0, 1, 2, 3, 4, 6, 8, 8)[kind]
        raw = data[body : body + length]
        if len(raw) < length:
            raise ValueError("the record is cut")
        body += length
        if kind == 7:
            values.append(struct.unpack(">d", raw)[0])
        elif kind < 7:
            values.append(int.from_bytes(raw, "big", signed=True))
        else:
            values.append(raw.decode("utf-8", "replace") if kind & 1 else raw)
    return values


def set_aside(path: Path) -> Path:
    """Keep a damaged file as NAME.damaged-N; the name itself stays for the next step.

    A hard link, so that the name never points to nothing; a plain rename where the file
    system has no links. The write-ahead log goes along: SQLite would apply it to
    whatever takes the name.
    """
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.damaged-{number}")
        if not os.path.lexists(kept):
            try:
                os.link(path, kept)
            except FileExistsError:
                pass
            except OSError:
                path.rename(kept)
                break
            else:
                break
        number += 1
    for ending in ("-wal", "-journal"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + ending))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    return kept


__all__ = [
    "APPLICATION_ID",
    "MAGIC",
    "PAGE_BYTES",
    "Row",
    "looks_like_ours",
    "row_check",
    "rows",
    "set_aside",
]
