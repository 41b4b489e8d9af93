# SPDX-License-Identifier: BSD-3-Clause
"""``python -m benchmarks.report``: write the figures into the docs page and the README.

Only what stands between the two markers is rewritten; the prose around it is kept.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks import readme, tables
from benchmarks.child import CALM
from benchmarks.engine import RESULTS, Run, title
from benchmarks.peers import BACKENDS
from benchmarks.runner import ROOT
from benchmarks.tables import markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN = "<!-- figures: begin (written by `python -m benchmarks.report`) -->"
END = "<!-- figures: end -->"


def engine_section(run: Run) -> Iterator[str]:
    """The lines of the engine benchmark."""
    facts = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    what = "one short round" if run.quick else f"medians of {run.rounds} interleaved rounds"
    yield f"Taken {run.created[:10]}, {what}: {facts}."
    if run.load:
        yield (
            f"Load average while measuring: {min(run.load):.1f} to {max(run.load):.1f} "
            "(the benchmark itself is about 2)."
        )
    foreign = sorted(
        v for keys in run.values.values() for k, vs in keys.items() if k.endswith(".foreign")
        for v in vs
    )  # fmt: skip
    if foreign:
        calm = sum(v <= CALM for v in foreign) / len(foreign)
        yield (
            f"Other work on the machine took {foreign[len(foreign) // 2]:.0%} of the cores in the "
            f"median measure and {foreign[-1]:.0%} in the worst; {calm:.0%} of the measures were "
            f"calm (at most {CALM:.0%}). A disturbed measure is taken twice, and the "
            "calmest one counts."
        )
    versions = {BACKENDS[n][1]: v for n, v in run.versions.items() if v and n in BACKENDS}
    if versions:
        yield "Versions: " + ", ".join(f"{n} {v}" for n, v in versions.items()) + "."
    for table in tables.tables(run):
        yield from ("", f"### {table.heading}", "")
        yield from markdown_table(table.header, table.rows)
    yield from _sizes(run)
    yield from _gates(run)
    failed = tables.failures(run)
    if failed:
        yield from ("", "### Not measured", "", *(f"- {line}" for line in failed))


def _sizes(run: Run) -> Iterator[str]:
    """What the adaptive sizes were, where they differ from the full size."""
    full = {"chain": 1000, "fan": 2002, "layered": 10_000, "array_10mb": 100}
    smaller = []
    for name in run.values:
        found = {m: run.median(name, f"{m}.n") for m in full}
        cut = [f"{m} {n:,.0f}" for m, n in found.items() if n is not None and n < full[m]]
        if cut:
            smaller.append(f"{title(name)}: {', '.join(cut)}")
    if smaller:
        yield from ("", f"Smaller sizes, to keep a measure short: {'; '.join(smaller)}.")


def _gates(run: Run) -> Iterator[str]:
    judged = list(tables.gates(run))
    missed = [g for g in judged if not g.met]
    if not judged:
        return
    yield from ("", "### Targets", "", f"{len(judged) - len(missed)} of {len(judged)} are met.")
    if missed:
        yield ""
        rows = [[g.what, g.target, g.measured] for g in missed]
        yield from markdown_table(["missed", "target", "measured"], rows)


def notes_and_tables(data: dict[str, Any]) -> Iterator[str]:
    """The lines of a benchmark that wrote its notes and tables itself."""
    for note in data.get("notes", []):
        yield from ("", str(note))
    for table in data.get("tables", []):
        yield from ("", f"### {table['title']}", "")
        rows = [[str(cell) for cell in row] for row in table["rows"]]
        yield from markdown_table([str(c) for c in table["columns"]], rows)


def section(results: Path) -> str:
    """All that is known from the JSON files in `results`."""
    lines: list[str] = []
    engine = results / "engine.json"
    if engine.exists():
        lines += ["## Engine", "", *engine_section(Run.read(engine))]
    for name, heading in (("tensors", "Tensors"), ("data", "Data"), ("pilot", "Pilot")):
        path = results / f"{name}.json"
        if path.exists():
            data = json.loads(path.read_text(encoding="utf-8"))
            lines += ["", f"## {heading}", *notes_and_tables(data)]
    return "\n".join(lines).strip() or "Nothing has been measured yet."


def rewrite(page: str, body: str) -> str:
    """`page` with `body` between the markers; raises ``ValueError`` without markers."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no line {BEGIN!r} followed by {END!r}")
    return f"{head}{BEGIN}\n\n{body}\n\n{END}{tail}"


def write(page: Path = PAGE, results: Path = RESULTS, short: Path = README) -> None:
    """Bring the docs page and the README up to date with the results."""
    for path, body in ((page, section(results)), (short, readme.section(results))):
        text = path.read_text(encoding="utf-8")
        path.write_text(rewrite(text, body), encoding="utf-8")


if __name__ == "__main__":
    write()
    print(f"written: {PAGE}, {README}")
