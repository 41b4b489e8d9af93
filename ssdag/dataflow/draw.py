# SPDX-License-Identifier: BSD-3-Clause
"""Draws a graph as SVG, with nothing but the standard library.

No background is painted: boxes bring their own, lines and loose text are of a middle
tone, so that the picture can stand on a light page and on a dark one. Small graphs show
every node; large ones show groups of nodes of one app (see
:mod:`ssdag.dataflow.graph_boxes`).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from ssdag.dataflow.graph_boxes import boxes_of
from ssdag.dataflow.graph_cards import COLOURS, EDGES, LOOSE, Card, duration, legend, word
from ssdag.dataflow.graph_layout import Layout, lay_out
from ssdag.dataflow.graph_rows import MARGIN, Rows
from ssdag.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import networkx

_FONT = "font-family=\"Inter,'Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif\""


def draw_svg(graph: networkx.DiGraph, path: str | os.PathLike[str]) -> Path:
    """Draw a graph.

    Parameters
    ----------
    graph : networkx.DiGraph
        As ``engine.graph()`` returns it. Attributes that are missing are taken as a
        pending task and an edge of data.
    path : str or os.PathLike
        Must end in ``.svg``; its folder is made if it is not there.

    Returns
    -------
    pathlib.Path
        The file, absolute.

    Raises
    ------
    ConfigError
        The name does not end in ``.svg``.
    OSError
        The file cannot be written.
    """
    target = Path(path).absolute()
    if target.suffix.lower() != ".svg":
        raise ConfigError(
            f"the picture {target.name!r} must end in .svg: no other format is drawn "
            "(rsvg-convert or a browser turn it into PNG or PDF)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(_picture(graph)) + "\n", encoding="utf-8")
    return target


def _picture(graph: networkx.DiGraph) -> Iterator[str]:
    boxes, links = boxes_of(graph)
    cards = [Card(box, graph) for box in boxes]
    layout = lay_out(boxes, links, [card.height for card in cards])
    rows = Rows(layout, cards)
    kinds = [kind for kind in EDGES if any(link[2] == kind for link in links)]
    states = Counter(d.get("state", "pending") for _, d in _tasks(graph))
    key = list(legend(states, kinds, MARGIN, rows.bottom + 34))
    width = max(rows.width, key.pop(0)[0] + MARGIN)
    height = rows.bottom + 62
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" {_FONT} font-size="12">'
    )
    yield "<defs>"
    for kind in kinds:
        yield (
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            f'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0.5 0.8 7.5 4 0.5 7.2 2.2 4z" fill="{EDGES[kind][0]}"/></marker>'
        )
    yield "</defs>"
    yield (
        f'<text x="{MARGIN:.0f}" y="27" font-size="13" fill="{LOOSE}">'
        f"{escape(_headline(graph, states))}</text>"
    )
    yield from _lines(layout, rows)
    for i, card in enumerate(cards):
        yield from card.draw(*rows.corner(i))
    for _, text in key:
        yield text
    yield "</svg>"


def _tasks(graph: networkx.DiGraph) -> list[tuple[Any, dict[str, Any]]]:
    return [(n, d) for n, d in graph.nodes(data=True) if d.get("kind", "task") == "task"]


def _headline(graph: networkx.DiGraph, states: Counter[str]) -> str:
    total = sum(states.values())
    parts = [f"{total:,} task{'s' if total != 1 else ''}"]
    parts += [f"{states[s]:,} {word(s)}" for s in COLOURS if states[s]]
    tasks = [d for _, d in _tasks(graph)]
    begun = [d["submitted_s"] for d in tasks if d.get("submitted_s") is not None]
    ended = [d["ended_s"] for d in tasks if d.get("ended_s") is not None]
    if begun and ended:
        parts.append(duration(max(ended) - min(begun)))
    return "  ·  ".join(parts)


# -- lines ---------------------------------------------------------------------------


def _lines(layout: Layout, rows: Rows) -> Iterator[str]:
    # Services below, so that the flow of data lies on top of them.
    many = len(layout.segments)
    fade = 0.95 if many < 60 else 0.75 if many < 300 else 0.45
    for kind in ("service", "memo", "after", "join", "data"):
        segments = [(s, n) for s, n in layout.segments.items() if s[2] == kind]
        if not segments:
            continue
        colour, width, dashes = EDGES[kind]
        style = f'fill="none" stroke="{colour}" stroke-linecap="round"'
        style += f' stroke-dasharray="{dashes}"' if dashes else ""
        yield f'<g {style} opacity="{0.55 if kind == "service" else fade}">'
        for (one, two, _), count in segments:
            arrow = layout.spots[two].box is not None
            thick = width * min(
                1.6 if kind == "service" else 2.6, 1 + 0.2 * (count.bit_length() - 1)
            )
            title = f"<title>{count:,} edges ({kind})</title>" if count > 1 else ""
            yield (
                f'<path d="{rows.line(one, two)}" stroke-width="{thick:.1f}"'
                + (f' marker-end="url(#{kind})"' if arrow else "")
                + (f">{title}</path>" if title else "/>")
            )
        yield "</g>"


__all__ = ["draw_svg"]
