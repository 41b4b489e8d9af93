# SPDX-License-Identifier: BSD-3-Clause
"""A node of an allocation as a place, whatever becomes of the keeper there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ssdag.services.servers.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ssdag.services.keepers.remote import RemotePlace
    from ssdag.services.keepers.remote_server import RemoteServer
    from ssdag.services.servers.places import ServerRequest


class NodePlace(Place):
    """A node whose keeper is launched again when it was lost, for the next server.

    Parameters
    ----------
    first : RemotePlace
        The keeper that is there.
    open_again : callable
        Launches another one.
    """

    def __init__(self, first: RemotePlace, open_again: Callable[[], RemotePlace]) -> None:
        self._current = first
        self._open_again = open_again
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<NodePlace {self.hostname} {self.address}>"

    @property
    def hostname(self) -> str:  # type: ignore[override]
        """Name of the node."""
        return self._current.hostname

    @property
    def address(self) -> str:
        """Where servers there listen that others shall reach."""
        return self._current.address

    @property
    def keeper(self) -> RemotePlace:
        """The keeper that is there, or was last."""
        return self._current

    def start(
        self,
        request: ServerRequest,
        *,
        cpus: int | Sequence[int] | None = None,
        folder_name: str | None = None,
        beside: bool = False,
    ) -> RemoteServer:
        """Start a server on the node; see :meth:`RemotePlace.start`."""
        with self._lock:
            if self._current.is_lost:
                lost, again = self._current, self._open_again()
                again.address = lost.address
                lost.close()
                self._current = again
            place = self._current
        return place.start(request, cpus=cpus, folder_name=folder_name, beside=beside)

    def close(self) -> None:
        """Let the node go."""
        with self._lock:
            self._current.close()
