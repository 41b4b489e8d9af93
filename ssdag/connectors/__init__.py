# SPDX-License-Identifier: BSD-3-Clause
"""Connectors: where bytes live that tasks hand to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdag.connectors.adios import AdiosConnector
    from ssdag.connectors.base import Connector
    from ssdag.connectors.dictionary import DistributedDict
    from ssdag.connectors.directory import DirectoryConnector
    from ssdag.connectors.dragon import DragonConnector
    from ssdag.connectors.redis import RedisConnector
    from ssdag.connectors.shared_memory import SharedMemoryConnector

__all__ = [
    "AdiosConnector",
    "Connector",
    "DirectoryConnector",
    "DistributedDict",
    "DragonConnector",
    "RedisConnector",
    "SharedMemoryConnector",
]

_WHERE = {
    "AdiosConnector": "ssdag.connectors.adios",
    "Connector": "ssdag.connectors.base",
    "DirectoryConnector": "ssdag.connectors.directory",
    "DistributedDict": "ssdag.connectors.dictionary",
    "DragonConnector": "ssdag.connectors.dragon",
    "RedisConnector": "ssdag.connectors.redis",
    "SharedMemoryConnector": "ssdag.connectors.shared_memory",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
