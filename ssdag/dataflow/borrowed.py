# SPDX-License-Identifier: BSD-3-Clause
"""The orchestrator of an engine's tasks, as the store of what has no other between machines."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from ssdag.connectors.chosen import connector_of
from ssdag.errors import SsdagError
from ssdag.services.node import ServiceNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.connectors.base import Connector
    from ssdag.executors.base import Executor

_log = logging.getLogger("ssdag")


class Borrowed:
    """What an engine that was given no store takes for one.

    That is the first orchestrator that its tasks take and that other machines reach, from
    when it is ready until it is stopped.

    Parameters
    ----------
    changed : callable
        Called when there is one, with None, and with the connector before it ends.
    """

    def __init__(self, changed: Callable[[Connector | None], None]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._asked: set[int] = set()
        self._avoided: set[Executor] = set()
        #: The store; None where there is none.
        self.connector: Connector | None = None

    def serves(self, executor: Executor | None) -> bool:
        """Say whether large values of an executor's tasks go there."""
        if self.connector is None or executor is None or executor in self._avoided:
            return False
        return executor.reach == "anywhere"

    def avoid(self, connector: Connector, executor: Executor) -> None:
        """Workers of an executor do not get what is there."""
        if connector is self.connector:
            self._avoided.add(executor)
            self._changed(None)

    def offer(self, service: Any) -> None:
        """A task takes a service, which is starting or ready; its engine keeps it alive."""
        if not isinstance(service, ServiceNode) or self.connector is not None:
            return
        with self._lock:
            if id(service) in self._asked:
                return
            self._asked.add(id(service))
        service.ready.add_done_callback(lambda ready: self._look(service, ready))

    def _look(self, service: Any, ready: Any) -> None:
        """Take it if it is what is needed; nothing here waits for a server."""
        try:
            if ready.exception() is not None:
                return
            connector = connector_of(service)
            if connector.scope != "network":
                return
        except SsdagError as error:  # one server per node, say
            _log.debug("%r is no store of large values: %s", service, error)
            return
        with self._lock:
            if self.connector is not None:
                return
            self.connector = connector
        service.before_end(self._leave)
        self._changed(None)

    def _leave(self) -> None:
        gone, self.connector = self.connector, None
        self._changed(gone)
