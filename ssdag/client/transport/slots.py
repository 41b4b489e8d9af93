# SPDX-License-Identifier: BSD-3-Clause
"""Hash slots of a cluster: which slot a key has, and which node has which slots.

Pure functions; https://valkey.io/topics/cluster-spec/
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import TYPE_CHECKING, NamedTuple

from ssdag.client.transport.address import Address
from ssdag.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Slots of every cluster.
SLOTS = 16384

#: Commands without a key; any node may answer them.
_KEYLESS = frozenset(
    b"ACL AUTH CLIENT CLUSTER COMMAND CONFIG DBSIZE ECHO FLUSHALL FLUSHDB FUNCTION INFO KEYS "
    b"LASTSAVE LATENCY MODULE PING PSUBSCRIBE PUBLISH PUBSUB RANDOMKEY ROLE SAVE BGSAVE SCAN "
    b"SCRIPT SLOWLOG SUBSCRIBE TIME WAIT".split()
)
#: Commands whose key is the third word, after a subcommand or an operation.
_THIRD = frozenset(b"BITOP MEMORY OBJECT XGROUP XINFO".split())
#: Commands with a count of keys and then the keys: where the count is.
_COUNTED = {
    **dict.fromkeys(b"EVAL EVALSHA EVAL_RO EVALSHA_RO FCALL FCALL_RO BLMPOP BZMPOP".split(), 2),
    **dict.fromkeys(b"LMPOP ZMPOP SINTERCARD ZINTERCARD ZUNION ZINTER ZDIFF".split(), 1),
}


def slot_of(key: bytes) -> int:
    """Return the slot of a key: CRC16 (XMODEM) of it, or of its hash tag ``{...}``."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def key_of(line: Sequence[bytes]) -> bytes | None:
    """Return the first key of a command, by which it is routed; None if it has none.

    Parameters
    ----------
    line : sequence of bytes
        The command's words, its name first.
    """
    name = line[0].upper()
    if name in _KEYLESS:
        return None
    where = 1
    if name in _THIRD:
        where = 2
    elif name in _COUNTED:
        where = _COUNTED[name] + 1
        if len(line) < where or not line[where - 1].isdigit() or not int(line[where - 1]):
            return None
    elif name in (b"XREAD", b"XREADGROUP"):
        upper = [word.upper() for word in line]
        where = upper.index(b"STREAMS") + 1 if b"STREAMS" in upper else len(line)
    return line[where] if where < len(line) else None


class Node(NamedTuple):
    """One server of a cluster, as another one describes it.

    Attributes
    ----------
    address : Address
        Where it is.
    name : str
        Its id.
    primary : str
        The id of the primary that it copies; empty if it is a primary itself.
    failed : bool
        The others have given it up, by majority.
    ranges : tuple of (int, int)
        Slots that it has, both ends included.
    epoch : int
        Of its configuration; who took slots over last has the highest.
    """

    address: Address
    name: str
    primary: str
    failed: bool
    ranges: tuple[tuple[int, int], ...]
    epoch: int


class Topology(NamedTuple):
    """All nodes of a cluster.

    Attributes
    ----------
    nodes : tuple of Node
        Primaries and replicas.
    """

    nodes: tuple[Node, ...]

    @property
    def epoch(self) -> int:
        """The highest of all nodes: of two descriptions, the newer one's is not lower."""
        return max((node.epoch for node in self.nodes), default=0)

    @property
    def primaries(self) -> list[Node]:
        """The nodes that have slots, by their first slot."""
        return sorted((n for n in self.nodes if n.ranges), key=lambda n: n.ranges[0])

    def table(self) -> list[Address | None]:
        """Return the address for each slot; None where nobody has it."""
        table: list[Address | None] = [None] * SLOTS
        for node in self.nodes:
            for first, last in node.ranges:
                table[first : last + 1] = [node.address] * (last + 1 - first)
        return table

    def at(self, address: Address) -> Node | None:
        """Return the node at an address."""
        return next((node for node in self.nodes if node.address == address), None)

    def has_heir(self, node: Node) -> bool:
        """Return whether a replica of this primary is there that could take over."""
        return any(n.primary == node.name and not n.failed for n in self.nodes)


def parse_nodes(text: str, asked: Address) -> Topology:
    """Return what ``CLUSTER NODES`` says.

    Parameters
    ----------
    text : str
        The answer.
    asked : Address
        Who said it; a node that does not know its own host has this one's.

    Raises
    ------
    StoreError
        The answer is not understood.
    """
    nodes = []
    try:
        for line in text.splitlines():
            name, where, flags, primary, _, _, epoch, _, *ranges = line.split(" ")
            host, _, port = where.partition(",")[0].partition("@")[0].rpartition(":")
            said = flags.split(",")
            if "noaddr" in said or "handshake" in said:
                continue
            nodes.append(
                Node(
                    Address(host=host or asked.host, port=int(port)),
                    name,
                    "" if primary == "-" else primary,
                    "fail" in said,
                    tuple(_range(part) for part in ranges if not part.startswith("[")),
                    int(epoch),
                )
            )
    except ValueError as error:
        raise StoreError(f"the node at {asked} describes its cluster oddly: {text!r}") from error
    return Topology(tuple(nodes))


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class Redirection(NamedTuple):
    """What ``MOVED`` or ``ASK`` says.

    Attributes
    ----------
    slot : int
        The slot in question.
    address : Address
        Who has it, or has it soon.
    """

    slot: int
    address: Address


def parse_redirection(text: str, asked: Address) -> Redirection | None:
    """Return where ``MOVED slot host:port`` or ``ASK slot host:port`` points.

    None if it names nobody. An empty host means the host of the node that was `asked`.
    """
    words = text.split()
    if len(words) != 3 or not words[1].isdigit():
        return None
    host, _, port = words[2].rpartition(":")
    if host == "?" or not port.isdigit() or not int(port):
        return None
    return Redirection(int(words[1]), Address(host=host or asked.host, port=int(port)))
