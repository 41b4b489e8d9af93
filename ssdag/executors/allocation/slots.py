# SPDX-License-Identifier: BSD-3-Clause
"""The slot table: which cores and GPUs of an allocation are free, and who gets which.

Pure bookkeeping: no clock, no process, no lock.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdag.executors.allocation.request import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ssdag.executors.allocation.request import Request
    from ssdag.providers.base import Node


@dataclass(frozen=True, slots=True)
class Part:
    """What a step has of one node.

    Attributes
    ----------
    index : int
        Of the node, in the allocation.
    host : str
        Its name.
    ranks : int
        Processes there.
    cores : tuple of int
        Numbers of the cores, from 0.
    gpus : tuple of str
        Ids of the GPUs.
    memory_bytes : int
        Memory, in bytes; 0 if none was asked.
    """

    index: int
    host: str
    ranks: int
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The slots of one step: its parts, in the order of its ranks."""

    parts: tuple[Part, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(part.host for part in self.parts)

    @property
    def cores(self) -> int:
        """Cores in all."""
        return sum(len(part.cores) for part in self.parts)


class _Free:
    """What is free on one node."""

    __slots__ = ("cores", "gpus", "memory_bytes", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.cores = list(range(node.cores))
        self.gpus = list(node.gpus)
        self.memory_bytes = node.memory_bytes

    @property
    def untouched(self) -> bool:
        return len(self.cores) == self.node.cores and len(self.gpus) == len(self.node.gpus)


class SlotTable:
    """Free cores, GPUs and memory of the nodes of an allocation.

    Parameters
    ----------
    nodes : sequence of Node
        Those of the allocation.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        self._free = [_Free(node) for node in self.nodes]
        self._cores = sum(node.cores for node in self.nodes)
        self._held: set[tuple[int, int]] = set()

    @property
    def free_cores(self) -> int:
        """Free cores in all."""
        return self._cores - len(self._held)

    def place(self, request: Request, without: Collection[int] = ()) -> Placement | None:
        """Take slots for a step: on as few nodes as can be, on the fullest that fit.

        Parameters
        ----------
        request : Request
            What it needs.
        without : collection of int
            Nodes that must not be used.

        Returns
        -------
        Placement or None
            None if there is no room now.
        """
        if not request.whole and request.ranks * request.cores_per_rank > self.free_cores:
            return None
        nodes = [i for i in range(len(self._free)) if i not in without]
        most = max((len(self._free[i].cores) for i in nodes), default=0)
        for layout in request.layouts(len(nodes), most // request.cores_per_rank):
            chosen = self._choose(request, layout, nodes, self._room)
            if chosen is not None:
                return Placement(
                    tuple(
                        self._take(request, index, ranks)
                        for index, ranks in zip(chosen, layout, strict=True)
                    )
                )
        return None

    def release(self, placement: Placement) -> None:
        """Give slots back.

        Raises
        ------
        ValueError
            They are not taken: somebody gave them back already.
        """
        wrong = [
            (part.index, core)
            for part in placement.parts
            for core in part.cores
            if (part.index, core) not in self._held
        ]
        if wrong:
            raise ValueError(f"slots given back that are not taken: {wrong[:5]}")
        for part in placement.parts:
            free = self._free[part.index]
            self._held.difference_update((part.index, core) for core in part.cores)
            free.cores = sorted([*free.cores, *part.cores])
            order = free.node.gpus.index
            free.gpus = sorted([*free.gpus, *part.gpus], key=order)
            if free.memory_bytes is not None:
                free.memory_bytes += part.memory_bytes

    def reserve(self, request: Request) -> frozenset[int] | None:
        """Return the nodes that should be kept free until a large step fits on them.

        Those that are emptiest now, among the nodes that are large enough; None if the
        step would not fit in the empty allocation.
        """
        nodes = sorted(range(len(self._free)), key=lambda i: -len(self._free[i].cores))
        for layout in request.layouts(len(nodes), self._most(request)):
            chosen = self._choose(request, layout, nodes, self._capacity, best_fit=False)
            if chosen is not None:
                return frozenset(chosen)
        return None

    def refusal(self, request: Request) -> str | None:
        """Say, with the figures, why a step can never fit; None if it can."""
        if request.memory_bytes and any(node.memory_bytes is None for node in self.nodes):
            return f"{shown(request)} asked, but the memory of its nodes is not known"
        nodes = range(len(self.nodes))
        for layout in request.layouts(len(self.nodes), self._most(request)):
            if self._choose(request, layout, nodes, self._capacity) is not None:
                return None
        return f"{shown(request)} asked, but it has {self._figures()}"

    def _most(self, request: Request) -> int:
        """Return the ranks that fit on the largest node when it is empty."""
        return max((node.cores for node in self.nodes), default=0) // request.cores_per_rank

    def _figures(self) -> str:
        kinds: dict[tuple[int, int, int | None], int] = {}
        for node in self.nodes:
            key = node.cores, len(node.gpus), node.memory_bytes
            kinds[key] = kinds.get(key, 0) + 1
        texts = []
        for (cores, gpus, memory), count in kinds.items():
            text = f"{count} node{'s' if count > 1 else ''} with {cores} cores"
            text += f" and {gpus} GPUs"
            if memory is not None:
                text += f", {memory} bytes of memory"
            texts.append(text + (" each" if count > 1 else ""))
        return "; ".join(texts) or "no nodes"

    # -- choosing --------------------------------------------------------------------

    def _room(self, request: Request, index: int, ranks: int) -> int:
        """Return the cores that would be left on a node; -1 if it has no room now."""
        free = self._free[index]
        if request.whole:
            return 0 if free.untouched and free.node.cores >= ranks else -1
        if len(free.gpus) < ranks * request.gpus_per_rank:
            return -1
        if request.memory_bytes and (free.memory_bytes or 0) < request.memory_bytes:
            return -1
        return max(-1, len(free.cores) - ranks * request.cores_per_rank)

    def _capacity(self, request: Request, index: int, ranks: int) -> int:
        """Return the same for an empty node."""
        node = self.nodes[index]
        if request.whole:
            return 0 if node.cores >= ranks else -1
        if len(node.gpus) < ranks * request.gpus_per_rank:
            return -1
        if request.memory_bytes and (node.memory_bytes or 0) < request.memory_bytes:
            return -1
        return max(-1, node.cores - ranks * request.cores_per_rank)

    def _choose(
        self,
        request: Request,
        layout: Sequence[int],
        nodes: Sequence[int],
        left: _Measure,
        best_fit: bool = True,
    ) -> list[int] | None:
        """Choose a node for each entry of a layout; None if there are not enough.

        The entries fall, and a node with room for many has room for few: so taking the
        best node for the largest first finds a choice if there is one.
        """
        chosen: list[int] = []
        taken: set[int] = set()
        for ranks, same in itertools.groupby(layout):
            fitting = [
                (after, i)
                for i in nodes
                if i not in taken and (after := left(request, i, ranks)) >= 0
            ]
            if best_fit:
                # The fullest; among equals those with few GPUs, which others may need.
                fitting.sort(key=lambda f: (f[0], len(self._free[f[1]].gpus), f[1]))
            count = len(list(same))
            if len(fitting) < count:
                return None
            chosen += [index for _, index in fitting[:count]]
            taken.update(chosen)
        return chosen

    def _take(self, request: Request, index: int, ranks: int) -> Part:
        free = self._free[index]
        cores = len(free.cores) if request.whole else ranks * request.cores_per_rank
        gpus = len(free.gpus) if request.whole else ranks * request.gpus_per_rank
        part = Part(
            index,
            free.node.host,
            ranks,
            tuple(free.cores[:cores]),
            tuple(free.gpus[:gpus]),
            request.memory_bytes,
        )
        del free.cores[:cores], free.gpus[:gpus]
        if free.memory_bytes is not None:
            free.memory_bytes -= request.memory_bytes
        self._held.update((index, core) for core in part.cores)
        return part


if TYPE_CHECKING:
    from typing import Protocol

    class _Measure(Protocol):
        def __call__(self, request: Request, index: int, ranks: int) -> int: ...
