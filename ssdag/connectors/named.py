# SPDX-License-Identifier: BSD-3-Clause
"""Connectors by name, as a configuration file has them."""

from __future__ import annotations

import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ssdag.config import near
from ssdag.connectors.base import Connector
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The entry-point group in which connectors are found.
GROUP = "ssdag.connectors"


def connector_named(table: str | Mapping[str, Any]) -> Connector:
    """Make the connector that a table of a configuration means.

    Parameters
    ----------
    table : str or mapping
        A name of the entry-point group ``ssdag.connectors``; or a table with that name
        as ``kind``, and the connector's options.

    Raises
    ------
    ConfigError
        The name or an option is unknown, with the nearest known one; or an option is
        missing or wrong.
    StoreError
        The connector's place cannot be made.

    Examples
    --------
    >>> connector_named({"kind": "directory", "path": "run/store"})  # doctest: +SKIP
    <DirectoryConnector /home/me/run/store>
    """
    options: dict[str, Any] = {"kind": table} if isinstance(table, str) else dict(table)
    kind = options.pop("kind", None)
    points = {point.name: point for point in entry_points(group=GROUP)}
    if kind not in points:
        raise ConfigError(
            f"connector {kind!r}: one of {', '.join(sorted(points))} is needed"
            f"{near(str(kind), points)}"
        )
    try:
        factory = points[kind].load()
    except Exception as error:  # plug-in load
        raise ConfigError(f"connector {kind!r} cannot be loaded: {error}") from error
    try:
        known = inspect.signature(factory).parameters
    except ValueError as error:  # a factory written in C may not tell
        raise ConfigError(f"connector {kind!r} does not say what it takes: {error}") from error
    for name in options:
        if name not in known:
            raise ConfigError(f"connector {kind}: unknown option {name!r}{near(name, known)}")
    try:
        made = factory(**options)
    except TypeError as error:
        raise ConfigError(f"connector {kind}: {error}") from error
    if not isinstance(made, Connector):
        raise ConfigError(f"{kind!r} in the group {GROUP} makes no connector but a {type(made)}")
    return made
