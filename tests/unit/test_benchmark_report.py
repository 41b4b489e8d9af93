# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark's arithmetic and its page: no peer and no process is needed."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from benchmarks import readme, report, tables
from benchmarks.engine import Run, plan
from benchmarks.peers import BACKENDS
from benchmarks.runner import Outcome
from benchmarks.targets import PROCESS_ROWS

if TYPE_CHECKING:
    from pathlib import Path

PAGE = f"# Title\n\nProse above.\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nNotes below.\n"


@pytest.fixture
def run() -> Run:
    """Two rounds of us and of one peer; another peer is missing."""
    run = Run(quick=False, rounds=2, created="2026-01-02T03:04:05+00:00", load=[1.5, 2.5])
    run.machine = {"processor": "a processor", "cores": "2"}
    for rate, latency in ((200_000.0, 100.0), (100_000.0, 300.0)):
        figures = {"noop.tasks_per_s": rate, "latency.p50_us": latency, "layered.n": 10_000.0}
        run.add("ssdag", Outcome(figures, version="1.0"))
    for rate in (1_000.0, 3_000.0):
        figures = {"noop.tasks_per_s": rate, "latency.p50_us": 1_000.0, "layered.n": 1_000.0}
        run.add("htex", Outcome(figures, version="2.0"))
    run.add("ray", Outcome(errors={"start": "ImportError: no ray\nhere"}))
    return run


def test_medians_are_taken_over_rounds(run: Run) -> None:
    assert run.median("ssdag", "noop.tasks_per_s") == 150_000
    assert run.median("ssdag", "chain.us_per_node") is None
    assert run.median("dask", "noop.tasks_per_s") is None


def test_a_ratio_reads_times_better_whichever_way_the_figure_runs() -> None:
    rows = {row.key: row for row in PROCESS_ROWS}
    assert rows["noop.tasks_per_s"].ratio(100, 10) == 10
    assert rows["latency.p50_us"].ratio(10, 100) == 10


def test_gates_compare_ratios_of_medians(run: Run) -> None:
    judged = {(g.what, g.target): g for g in tables.gates(run)}
    rate = judged["Worker processes, no-op tasks", "≥ 75x of Parsl HTEX"]
    assert (rate.measured, rate.met) == ("75x", True)
    latency = judged["Worker processes, one task, p50", "≥ 7x of Parsl HTEX"]
    assert (latency.measured, latency.met) == ("5x", False)
    assert judged["Worker processes, one task, p50", "≤ 200 µs"].met


def test_every_row_with_a_gate_names_known_peers() -> None:
    for row in PROCESS_ROWS:
        assert set(row.ratios) <= set(BACKENDS)


def test_a_peer_that_failed_is_one_line(run: Run) -> None:
    assert tables.failures(run) == ["Ray, start: ImportError: no ray here"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (251_432.0, "251,000"),
        (999.6, "1e+03"),
        (12.34, "12.3"),
        (0.0001234, "0.000123"),
        (0.00000012, "0"),
        (0.0, "0"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert tables.number(value) == text.replace("1e+03", "1,000")


def test_the_page_keeps_its_prose(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE, encoding="utf-8")
    run.save(tmp_path / "engine.json")
    tensors = {"notes": ["Taken."], "tables": [{"title": "Put", "columns": ["a"], "rows": [[1]]}]}
    (tmp_path / "tensors.json").write_text(json.dumps(tensors), encoding="utf-8")
    short = tmp_path / "README.md"
    short.write_text(PAGE, encoding="utf-8")
    report.write(page, tmp_path, short)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nProse above.\n")
    assert text.endswith(f"{report.END}\n\nNotes below.\n")
    assert "old" not in text
    assert "| no-op tasks | 75x (✓ 75x) |" in text
    assert "| no-op tasks | 1/s | 150,000 | 2,000 | ≥ 100,000 |" in text
    assert "Parsl HTEX: layered 1,000" in text
    assert "### Put" in text
    report.write(page, tmp_path, short)
    assert page.read_text(encoding="utf-8") == text


def test_the_readme_gets_short_tables(run: Run, tmp_path: Path) -> None:
    page, short = tmp_path / "benchmarks.md", tmp_path / "README.md"
    for path in (page, short):
        path.write_text(PAGE, encoding="utf-8")
    report.write(page, tmp_path, short)
    assert f"{report.BEGIN}\n\nNothing has been measured yet.\n" in short.read_text(
        encoding="utf-8"
    )
    run.save(tmp_path / "engine.json")
    times = {"ssdag unix": 100.0, "redis-py unix": 1250.0, "ssdag tcp": 1.0}
    tensors = {
        "machine": {"server": "valkey 9", "redis": "8", "hiredis": "3"},
        "rows": [
            {"size": "1 KiB", "method": method, "put_us": us, "get_us": 2 * us}
            for method, us in times.items()
        ],
    }
    (tmp_path / "tensors.json").write_text(json.dumps(tensors), encoding="utf-8")
    report.write(page, tmp_path, short)
    text = short.read_text(encoding="utf-8")
    assert text.startswith("# Title\n\nProse above.\n")
    assert text.endswith(f"{report.END}\n\nNotes below.\n")
    assert "| two workers | unit | ssdag | Parsl HTEX |" in text
    assert "| no-op tasks | 1/s | 150,000 | 75x |" in text
    assert "| 1 KiB | 100 µs | 1.25 ms | 12x | 200 µs | 2.5 ms | 12x |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(268.4, "268x"), (99.6, "100x"), (85.3, "85x"), (9.96, "10x"), (0.039, "0.039x")],
)
def test_factors_have_two_digits(value: float, text: str) -> None:
    assert readme.factor(value) == text


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="figures: begin"):
        report.rewrite("# Title", "body")


def test_nothing_measured_yet(tmp_path: Path) -> None:
    assert report.section(tmp_path) == "Nothing has been measured yet."


def test_results_of_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(ValueError, match="another version"):
        Run.read(path)


def test_results_survive_a_round_trip(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "engine.json")
    assert Run.read(tmp_path / "engine.json") == run


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    jobs = plan(["ray", "joblib", "launch-popen"])
    assert [(j.name, j.measures) for j in jobs] == [
        ("ray", ()),
        ("ray", ("pending",)),
        ("joblib", ()),
        ("launch-popen", ()),
    ]
    assert [j.measures for j in plan(["ray"], ["noop", "pending"])] == [("noop",), ("pending",)]


def test_the_terminal_shows_what_was_missed(run: Run) -> None:
    console = Console(file=io.StringIO(), width=200)
    tables.show(run, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "missed: Worker processes, one task, p50: 5x, wanted ≥ 7x of Parsl HTEX" in text
    assert "not measured: Ray, start" in text
