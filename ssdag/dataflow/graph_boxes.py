# SPDX-License-Identifier: BSD-3-Clause
"""From the nodes of a graph to the boxes of a picture: one each, or one for many alike."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    import networkx

#: A graph with more nodes is drawn by groups.
MAX_BOXES = 150
#: Groups of a graph that is deeper are made of nodes of several depths.
_MAX_LAYERS = 40
_FEW_LAYERS = 24


@dataclass(slots=True)
class Box:
    """One node, or several of one app at about the same depth.

    Attributes
    ----------
    kind : str
        "task", "service" or "data".
    app : str
    nodes : list
        What it stands for.
    states : collections.Counter
        How many of them are in each state.
    depth : float
        Mean length of the longest path to them.
    layer : int
        The column, once laid out.
    """

    kind: str
    app: str
    nodes: list[Any] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    depth: float = 0.0
    layer: int = 0


#: How many edges of a kind lead from one box (by index) to another.
Links = dict[tuple[int, int, str], int]


def boxes_of(graph: networkx.DiGraph) -> tuple[list[Box], Links]:
    """Return the boxes to draw, layered so that links lead to the right, and their links."""
    depth = _depths(graph)
    bands = max(depth.values(), default=0) + 1
    total, band = bands, 1.0
    if len(graph) <= MAX_BOXES:
        groups = _group(graph, depth, None)
    else:
        if total > _MAX_LAYERS:
            bands = _FEW_LAYERS
        groups = _group(graph, depth, band := total / bands)
        while len(groups) > MAX_BOXES and bands > 1:
            bands = max(1, min(bands - 1, bands * MAX_BOXES // len(groups)))
            groups = _group(graph, depth, band := total / bands)
        groups = _merge_rare(groups)
    index = {node: i for i, box in enumerate(groups) for node in box.nodes}
    links: Counter[tuple[int, int, str]] = Counter()
    for parent, child, kind in graph.edges(data="kind", default="data"):
        one, two = index[parent], index[child]
        if one != two:
            links[one, two, kind] += 1
    pairs = {link[:2] for link in links}
    # Groups of one band that feed each other stand side by side.
    forward = {
        link: count
        for link, count in links.items()
        if groups[link[0]].kind == "service"
        or (groups[link[0]].depth < groups[link[1]].depth and (link[1], link[0]) not in pairs)
    }
    _layer(groups, forward, band)
    return groups, forward


def _depths(graph: networkx.DiGraph) -> dict[Any, int]:
    """Return the longest path to each node; services count for nothing.

    A future of data stands right before the first that waits for it.
    """
    kinds = dict(graph.nodes(data="kind", default="task"))
    depth = dict.fromkeys(graph, 0)
    waiting = {node: len(parents) for node, parents in graph.pred.items()}
    order = [node for node, count in waiting.items() if not count]
    for node in order:  # grows while it is read; nodes on a cycle stay at what they have
        below = 0 if kinds[node] == "service" else depth[node] + 1
        for child in graph.succ[node]:
            depth[child] = max(depth[child], below)
            waiting[child] -= 1
            if not waiting[child]:
                order.append(child)
    for node, kind in kinds.items():
        if kind == "data" and graph.succ[node]:
            depth[node] = max(0, min(depth[child] for child in graph.succ[node]) - 1)
    return depth


def _group(graph: networkx.DiGraph, depth: dict[Any, int], band: float | None) -> list[Box]:
    """Group nodes of one kind and app whose depths are in one band; None: don't."""
    boxes: dict[Hashable, Box] = {}
    for node, data in graph.nodes(data=True):
        kind, app = data.get("kind", "task"), str(data.get("app", ""))
        # A service is never one of many: each has its own name.
        grouped = band is not None and kind != "service"
        name = (kind, app, int(depth[node] / (band or 1))) if grouped else node
        box = boxes.get(name)
        if box is None:
            box = boxes[name] = Box(kind, app)
        box.nodes.append(node)
        box.states[data.get("state", "pending")] += 1
        box.depth += depth[node]
    for box in boxes.values():
        box.depth /= len(box.nodes)
    return list(boxes.values())


def _merge_rare(boxes: list[Box]) -> list[Box]:
    """Put the smallest groups into one, where there are very many apps."""
    if len(boxes) <= 2 * MAX_BOXES:
        return boxes
    largest = sorted(boxes, key=lambda box: -len(box.nodes))
    kept, rare = largest[: MAX_BOXES - 1], largest[MAX_BOXES - 1 :]
    other = Box("task", f"{len({box.app for box in rare})} other apps")
    for box in rare:
        other.nodes += box.nodes
        other.states += box.states
        other.depth += box.depth * len(box.nodes)
    other.depth /= len(other.nodes)
    return [*kept, other]


def _layer(boxes: list[Box], links: Iterable[tuple[int, int, str]], band: float) -> None:
    """Set the columns: services first, then band by band, in each by the longest path.

    Links lead from smaller to greater depth, so that sorting by depth is an order in
    which each box comes after all before it.
    """
    shift = int(any(box.kind == "service" for box in boxes))
    children: dict[int, list[int]] = {}
    for one, two, _ in links:
        children.setdefault(one, []).append(two)
    for box in boxes:
        box.layer = 0
    floor = last = shift
    here = 0
    for one in sorted(range(len(boxes)), key=lambda i: boxes[i].depth):
        box = boxes[one]
        if box.kind == "service":
            continue
        if int(box.depth / band) != here:
            here, floor = int(box.depth / band), last + 1
        box.layer = max(box.layer, floor)
        last = max(last, box.layer)
        for two in children.get(one, ()):
            boxes[two].layer = max(boxes[two].layer, box.layer + 1)
    for one, box in enumerate(boxes):
        if box.kind == "data" and one in children:
            box.layer = max(shift, min(boxes[two].layer for two in children[one]) - 1)


__all__ = ["Box", "Links", "boxes_of"]
