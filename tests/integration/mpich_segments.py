# SPDX-License-Identifier: BSD-3-Clause
"""Shared memory that ranks of MPICH leave behind when they are killed.

Its name depends on the job and the step alone: a later one of the same numbers, in a
Slurm that was set up anew, would meet the old contents and hang as it starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = Path("/dev/shm")


def sweep() -> None:
    """Remove our own segments of MPICH that no process maps."""
    ours = os.getuid()
    names = {path.name for path in _FOLDER.glob("mpich_shm_*") if path.stat().st_uid == ours}
    if not names:
        return
    for process in psutil.process_iter():
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
        except OSError:
            continue
        names = {name for name in names if name not in maps}
    for name in names:
        (_FOLDER / name).unlink(missing_ok=True)


@pytest.fixture
def no_old_segments() -> Iterator[None]:
    """Let no rank meet what others have left; a module asks for it with ``usefixtures``."""
    sweep()
    yield
    sweep()
