# SPDX-License-Identifier: BSD-3-Clause
"""The connector that ``store=`` stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ssdag.config import is_connector, is_server
from ssdag.connectors.base import Connector
from ssdag.errors import ConfigError


def connector_of(store: Any) -> Connector:
    """Return a connector for what a user gives as a store.

    Parameters
    ----------
    store : Connector, Orchestrator, Client, str, path or mapping
        A text is the name of a connector, the address of a server (``host:port``,
        ``unix://path``), or a folder; a mapping has a connector's name as ``kind``, and
        its options.

    Raises
    ------
    ConfigError
        It is none of these, or an option is wrong.
    StoreError
        A place cannot be made.
    """
    if isinstance(store, Connector):
        return store
    if isinstance(store, Mapping) or (isinstance(store, str) and is_connector(store)):
        from ssdag.connectors.named import connector_named

        return connector_named(store)
    if isinstance(store, str) and is_server(store):
        return _redis(store)
    if isinstance(store, str | os.PathLike):
        from ssdag.connectors.directory import DirectoryConnector

        return DirectoryConnector(store)
    if not isinstance(store, type) and (
        callable(getattr(store, "client", None)) or callable(getattr(store, "put_tensor", None))
    ):
        return _redis(store)
    raise ConfigError(
        f"store={store!r}: a connector, its name or table, an Orchestrator, the address of a "
        "server or a folder is needed"
    )


def _redis(server: Any) -> Connector:
    from ssdag.connectors.redis import RedisConnector

    return RedisConnector(server, "ssdag")
