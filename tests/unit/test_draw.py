# SPDX-License-Identifier: BSD-3-Clause
"""The picture of a graph: valid, complete, readable at any size."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.dataflow.draw import draw_svg
from ssdag.dataflow.graph_boxes import MAX_BOXES, boxes_of
from ssdag.dataflow.graph_layout import MAX_ROWS, lay_out
from ssdag.errors import ConfigError
from ssdag.states import ServiceState, TaskState

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


def add(graph: networkx.DiGraph, node: Any, app: str, state: str = "done", **more: Any) -> None:
    times = {"submitted_s": 1.0, "started_s": 1.5, "ended_s": 2.75} if state == "done" else {}
    graph.add_node(node, **{"app": app, "state": state, "kind": "task", **times, **more})


def small() -> networkx.DiGraph:
    graph = networkx.DiGraph()
    add(graph, "orchestrator", "Orchestrator", "ready", kind="service")
    add(graph, "tensor u.3", "tensor", kind="data")
    for i in range(4):
        add(graph, i, "simulate", executor="local")
        graph.add_edge("orchestrator", i, kind="service")
        graph.add_edge(i, 4, kind="data")
    add(graph, 4, 'train <&> "test"', "running")
    add(graph, 5, "report", "pending")
    add(graph, 6, "search", "joining")
    add(graph, 7, "simulate", "memo_done")
    for edge in ((4, 5, "after"), (5, 6, "join"), (0, 7, "memo"), ("tensor u.3", 4, "data")):
        graph.add_edge(edge[0], edge[1], kind=edge[2])
    graph.add_edge("orchestrator", 6, kind="service")
    return graph


def search(rounds: int = 6, each: int = 200) -> networkx.DiGraph:
    graph, last = networkx.DiGraph(), None
    for _ in range(rounds):
        first = len(graph)
        for i in range(first, first + each):
            add(graph, i, "simulate", "failed" if i % 100 == 3 else "done")
            if last is not None:
                graph.add_edge(last, i, kind="data")
        last = len(graph)
        add(graph, last, "train")
        graph.add_edges_from(((i, last) for i in range(first, last)), kind="data")
    return graph


def read(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def texts(root: ElementTree.Element) -> str:
    return "\n".join("".join(e.itertext()) for e in root.iter(f"{SVG}text"))


def test_a_small_graph_shows_every_node(tmp_path: Path) -> None:
    path = draw_svg(small(), tmp_path / "new" / "graph.svg")
    assert path == tmp_path / "new" / "graph.svg"
    root = read(path)
    seen = texts(root)
    for label in (
        "simulate #0",
        "simulate #3",
        'train <&> "test" #4',
        "orchestrator",
        "tensor u.3",
    ):
        assert label in seen
    assert "8 tasks" in seen
    for word in ("from memo", "joining", "data", "after", "join", "service"):  # the legend
        assert word in seen
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert "simulate #1\ndone on local\nwaited 500 ms\nran 1.25 s" in titles
    dashes = {e.get("stroke-dasharray") for e in root.iter()}
    assert {"6 4", "0.1 4.2", "2 3"} <= dashes
    assert "NaN" not in path.read_text()
    assert "nan" not in path.read_text()


def test_services_stand_at_the_left_and_links_lead_to_the_right() -> None:
    boxes, links = boxes_of(small())
    by_node = {box.nodes[0]: box for box in boxes}
    assert by_node["orchestrator"].layer == 0
    assert all(box.layer > 0 for box in boxes if box.kind != "service")
    assert by_node["tensor u.3"].layer == by_node[4].layer - 1
    assert all(boxes[one].layer < boxes[two].layer for one, two, _ in links)
    assert len(links) == small().number_of_edges()


def test_a_large_graph_is_drawn_by_groups(tmp_path: Path) -> None:
    path = draw_svg(search(), tmp_path / "g.svg")
    seen = texts(read(path))
    assert seen.count("simulate \u00d7200") == 6
    assert "198 done, 2 failed" in seen
    assert "train #200" in seen  # one alone keeps its number
    assert path.stat().st_size < 30_000
    title = next(t.text for t in read(path).iter(f"{SVG}title") if "\u00d7200" in (t.text or ""))
    assert title is not None
    assert "ran 1.25 s to 1.25 s, median 1.25 s" in title


@pytest.mark.parametrize("shape", ["random", "chain", "wide", "apps"])
def test_ten_thousand_nodes(tmp_path: Path, shape: str) -> None:
    rng = random.Random(2)
    graph = networkx.DiGraph()
    for i in range(10_000):
        add(graph, i, f"app{i if shape == 'apps' else i % 5}", rng.choice(["done", "failed"]))
        if shape == "chain" and i:
            graph.add_edge(i - 1, i, kind="data")
    for _ in range(30_000 if shape in ("random", "apps") else 0):
        child = rng.randrange(1, 10_000)
        graph.add_edge(rng.randrange(max(0, child - 400), child), child, kind="data")
    start = time.process_time()
    path = draw_svg(graph, tmp_path / "g.svg")
    assert time.process_time() - start < 3
    assert path.stat().st_size < 600_000
    boxes, _ = boxes_of(graph)
    assert len(boxes) <= 2 * MAX_BOXES
    assert sum(len(box.nodes) for box in boxes) == 10_000
    assert sum(sum(box.states.values()) for box in boxes) == 10_000


def boxes_drawn(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = []
    for group in root.iter(f"{SVG}g"):
        rects = [r for r in group.findall(f"{SVG}rect") if r.get("stroke-width") == "1.4"]
        for rect in rects:
            x, y, w, h = (float(rect.get(k) or 0) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59), st.sampled_from(["data", "join"]))),
)
def test_boxes_never_overlap(
    tmp_path_factory: pytest.TempPathFactory, count: int, edges: list[tuple[int, int, str]]
) -> None:
    graph = networkx.DiGraph()
    for i in range(count):
        add(graph, i, f"app{i % 3}")
    for one, two, kind in edges:
        if one < two < count:
            graph.add_edge(one, two, kind=kind)
    root = read(draw_svg(graph, tmp_path_factory.mktemp("d") / "g.svg"))
    boxes = boxes_drawn(root)
    assert len(boxes) == count
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width
        assert y1 <= height
        for u0, v0, u1, v1 in boxes[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
    numbers = re.findall(
        r"-?\d+\.?\d*", " ".join(p.get("d") or "" for p in root.iter(f"{SVG}path"))
    )
    assert all(-1 <= float(n) <= max(width, height) for n in numbers)


def test_tall_columns_are_split_and_wide_graphs_broken_into_rows(tmp_path: Path) -> None:
    wide = networkx.DiGraph()
    for i in range(100):
        add(wide, i, "a")
    boxes, links = boxes_of(wide)
    layout = lay_out(boxes, links, [40.0] * 100)
    assert max(map(len, layout.columns)) <= MAX_ROWS
    chain = networkx.path_graph(100, create_using=networkx.DiGraph)
    root = read(draw_svg(chain, tmp_path / "g.svg"))
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    assert width < 4 * height
    assert width < 3000


def test_crossings_are_avoided() -> None:
    # Two chains whose nodes are numbered so that the naive order crosses everywhere.
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(6))
    graph.add_edges_from([(0, 3), (1, 2), (2, 5), (3, 4)])
    boxes, links = boxes_of(graph)
    layout = lay_out(boxes, links, [40.0] * 6)
    for one, two, _ in layout.segments:
        assert layout.spots[one].y == pytest.approx(layout.spots[two].y, abs=1)


@pytest.mark.parametrize("state", [s.name.lower() for s in (*TaskState, *ServiceState)])
def test_every_state_can_be_drawn(tmp_path: Path, state: str) -> None:
    graph = networkx.DiGraph()
    add(graph, 0, "a", state)
    add(graph, "db", "Orchestrator", state, kind="service")
    assert draw_svg(graph, tmp_path / "g.svg").exists()


def test_odd_graphs(tmp_path: Path) -> None:
    for graph in (
        networkx.DiGraph(),
        networkx.DiGraph([(1, 1)]),
        networkx.DiGraph([(1, 2), (2, 1), (2, 3)]),
        networkx.DiGraph([("a", "b")]),
    ):
        read(draw_svg(graph, tmp_path / "g.SVG"))


def test_other_formats_are_refused(tmp_path: Path) -> None:
    for name in ("g.png", "g", "g.svg.pdf"):
        with pytest.raises(ConfigError, match=r"must end in \.svg"):
            draw_svg(small(), tmp_path / name)
