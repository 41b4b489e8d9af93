# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that asks about the servers and sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ssdag.client.base import ClientBase, call
from ssdag.client.transport.address import Address
from ssdag.client.transport.resp import command
from ssdag.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What INFO says: sections of facts.
NodeInfo: TypeAlias = "dict[str, dict[str, str]]"


class AdminCalls(ClientBase):
    """Servers: facts, options, saving, emptying.

    Each call is about all servers that have keys, or those whose addresses are given.
    """

    def get_db_node_info(self, addresses: Sequence[str] | None = None) -> list[NodeInfo]:
        """Return what each server says about itself: ``INFO EVERYTHING`` by section.

        Parameters
        ----------
        addresses : sequence of str, optional
            Of servers; by default all, in the order of :meth:`nodes`.

        Returns
        -------
        list of dict
            ``{"Memory": {"used_memory": "1024", ...}, ...}`` for each.

        Raises
        ------
        StoreError
            One of them cannot be reached.
        """
        answers = self._ask("facts about the server", addresses, b"INFO", b"EVERYTHING")
        return [parse_info(answer) for answer in answers]

    def get_db_cluster_info(self, addresses: Sequence[str] | None = None) -> list[dict[str, str]]:
        """Return what each server says about its cluster: ``CLUSTER INFO``.

        Raises
        ------
        StoreError
            It is no cluster, or a server cannot be reached.
        """
        if not self.clustered:
            raise StoreError(f"the server at {self.address} belongs to no cluster")
        answers = self._ask("facts about the cluster", addresses, b"CLUSTER", b"INFO")
        return [parse_info(answer).get("", {}) for answer in answers]

    def config_get(self, expression: str, address: str | None = None) -> dict[str, str]:
        """Return options of a server whose names fit a pattern.

        Parameters
        ----------
        expression : str
            A name, or a pattern such as ``max*``.
        address : str, optional
            The server; by default the first.
        """
        where = [str(self.nodes()[0])] if address is None else [address]
        (pairs,) = self._ask("options", where, b"CONFIG", b"GET", expression.encode())
        words = [part.decode("utf-8", "replace") for part in pairs]
        return dict(zip(words[::2], words[1::2], strict=True))

    def config_set(self, config_param: str, value: str, address: str | None = None) -> None:
        """Set an option of a server until it ends; by default of all of them.

        Raises
        ------
        StoreError
            There is no such option, or it cannot be set while the server runs.
        """
        where = None if address is None else [address]
        words = b"CONFIG", b"SET", config_param.encode(), str(value).encode()
        self._ask(f"option {config_param!r}", where, *words)

    def save(self, addresses: Sequence[str] | None = None) -> None:
        """Have servers write their data to disk, and wait for it; they do nothing else then."""
        self._ask("save", addresses, b"SAVE")

    def flush_db(self, addresses: Sequence[str] | None = None) -> None:
        """Delete all data of servers, by default of all. It is never sent twice."""
        self._ask("delete all data", addresses, b"FLUSHDB", idempotent=False)

    def _ask(
        self,
        what: str,
        addresses: Sequence[str] | None,
        *words: bytes,
        idempotent: bool = True,
    ) -> list[Any]:
        """Send a command to servers; return their replies."""
        line = command(*words)
        nodes = None if addresses is None else [self._known(text) for text in addresses]
        answers = self._run_each(what, lambda c: call(c, line), nodes, idempotent=idempotent)
        return [answer for _, answer in answers]

    def _known(self, text: str) -> Address:
        """Return a server that this client talks to; a replica of a cluster counts."""
        address = Address.parse(text)
        if self.clustered or address in self.nodes():
            return address
        raise ConfigError(
            f"{text!r} is no server of this client; it knows {', '.join(map(str, self.nodes()))}"
        )


def parse_info(text: bytes) -> NodeInfo:
    """Return the sections of what INFO says; facts before the first are under ``""``."""
    sections: NodeInfo = {}
    section = ""
    for line in text.decode("utf-8", "replace").splitlines():
        if line.startswith("#"):
            section = line[1:].strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            sections.setdefault(section, {})[name] = value
    return sections
