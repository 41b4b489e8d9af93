# SPDX-License-Identifier: BSD-3-Clause
"""The manual builds without a warning, and what it shows works.

The Python blocks of a page are one script, run in an empty folder. A comment
``# prints TEXT`` is a promise: the script's output is these texts, in this order.
TOML blocks with a comment ``# file: NAME`` are files in that folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssdag
import ssdag.errors

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in TEXTS if "```python\n" in page.read_text()]

#: Seconds that the script of one page may take.
DEADLINE_S = 120


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Code blocks of a page: the number of the line above each, and its text."""
    text = page.read_text()
    return [
        (text.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    ]


def as_script(page: Path) -> str:
    """One script with every block on the lines where the page has it."""
    script = ""
    for line, code in blocks(page, "python"):
        script += "\n" * (line - script.count("\n")) + code
    return script


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_shows_what_works(page: Path, tmp_path: Path) -> None:
    script = as_script(page)
    for _, text in blocks(page, "toml"):
        if name := re.match(r"# file: (\S+)", text):
            (tmp_path / name[1]).write_text(text)
    (tmp_path / f"{page.stem}_page.py").write_text(script)
    done = subprocess.run(
        [sys.executable, f"{page.stem}_page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    promised = re.findall(r"# prints (.*)", script)
    if promised:
        assert done.stdout.splitlines() == promised, done.stderr


def test_every_name_of_the_face_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    names = {n for n in ssdag.__all__ if not n.startswith("_") and n != "executors"}
    names -= set(vars(ssdag.errors))  # documented as a module
    assert "automodule:: ssdag.errors" in reference
    absent = [
        n for n in sorted(names) if not re.search(rf"^\.\. auto\w+:: ssdag\.{n}\b", reference, re.M)
    ]
    assert not absent


@pytest.mark.parametrize("package", ["executors", "providers", "launchers", "connectors"])
def test_every_public_name_of_a_folder_is_in_the_reference(package: str) -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    module = importlib.import_module(f"ssdag.{package}")
    absent = [
        name
        for name in module.__all__
        if name not in ssdag.__all__
        and not re.search(rf"^\.\. auto\w+:: ssdag\.{package}\.{name}\b", reference, re.M)
    ]
    assert not absent


def test_the_architecture_page_is_the_tree_as_it_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "ssdag"
    parts = [f"{p.parent.name}/" for p in package.glob("*/__init__.py")]
    folders = ["", "dataflow", "services", "connectors", "client"]
    parts += [p.name for folder in folders for p in (package / folder).glob("*.py")]
    assert not [part for part in sorted(set(parts)) if f"`{part}`" not in page]
    named = re.findall(r"`(\w+(?:\.py|/))`", page)
    known = {p.name + ("/" if p.is_dir() else "") for p in (package, *package.rglob("*"))}
    assert not [name for name in named if name not in known]
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    assert "\n".join(["```text", *contracts[0]["layers"], "```"]) in page


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    absent = [n for n in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(n) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "html")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "html" / "quickstart.html").is_file()
