# SPDX-License-Identifier: BSD-3-Clause
"""Find the demonstration, in a checkout or inside the installed wheel, and run it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssdag.errors import SsdagError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the demonstration imports beyond the core, and how it is installed.
CHEM = {
    "rdkit": "rdkit",
    "tblite": "tblite",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
}


def run_demo(arguments: Sequence[str]) -> int:
    """Run ``examples/molecule_search`` with these command-line arguments.

    Returns
    -------
    int
        Its exit code.

    Raises
    ------
    SsdagError
        The packages of the ``chem`` extra are not installed, or the example is in
        neither place.
    """
    absent = [package for name, package in CHEM.items() if importlib.util.find_spec(name) is None]
    if absent:
        raise SsdagError(
            f"the demonstration needs {', '.join(absent)}: "
            f"{sys.executable} -m pip install {' '.join(absent)}"
        )
    module = importlib.import_module(f"{_package()}.__main__")
    code = module.main(list(arguments), "ssdag demo")
    return int(code or 0)


def _package() -> str:
    """Name the example's package; a checkout's own files come before the wheel's copy."""
    root = Path(__file__).resolve().parents[2]
    if (root / "examples" / "molecule_search" / "__init__.py").is_file():
        sys.path.insert(0, str(root))
        return "examples.molecule_search"
    if importlib.util.find_spec("ssdag.demo") is not None:
        return "ssdag.demo.molecule_search"
    raise SsdagError("this installation holds no demonstration: run it from a checkout")
