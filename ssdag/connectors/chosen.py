# SPDX-License-Identifier: BSD-3-Clause
"""The connector that ``store=`` stands for."""

from __future__ import annotations

import os
import re
from typing import Any

from ssdag.connectors.base import Connector
from ssdag.errors import ConfigError

_ADDRESS = re.compile(r"(unix|tcp|redis)://.+|[\w.\[\]:-]+:\d+(,[\w.\[\]:-]+:\d+)*")


def connector_of(store: Any) -> Connector:
    """Return a connector for what a user gives as a store.

    Parameters
    ----------
    store : Connector, Orchestrator, Client, str or path
        A text is the address of a server (``host:port``, ``unix://path``), or a folder.

    Raises
    ------
    ConfigError
        It is none of these.
    """
    if isinstance(store, Connector):
        return store
    if isinstance(store, str) and _ADDRESS.fullmatch(store):
        return _redis(store)
    if isinstance(store, str | os.PathLike):
        from ssdag.connectors.directory import DirectoryConnector

        return DirectoryConnector(store)
    if not isinstance(store, type) and (
        callable(getattr(store, "client", None)) or callable(getattr(store, "put_tensor", None))
    ):
        return _redis(store)
    raise ConfigError(
        f"store={store!r}: a connector, an Orchestrator, the address of a server or a folder "
        "is needed"
    )


def _redis(server: Any) -> Connector:
    from ssdag.connectors.redis import RedisConnector

    return RedisConnector(server, "ssdag")
