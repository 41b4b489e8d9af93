# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of MPI launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.mpi.launching import Launch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_old_segments(no_old_segments: None) -> None:
    """Tests here kill ranks, and ranks of a later job would meet the memory of those."""


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Starts rank programs that write into a folder of their own."""
    folder = tmp_path / "out put"
    folder.mkdir()
    return Launch(folder)
