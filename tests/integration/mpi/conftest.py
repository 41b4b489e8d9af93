# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of MPI launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration import mpich_segments
from tests.integration.mpi.launching import Launch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_old_segments() -> Iterator[None]:
    """Ranks that a test kills leave memory that ranks of a later job would meet."""
    mpich_segments.sweep()
    yield
    mpich_segments.sweep()


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Starts rank programs that write into a folder of their own."""
    folder = tmp_path / "out put"
    folder.mkdir()
    return Launch(folder)
