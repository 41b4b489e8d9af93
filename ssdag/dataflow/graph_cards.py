# SPDX-License-Identifier: BSD-3-Clause
"""The boxes, the legend and the texts of the picture of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    import networkx

    from ssdag.dataflow.graph_boxes import Box

#: State: (border and bar, fill).
COLOURS = {
    "pending": ("#8d97a8", "#eef1f5"),
    "ready": ("#4f8fd6", "#e6f0fb"),
    "launched": ("#2f6fc4", "#d8e7fa"),
    "running": ("#e0951b", "#fdf0d5"),
    "joining": ("#17959b", "#d9f3f3"),
    "done": ("#2f9e61", "#ddf4e6"),
    "memo_done": ("#6aa84f", "#f0f7e8"),
    "failed": ("#d64545", "#fbe0e0"),
    "dep_failed": ("#e08a8a", "#fdf1f1"),
    "cancelled": ("#a07f9f", "#f4ecf4"),
}
_SERVICE = ("#7a5bd0", "#ebe5fb")
_BROKEN = ("failed", "degraded")
#: Kind: (colour, width, dashes).
EDGES = {
    "data": ("#8592a8", 1.4, ""),
    "after": ("#8592a8", 1.3, "6 4"),
    "join": ("#17959b", 1.8, "0.1 4.2"),
    "service": ("#8f74dd", 3.2, ""),
    "memo": ("#b3bac6", 1.1, "2 3"),
}
_INK, _DIM = "#1d2733", "#566274"
LOOSE = "#7b8698"
_HEIGHT, _GROUP_HEIGHT, _SERVICE_HEIGHT = 42.0, 48.0, 54.0


class Card:
    """One box: its texts and its shape."""

    def __init__(self, box: Box, graph: networkx.DiGraph) -> None:
        self.box = box
        self.count = len(box.nodes)
        first = graph.nodes[box.nodes[0]]
        if self.count > 1:
            self.name, self.mark = box.app, f"\u00d7{self.count:,}"
            self.detail = ", ".join(f"{n:,} {word(s)}" for s, n in _in_order(box.states))
            self.title = _group_title(box, graph)
        else:
            node, state = box.nodes[0], str(first.get("state", "pending"))
            task = box.kind == "task"
            self.name, self.mark = (box.app, f"#{node}") if task else (str(node), "")
            span = _span(first)
            self.detail = word(state) if span is None or not task else duration(span)
            if state not in ("done", "memo_done") and span is not None and task:
                self.detail = f"{word(state)}, {self.detail}"
            self.title = _node_title(node, first)
        self.name = self.name if len(self.name) <= 26 else self.name[:25] + "…"
        self.height = _GROUP_HEIGHT if self.count > 1 else _HEIGHT
        if box.kind == "service":
            self.height = _SERVICE_HEIGHT
        texts = 7.3 * len(self.name) + 6.8 * len(self.mark) + 6, 6.1 * len(self.detail)
        self.width = min(300.0, max(92.0, *texts) + 26)

    def draw(self, x: float, y: float) -> Iterator[str]:
        state = _in_order(self.box.states)[0][0]
        border, fill = COLOURS.get(state, COLOURS["pending"])
        yield f"<g><title>{escape(self.title)}</title>"
        if self.box.kind == "service":
            border = COLOURS["failed"][0] if state in _BROKEN else _SERVICE[0]
            yield from _cylinder(x, y, self.width, self.height, border)
        else:
            radius = self.height / 2 if self.box.kind == "data" else 7
            dash = ' stroke-dasharray="4 3"' if self.box.kind == "data" else ""
            shape = f'width="{self.width:.1f}" height="{self.height:.0f}" rx="{radius:.0f}"'
            shape += f' fill="{fill}" stroke="{border}"'
            if self.count > 1:
                yield f'<rect x="{x + 4:.1f}" y="{y + 4:.1f}" {shape} opacity=".55"/>'
            yield f'<rect x="{x:.1f}" y="{y:.1f}" {shape} stroke-width="1.4"{dash}/>'
        left = x + (18 if self.box.kind == "data" else 13)
        line = y + (18 if self.box.kind != "service" else 28)
        mark = f' <tspan font-weight="400" fill="{_DIM}">{escape(self.mark)}</tspan>'
        yield (
            f'<text x="{left:.1f}" y="{line:.1f}" font-weight="600" fill="{_INK}">'
            f"{escape(self.name)}{mark if self.mark else ''}</text>"
        )
        yield (
            f'<text x="{left:.1f}" y="{line + 15:.1f}" font-size="10.5" fill="{_DIM}">'
            f"{escape(self.detail)}</text>"
        )
        if self.count > 1:
            yield from self._bar(x + 12, y + self.height - 9, self.width - 24)
        yield "</g>"

    def _bar(self, x: float, y: float, width: float) -> Iterator[str]:
        """Draw which part is in which state; a state that occurs can be seen."""
        states = sorted(self.box.states.items(), key=lambda item: _place(item[0]))
        shares = [max(n / self.count * width, 2.5) for _, n in states]
        scale = width / sum(shares)
        for (state, _), share in zip(states, shares, strict=True):
            colour = COLOURS.get(state, COLOURS["pending"])[0]
            yield (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{share * scale:.1f}" height="4" '
                f'fill="{colour}"/>'
            )
            x += share * scale


def _cylinder(x: float, y: float, width: float, height: float, border: str) -> Iterator[str]:
    rise = 6.0
    right, low, high = x + width, y + height - rise, y + rise
    arc = f"A{width / 2:.1f} {rise:.0f} 0 0"
    yield (
        f'<path d="M{x:.1f} {high:.1f}V{low:.1f}{arc} 0 {right:.1f} {low:.1f}V{high:.1f}'
        f'{arc} 0 {x:.1f} {high:.1f}z" fill="{_SERVICE[1]}" stroke="{border}" stroke-width="1.4"/>'
    )
    yield (
        f'<path d="M{x:.1f} {high:.1f}{arc} 0 {right:.1f} {high:.1f}" fill="none" '
        f'stroke="{border}" stroke-width="1.4"/>'
    )


# -- texts ---------------------------------------------------------------------------


def legend(
    states: Counter[str], kinds: list[str], left: float, y: float
) -> Iterator[tuple[float, str]]:
    """Yield the width that it takes, then its parts."""
    x, parts = left, []
    text = f'y="{y:.1f}" font-size="11" fill="{LOOSE}"'
    for state in (s for s in COLOURS if states[s]):
        border, fill = COLOURS[state]
        parts.append(
            f'<rect x="{x:.1f}" y="{y - 9:.1f}" width="14" height="11" rx="3" fill="{fill}" '
            f'stroke="{border}" stroke-width="1.4"/>'
            f'<text x="{x + 20:.1f}" {text}>{word(state)}</text>'
        )
        x += 38 + 6.3 * len(word(state))
    for kind in kinds:
        colour, width, dashes = EDGES[kind]
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<path d="M{x:.1f} {y - 3.5:.1f}h24" stroke="{colour}" stroke-width="{width}" '
            f'stroke-linecap="round"{dash}/><text x="{x + 31:.1f}" {text}>{kind}</text>'
        )
        x += 50 + 6.3 * len(kind)
    yield x, ""
    for part in parts:
        yield x, part


def word(state: str) -> str:
    return {"memo_done": "from memo", "dep_failed": "parent failed"}.get(state, state)


def _place(state: str) -> int:
    return list(COLOURS).index(state) if state in COLOURS else len(COLOURS)


def _in_order(states: Counter[str]) -> list[tuple[str, int]]:
    return sorted(states.items(), key=lambda item: (-item[1], _place(item[0])))


def _span(data: dict[str, Any]) -> float | None:
    started, ended = data.get("started_s"), data.get("ended_s")
    return None if started is None or ended is None else float(ended - started)


def duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _node_title(node: Any, data: dict[str, Any]) -> str:
    lines = [f"{data.get('app', '')} #{node}" if data.get("kind", "task") == "task" else str(node)]
    lines.append(word(str(data.get("state", "pending"))))
    if data.get("executor"):
        lines[-1] += f" on {data['executor']}"
    submitted, started = data.get("submitted_s"), data.get("started_s")
    if submitted is not None and started is not None and started >= submitted:
        lines.append(f"waited {duration(started - submitted)}")
    span = _span(data)
    if span is not None:
        lines.append(f"ran {duration(span)}")
    return "\n".join(lines)


def _group_title(box: Box, graph: networkx.DiGraph) -> str:
    lines = [f"{box.app} \u00d7{len(box.nodes):,}"]
    lines += [f"{n:,} {word(s)}" for s, n in _in_order(box.states)]
    spans = sorted(s for n in box.nodes if (s := _span(graph.nodes[n])) is not None)
    if spans:
        low, middle, high = spans[0], spans[len(spans) // 2], spans[-1]
        lines.append(f"ran {duration(low)} to {duration(high)}, median {duration(middle)}")
        lines.append(f"{duration(sum(spans))} in all")
    ids = [str(n) for n in box.nodes[:8]]
    lines.append("ids " + ", ".join(ids) + (", ..." if len(box.nodes) > 8 else ""))
    return "\n".join(lines)


__all__ = ["COLOURS", "EDGES", "LOOSE", "Card", "duration", "legend", "word"]
