# SPDX-License-Identifier: BSD-3-Clause
"""The stored values of one engine in one connector: their names, their ends."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ssdag.connectors.filesystem import machine
from ssdag.connectors.stored import Place, StoredValue
from ssdag.connectors.storing import Storing
from ssdag.errors import SsdagError
from ssdag.wire import guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.connectors.base import Connector
    from ssdag.connectors.packing import Packed
    from ssdag.dataflow.values import Values
    from ssdag.executors.base import Executor

_log = logging.getLogger("ssdag")

#: Values in use when their engine ends are read into memory, up to so much together.
KEEP_BYTES = 1 << 30
#: Values that are deleted with one call.
_BATCH = 256


class Keeper:
    """The values of one engine in one connector.

    Parameters
    ----------
    values : Values
        Those of the engine.
    connector : Connector
        Where they are.
    """

    def __init__(self, values: Values, connector: Connector) -> None:
        self._values = values
        self.prefix = f"ssdag.value.{secrets.token_hex(8)}."
        self._folder: str | None = None
        if connector.kind == "directory":
            connector = self._own_folder(connector)
        self.place = Place(connector)
        self.near = connector.scope == "node"
        self.live: WeakValueDictionary[str, StoredValue] = WeakValueDictionary()
        self._pid = os.getpid()
        self._ended = False

    def _own_folder(self, connector: Any) -> Connector:
        """Return a connector to a folder in a folder, which goes if the driver is killed."""
        self._folder = os.path.join(connector.path, self.prefix.rstrip("."))
        own: Connector = type(connector)(self._folder, scope=connector.scope)
        guard.path(self._folder)
        return own

    def storing(self, func: Callable[..., Any], threshold: int, *, always: bool) -> Storing:
        """Return a body whose large results come here."""
        node = machine() if self.near else None
        return Storing(func, self.place.blob, self.prefix, threshold, node, always=always)

    def reaches(self, executor: Executor) -> bool:
        """Say whether all workers of an executor get what is here."""
        return not self.near or executor.reach == "node"

    def take(self, key: str, nbytes: int) -> StoredValue:
        """Return the reference of a value that is there."""
        value = StoredValue(self.place, key, nbytes)
        value.owned_by(self.release)
        value.mend = self._values.remaking.mend
        self.live[key] = value
        self._values.wake()  # now, and not from the garbage collector
        return value

    def put(self, packed: Packed, source: Any) -> StoredValue:
        """Store a value of this process; raises what the connector raises."""
        key = self.prefix + secrets.token_hex(8)
        self.place.connector.write(key, packed.parts())
        value = self.take(key, packed.nbytes)
        value.copy_of(source)
        return value

    def moved(self, value: StoredValue, new: StoredValue) -> None:
        """Let a value that was lost stand for one that was made in its place.

        Its old name still leads to it: tasks that were sent it come back with that.
        """
        value.move_to(new, self.release)
        self.live[value.key] = value

    def release(self, key: str) -> None:
        """Delete a value soon; the garbage collector calls it, anywhere."""
        if os.getpid() == self._pid:
            self._values.released.put((self, key))

    def end(self, room: int, why: str = "their engine has ended") -> int:
        """Read what is still referred to into memory and delete everything.

        Nothing happens the second time.

        Returns
        -------
        int
            What is left of `room`, in bytes.
        """
        if self._ended:
            return room
        self._ended = True
        connector = self.place.connector
        lost = 0
        reason = "they are too large for this process"
        for value in list(self.live.values()):
            if value.kept:
                continue
            try:
                size = 0 if connector.local else value.nbytes  # mapped, and not copied
                if size <= room and not lost:
                    value.keep()
                    self._values.steps += 1
                    room -= size
                    continue
            except (SsdagError, OSError) as error:
                reason = str(error)
            lost += 1
        if lost:
            _log.warning(
                "%d results in %r are gone, because %s, and %s; call "
                "result() before, or delete their futures", lost, self.place, why, reason,
            )  # fmt: skip
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            guard.release_path(self._folder)
            return room
        try:
            left = connector.keys(self.prefix + "*")
            for start in range(0, len(left), _BATCH):
                self._values.steps += 1
                connector.delete_many(left[start : start + _BATCH])
        except (SsdagError, OSError) as error:
            _log.info("nothing can be deleted from %r: %s", self.place, error)
        return room
