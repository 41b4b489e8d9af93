# SPDX-License-Identifier: BSD-3-Clause
"""Where columns stand on the page, and the lines between them.

A graph much wider than high is broken into rows, as a text is; a line to the next row
runs through the space between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.dataflow.graph_cards import Card
    from ssdag.dataflow.graph_layout import Layout, Spot

MARGIN, TOP = 24.0, 52.0
_COLUMN_GAP, _ROW_GAP, _GUTTER = 62.0, 34.0, 30.0
#: Rows are made where the picture is wider than this, to come near to the ratio.
_WIDE, _RATIO = 1700.0, 1.9
_LANE, _LANES = 5.0, 70.0
_ROUND = 9.0


class Rows:
    """The place of every spot, in pixels; cards get the width of their column.

    Attributes
    ----------
    width, bottom : float
        The right end of the picture, margin included, and the lower end of the boxes.
    """

    def __init__(self, layout: Layout, cards: Sequence[Card]) -> None:
        self.spots = layout.spots
        widths = self._widths(layout, cards)
        tops = [min(s.y - s.height / 2 for s in self._in(column)) for column in layout.columns]
        ends = [max(s.y + s.height / 2 for s in self._in(column)) for column in layout.columns]
        self._row = _break(widths, max(ends, default=0) - min(tops, default=0))
        self.lefts: list[float] = []
        self.width, self.bottom = 2 * MARGIN, TOP
        self._lane_count = [0] * (max(self._row, default=0) + 1)
        self._lane: dict[int, int] = {}
        for one, two, _ in layout.segments:
            row = self._row[self.spots[one].layer]
            if row != self._row[self.spots[two].layer] and one not in self._lane:
                self._lane[one] = self._lane_count[row]
                self._lane_count[row] += 1
        self._below: list[float] = []
        for row in range(len(self._lane_count)):
            members = [c for c, r in enumerate(self._row) if r == row]
            if members:
                self._place(row, members, widths, tops, ends)
        self.rights = [left + w for left, w in zip(self.lefts, widths, strict=True)]
        lanes = min(_LANES, _LANE * max(self._lane_count, default=0))
        self._far = max(self.rights, default=0.0) + 18
        if self.rights:
            self.width = max(self.rights) + MARGIN + (lanes + 24 if lanes else 0)

    def _in(self, column: Sequence[int]) -> list[Spot]:
        return [self.spots[i] for i in column]

    def _widths(self, layout: Layout, cards: Sequence[Card]) -> list[float]:
        widths = []
        for column in layout.columns:
            inside = [cards[box] for i in column if (box := self.spots[i].box) is not None]
            widths.append(max((card.width for card in inside), default=0.0))
            for card in inside:
                card.width = widths[-1]
        return widths

    def _place(
        self,
        row: int,
        members: Sequence[int],
        widths: Sequence[float],
        tops: Sequence[float],
        ends: Sequence[float],
    ) -> None:
        x = (
            MARGIN
            if row == 0
            else MARGIN + _GUTTER + min(_LANES, _LANE * self._lane_count[row - 1])
        )
        start = self.bottom + (_ROW_GAP if row else 0)
        shift = start - min(tops[c] for c in members)
        for column in members:
            self.lefts.append(x)
            x += widths[column] + _COLUMN_GAP
        inside = set(members)
        for spot in self.spots:
            if spot.layer in inside:
                spot.y += shift
        self._below.append(shift + max(ends[c] for c in members) + 16)
        self.bottom = shift + max(ends[c] for c in members)
        if self._lane_count[row]:
            self.bottom += min(_LANES, _LANE * self._lane_count[row])

    def corner(self, index: int) -> tuple[float, float]:
        """Return the upper left corner of a box."""
        spot = self.spots[index]
        return self.lefts[spot.layer], spot.y - spot.height / 2

    def line(self, one: int, two: int) -> str:
        """Return the path from a spot to another."""
        first, second = self.spots[one], self.spots[two]
        start = self.rights[first.layer]
        # A line goes straight through the column of a way-point, then bends.
        path = f"M{start if first.box is not None else self.lefts[first.layer]:.1f} {first.y:.1f}"
        if first.box is None:
            path += f"H{start:.1f}"
        end = self.lefts[second.layer] - (1.5 if second.box is not None else 0)
        row = self._row[first.layer]
        if row != self._row[second.layer]:
            return path + self._around(one, row, end, second.y)
        bend = (end - start) / 2
        return (
            f"{path}C{start + bend:.1f} {first.y:.1f} {end - bend:.1f} {second.y:.1f} "
            f"{end:.1f} {second.y:.1f}"
        )

    def _around(self, one: int, row: int, end: float, y: float) -> str:
        """Go out at the right, back between the rows, and in at the left."""
        lane = self._lane[one] * min(_LANE, _LANES / self._lane_count[row])
        right, between, left = self._far + lane, self._below[row] + lane, MARGIN + lane
        r = _ROUND
        here = self.spots[one].y
        down = 1 if between > here else -1
        last = 1 if y > between else -1
        return (
            f"H{right - r:.1f}Q{right:.1f} {here:.1f} {right:.1f} {here + down * r:.1f}"
            f"V{between - down * r:.1f}Q{right:.1f} {between:.1f} {right - r:.1f} {between:.1f}"
            f"H{left + r:.1f}Q{left:.1f} {between:.1f} {left:.1f} {between + last * r:.1f}"
            f"V{y - last * r:.1f}Q{left:.1f} {y:.1f} {left + r:.1f} {y:.1f}H{end:.1f}"
        )


def _break(widths: Sequence[float], height: float) -> list[int]:
    """Return the row of each column."""
    total = sum(widths) + _COLUMN_GAP * len(widths)
    if total <= _WIDE:
        return [0] * len(widths)
    wanted = max(1, round((total / (_RATIO * (height + 2 * _ROW_GAP))) ** 0.5))
    # A little more, so that the last row is not a single column.
    limit = max(total / wanted * 1.07, _WIDE * 0.7)
    rows, row, x = [], 0, 0.0
    for width in widths:
        if x + width > limit + 1 and x:
            row, x = row + 1, 0.0
        rows.append(row)
        x += width + _COLUMN_GAP
    return rows


__all__ = ["MARGIN", "Rows"]
