# SPDX-License-Identifier: BSD-3-Clause
"""The architecture: who may import whom, and what an import pulls in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What `import ssdag` must not load: each takes longer than all of ssdag's own face.
HEAVY = {"networkx", "redis", "rich", "typer", "numpy", "msgspec", "sqlite3", "psutil"}


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nsys.stdout.write('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_layers_import_only_what_is_below_them() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    if not lint.is_file():
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [str(lint), "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_face_is_cheap() -> None:
    assert not loaded_by("import ssdag") & HEAVY


def test_every_name_of_the_face_is_there() -> None:
    loaded_by("import ssdag\nfor name in ssdag.__all__: getattr(ssdag, name)")


def test_the_client_starts_in_a_simulation_rank() -> None:
    modules = loaded_by("import ssdag.client")
    engine = {"dataflow", "apps", "executors", "services", "monitoring", "cli"}
    assert not modules & {f"ssdag.{layer}" for layer in engine}
    assert not modules & {"networkx", "redis", "rich", "typer", "msgspec", "cloudpickle"}


def test_the_two_folders_at_the_top_are_links() -> None:
    for name in ("executors", "providers"):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name).resolve() == ROOT / "ssdag" / name
