# SPDX-License-Identifier: BSD-3-Clause
"""The watchers of a process: one for each server or cluster that somebody waits at."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ssdag.client.waiting.watch import Watcher

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.errors import SsdagError

_registry_lock = threading.Lock()
_registry: dict[tuple[str, str | None, str | None], Watcher] = {}


def watcher_for(client: ClientBase) -> Watcher:
    """Return this process's watcher of a client's server; made at the first call."""
    key = (client.address, client.password_file, client.given_password)
    with _registry_lock:
        watcher = _registry.get(key)
        if watcher is None or watcher.closed:
            watcher = _registry[key] = Watcher(client)
        return watcher


def close_watcher(client: ClientBase, error: SsdagError) -> None:
    """End the watcher of a server that is gone; its futures fail with `error`."""
    with _registry_lock:
        watcher = _registry.pop((client.address, client.password_file, client.given_password), None)
    if watcher is not None:
        watcher.close(error)


def _after_fork() -> None:
    # The threads are the parent's; the child starts its own.
    global _registry_lock
    _registry_lock = threading.Lock()
    for watcher in _registry.values():
        watcher.disown()
    _registry.clear()


os.register_at_fork(after_in_child=_after_fork)
