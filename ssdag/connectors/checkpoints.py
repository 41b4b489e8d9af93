# SPDX-License-Identifier: BSD-3-Clause
"""Named states of a set of keys in a connector: saved as a whole, or not at all.

The values of checkpoint ``c`` of ``d`` are copied from ``d:key`` to ``d@c.1f2e3d4c:key``;
when all are there, a small record under ``d@c`` names them. Repeating a checkpoint copies
to other keys and replaces the record, so that there is always a whole one.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from ssdag.errors import ConfigError, DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.connectors.base import Connector

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


class Checkpoints:
    """The checkpoints of the keys ``base:*`` of a connector.

    Parameters
    ----------
    connector : Connector
        Where they are.
    base : str
        What is before the colon; letters, digits, ``_``, ``.`` and ``-``.
    """

    def __init__(self, connector: Connector, base: str) -> None:
        self._connector = connector
        self._base = base

    def save(self, name: str, keys: Sequence[str] | None) -> int:
        """Copy the values of `keys`, or of all; return how many there are."""
        record = self._record_key(name)
        store = self._connector
        old = self._read(record)
        chosen = self._listed(self._base) if keys is None else list(dict.fromkeys(keys))
        copies = f"{record}.{secrets.token_hex(4)}"
        try:
            gone = store.copy_many((f"{self._base}:{key}", f"{copies}:{key}") for key in chosen)
            absent = {place.partition(":")[2] for place in gone}
            saved = [key for key in chosen if key not in absent]
            text = json.dumps(
                {
                    "copies": copies,
                    "keys": saved,
                    # What a rollback removes: all others, or those of the chosen.
                    "absent": None if keys is None else sorted(absent),
                }
            )
            store.write(record, [text.encode()])
        except BaseException:
            store.delete_many(self._places(copies))
            raise
        if old is not None:
            store.delete_many(self._places(old["copies"]))
        return len(saved)

    def restore(self, name: str) -> int:
        """Put the values back, and remove those that were not there."""
        found = self._read(self._record_key(name))
        if found is None:
            known = ", ".join(self.names()) or "none"
            raise MissingDataError(
                f"{self._base!r} has no checkpoint {name!r} in {self._connector!r}; "
                f"there is {known}"
            )
        store, copies, keys = self._connector, found["copies"], found["keys"]
        lost = set(keys).difference(self._listed(copies))
        if lost:
            raise self._damaged(name, lost)
        if found["absent"] is None:
            removed = set(self._listed(self._base)).difference(keys)
        else:
            removed = set(found["absent"])
        gone = store.copy_many((f"{copies}:{key}", f"{self._base}:{key}") for key in keys)
        if gone:  # replaced by another checkpoint, or evicted, at this moment
            raise self._damaged(name, {place.partition(":")[2] for place in gone})
        store.delete_many([f"{self._base}:{key}" for key in removed])
        return len(keys)

    def names(self) -> list[str]:
        """Return the names of complete checkpoints, sorted."""
        start = f"{self._base}@"
        found = (key[len(start) :] for key in self._connector.keys(start + "*"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def delete(self, name: str) -> bool:
        """Remove a checkpoint, and what interrupted ones of its name have left."""
        record = self._record_key(name)
        there = self._connector.delete(record)
        self._connector.delete_many(self._connector.keys(f"{record}.*:*"))
        return there

    def _record_key(self, name: str) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"checkpoint {name!r}: 1 to 32 letters, digits and _ - are possible")
        return f"{self._base}@{name}"

    def _read(self, record: str) -> dict[str, Any] | None:
        try:
            data = bytes(self._connector.read(record))
        except MissingDataError:
            return None
        try:
            found: dict[str, Any] = json.loads(data)
        except ValueError as error:
            raise DataFormatError(f"the record of checkpoint {record!r} is damaged") from error
        return found

    def _places(self, base: str) -> list[str]:
        return self._connector.keys(f"{base}:*")

    def _listed(self, base: str) -> list[str]:
        """Return the keys that are there behind ``base:``."""
        return [place[len(base) + 1 :] for place in self._places(base)]

    def _damaged(self, name: str, lost: set[str]) -> MissingDataError:
        shown = ", ".join(repr(key) for key in sorted(lost)[:5])
        return MissingDataError(
            f"checkpoint {name!r} of {self._base!r} lacks {len(lost)} of its values ({shown}): "
            "the store has lost them, or it was replaced just now"
        )
