# SPDX-License-Identifier: BSD-3-Clause
"""Places boxes in columns: few crossings, links as straight as can be.

The layered method of Sugiyama, Tagawa and Toda (1981): a link over several columns
gets a way-point in each, columns are sorted by the mean place of their neighbours, and
heights follow by least squares with the order kept. Links of one box and kind share
their way-points, so that a fan becomes one line that branches late.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.dataflow.graph_boxes import Box, Links

#: A column with more boxes is split into several.
MAX_ROWS = 14
_MAX_POINTS = 2500
_SWEEPS = 10
ROW_GAP = 18.0
POINT_HEIGHT = 6.0
POINT_GAP = 5.0


@dataclass(slots=True)
class Spot:
    """A box or a way-point, with its place; services and their lines are quiet."""

    box: int | None
    layer: int
    height: float
    y: float = 0.0
    quiet: bool = False
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Layout:
    """Where everything goes.

    Attributes
    ----------
    spots : list of Spot
        First the boxes, in their order, then the way-points.
    columns : list of list of int
        Indices of spots, top to bottom.
    segments : dict
        ``(spot, spot, kind)`` to the number of edges, each to be drawn once.
    """

    spots: list[Spot]
    columns: list[list[int]]
    segments: dict[tuple[int, int, str], int]


def lay_out(boxes: Sequence[Box], links: Links, heights: Sequence[float]) -> Layout:
    """Place boxes of the given heights (pixels); their ``layer`` is made final here."""
    _split_tall(boxes)
    spots = [
        Spot(i, box.layer, height)
        for i, (box, height) in enumerate(zip(boxes, heights, strict=True))
    ]
    for spot, box in zip(spots, boxes, strict=True):
        spot.quiet = box.kind == "service"
    segments = _route(spots, links)
    for one, two, _ in segments:
        if two not in spots[one].after:
            spots[one].after.append(two)
            spots[two].before.append(one)
    columns: list[list[int]] = [[] for _ in range(max((s.layer for s in spots), default=-1) + 1)]
    for i, spot in enumerate(spots):
        columns[spot.layer].append(i)
    _sort(spots, columns)
    _set_heights(spots, columns)
    return Layout(spots, columns, segments)


def _split_tall(boxes: Sequence[Box]) -> None:
    """Give tall columns further columns to their right.

    Boxes of one column have no links among them, so any split is right.
    """
    members: dict[int, list[Box]] = {}
    for box in boxes:
        members.setdefault(box.layer, []).append(box)
    column = 0
    for layer in sorted(members):
        group = members[layer]
        parts = -(-len(group) // MAX_ROWS)
        for i, box in enumerate(group):
            box.layer = column + i % parts
        column += parts


def _route(spots: list[Spot], links: Links) -> dict[tuple[int, int, str], int]:
    """Cut long links at way-points, which are added to `spots`."""
    reach: dict[tuple[int, str], int] = {}
    for one, two, kind in links:
        reach[one, kind] = max(reach.get((one, kind), 0), spots[two].layer)
    wanted = sum(last - spots[one].layer - 1 for (one, _), last in reach.items())
    direct = wanted > _MAX_POINTS
    points: dict[tuple[int, str, int], int] = {}
    segments: dict[tuple[int, int, str], int] = {}
    for (one, two, kind), count in links.items():
        here = one
        if not direct:
            for layer in range(spots[one].layer + 1, spots[two].layer):
                point = points.get((one, kind, layer))
                if point is None:
                    point = points[one, kind, layer] = len(spots)
                    spots.append(Spot(None, layer, POINT_HEIGHT, quiet=kind == "service"))
                segments[here, point, kind] = segments.get((here, point, kind), 0) + count
                here = point
        segments[here, two, kind] = segments.get((here, two, kind), 0) + count
    return segments


# -- order ---------------------------------------------------------------------------


def _sort(spots: list[Spot], columns: list[list[int]]) -> None:
    """Sort each column by the mean place of its neighbours, to and fro; keep the best."""
    place = {i: float(n) for column in columns for n, i in enumerate(column)}
    best, fewest = [list(c) for c in columns], _crossings(spots, columns, place)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        for column in columns if forward else columns[::-1]:
            mean = {}
            for i in column:
                near = spots[i].before if forward else spots[i].after
                mean[i] = sum(place[j] for j in near) / len(near) if near else place[i]
            column.sort(key=mean.__getitem__)
            for n, i in enumerate(column):
                place[i] = float(n)
        crossings = _crossings(spots, columns, place)
        if crossings < fewest:
            best, fewest = [list(c) for c in columns], crossings
        if not fewest:
            break
    columns[:] = best


def _crossings(spots: list[Spot], columns: list[list[int]], place: dict[int, float]) -> int:
    total = 0
    for column in columns:
        seen: list[float] = []
        for i in column:
            ends = sorted(place[j] for j in spots[i].after)
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


# -- heights -------------------------------------------------------------------------


def _set_heights(spots: list[Spot], columns: list[list[int]]) -> None:
    for column in columns:
        offsets = _offsets(spots, column)
        middle = offsets[-1] / 2 if offsets else 0.0
        for i, offset in zip(column, offsets, strict=True):
            spots[i].y = offset - middle
    for sweep in range(2 * _SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            offsets = _offsets(spots, column)
            # First one side after the other, which carries far; then both, which evens out.
            side = sweep % 2 if sweep < _SWEEPS else 2
            places = [_wanted(spots[i], spots, side) for i in column]
            known = [place for place in places if place is not None]
            middle = sum(known) / len(known) if known else 0.0
            wanted = [
                (middle if place is None else place) - offset
                for place, offset in zip(places, offsets, strict=True)
            ]
            weights = [_weight(spots[i]) for i in column]
            for i, offset, y in zip(column, offsets, _rising(wanted, weights), strict=True):
                spots[i].y = y + offset


def _offsets(spots: list[Spot], column: list[int]) -> list[float]:
    """Return how far below the first each spot of a column must be at least."""
    offsets: list[float] = []
    for n, i in enumerate(column):
        if not n:
            offsets.append(0.0)
            continue
        above = spots[column[n - 1]]
        both = above.box is not None and spots[i].box is not None
        gap = ROW_GAP if both else POINT_GAP
        offsets.append(offsets[-1] + (above.height + spots[i].height) / 2 + gap)
    return offsets


def _wanted(spot: Spot, spots: list[Spot], side: int) -> float | None:
    near = (spot.before, spot.after, spot.before + spot.after)[side]
    near = near or spot.before or spot.after
    if not spot.quiet:
        # The line of a service runs along below: what it feeds should not sink to it.
        near = [j for j in near if not spots[j].quiet] or near
    return sum(spots[j].y for j in near) / len(near) if near else None


def _weight(spot: Spot) -> float:
    """Return how hard a spot pulls: a bend shows more than a box that is a bit off."""
    if spot.box is None:
        return 0.05 if spot.quiet else 3.0
    return 1.0 if spot.before or spot.after else 0.01


def _rising(values: list[float], weights: list[float]) -> list[float]:
    """Return the closest list that never falls (weighted least squares).

    Pool adjacent violators; see Barlow et al., Statistical Inference under Order
    Restrictions (1972).
    """
    pools: list[list[float]] = []  # mean, weight, count
    for value, weight in zip(values, weights, strict=True):
        pools.append([value, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, mass, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * mass) / (last[1] + mass)
            last[1] += mass
            last[2] += count
    return [mean for mean, _, count in pools for _ in range(int(count))]


__all__ = ["Layout", "Spot", "lay_out"]
