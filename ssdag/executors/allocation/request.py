# SPDX-License-Identifier: BSD-3-Clause
"""What a step asks of an allocation, in one form: from :class:`~ssdag.Resources`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.resources import Resources


@dataclass(frozen=True, slots=True)
class Request:
    """Ranks, and what each of them needs.

    Parameters
    ----------
    ranks : int
        Processes.
    cores_per_rank, gpus_per_rank : int
        What each gets.
    nodes : int, optional
        They are spread over exactly so many nodes; None leaves it open.
    ranks_per_node : int, optional
        On each node but the last; None leaves it open.
    memory_bytes : int
        On each node, in bytes.
    whole : bool
        The nodes are taken wholly, whatever the ranks need of them.
    launched : bool
        Ranks were asked for, so the command is started once for each.
    """

    ranks: int = 1
    cores_per_rank: int = 1
    gpus_per_rank: int = 0
    nodes: int | None = None
    ranks_per_node: int | None = None
    memory_bytes: int = 0
    whole: bool = False
    launched: bool = False

    @property
    def launches(self) -> bool:
        """True if its command runs once and starts what runs on its nodes itself."""
        return self.nodes is not None and not self.launched

    def layouts(self, nodes: int, most: int | None = None) -> Iterator[tuple[int, ...]]:
        """Give the ways to spread the ranks over at most `nodes` nodes.

        On few nodes before many, and evenly before unevenly.

        Parameters
        ----------
        nodes : int
            Nodes that there are.
        most : int, optional
            Ranks that fit on one node at most.

        Yields
        ------
        tuple of int
            Ranks of each node, in falling order.
        """
        most = self.ranks if most is None else min(most, self.ranks)
        if self.ranks_per_node is not None:
            layout = _packed(self.ranks, self.ranks_per_node)
            if len(layout) <= nodes and self.nodes in (None, len(layout)):
                yield layout
        elif self.nodes is not None:
            if self.nodes <= nodes:  # five ranks on four nodes: 2, 1, 1, 1
                base, more = divmod(self.ranks, self.nodes)
                yield (base + 1,) * more + (base,) * (self.nodes - more)
        else:
            for count in range(1, nodes + 1):
                largest = self.ranks if count == 1 else (self.ranks - 1) // (count - 1)
                for each in range(-(-self.ranks // count), min(largest, most) + 1):
                    yield _packed(self.ranks, each)


def _packed(ranks: int, each: int) -> tuple[int, ...]:
    """Return so many on each node, and the rest on the last."""
    full, rest = divmod(ranks, each)
    return (each,) * full + ((rest,) if rest else ())


def request_of(resources: Resources | None, *, mpi: bool = False) -> Request:
    """Return what a task's resources mean.

    ``nodes`` alone takes whole nodes. ``cores`` and ``gpus`` are of a task that is one
    process (on each of its nodes); with ranks it is ``cores_per_rank``.

    Parameters
    ----------
    resources : Resources, optional
        None asks for one core.
    mpi : bool
        True if the command is started once for each rank, even if there is one rank.

    Raises
    ------
    UnsupportedError
        The numbers contradict each other; the text holds them.
    """
    if resources is None:
        return Request(launched=mpi)
    r = resources
    launched = mpi or r.ranks is not None or r.ranks_per_node is not None
    if launched and r.cores is not None:
        raise UnsupportedError(
            f"cores={r.cores} together with ranks: give cores_per_rank, the cores of each rank"
        )
    if launched and r.gpus:
        raise UnsupportedError(
            f"gpus={r.gpus} together with ranks: give gpus_per_rank, the GPUs of each rank"
        )
    cores = r.cores_per_rank or r.cores or 1
    gpus = r.gpus_per_rank if r.gpus_per_rank is not None else (r.gpus or 0)
    ranks = r.ranks
    if ranks is None:
        ranks = (r.nodes or 1) * (r.ranks_per_node or 1)
    whole = r.nodes is not None and all(
        value is None
        for value in (r.ranks, r.ranks_per_node, r.cores, r.cores_per_rank, r.gpus_per_rank, r.gpus)
    )
    nodes = r.nodes
    if r.ranks_per_node is not None:
        needed = -(-ranks // r.ranks_per_node)
        if nodes is not None and nodes != needed:
            raise UnsupportedError(
                f"ranks={ranks} with ranks_per_node={r.ranks_per_node} are on {needed} nodes, "
                f"not on nodes={nodes}"
            )
        nodes = needed
    elif nodes is not None and ranks < nodes:
        raise UnsupportedError(f"ranks={ranks} are too few for nodes={nodes}")
    return Request(
        ranks, cores, gpus, nodes, r.ranks_per_node, r.memory_bytes or 0, whole, launched
    )


def shown(request: Request) -> str:
    """Say in words what is asked."""
    parts = []
    if request.nodes is not None:
        parts.append(f"{_many(request.nodes, 'node')}{' wholly' if request.whole else ''}")
    if request.launched or request.ranks > 1:
        per_node = f" ({request.ranks_per_node} a node)" if request.ranks_per_node else ""
        parts.append(f"{_many(request.ranks, 'rank')}{per_node}")
    if not request.whole:
        each = " each" if request.ranks > 1 else ""
        parts.append(f"{_many(request.cores_per_rank, 'core')}{each}")
    if request.gpus_per_rank:
        parts.append(f"{_many(request.gpus_per_rank, 'GPU')}{' each' if request.ranks > 1 else ''}")
    if request.memory_bytes:
        parts.append(f"{request.memory_bytes} bytes of memory a node")
    return ", ".join(parts)


def _many(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
