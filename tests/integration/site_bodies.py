# SPDX-License-Identifier: BSD-3-Clause
"""Bodies of the tests with two sites."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ssdag import Client
    from ssdag.apps.files import File


def where() -> tuple[str, str]:
    """Say which job and which site this runs in."""
    return os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SITE", "")


def simulate(x: int, db: Client) -> tuple[str, str]:
    """Write a field into the database."""
    db.put_tensor(f"field.{x}", np.full((64, 64), float(x)))
    return where()


def train(x: int, field: Any) -> tuple[float, str]:
    """Learn from a field."""
    return float(field.mean()) + x, where()[0]


def write(text: str, outputs: list[File]) -> tuple[str, str]:
    """Write a file that is then brought to its place."""
    Path(outputs[0]).write_text(text)
    return where()


def read(inputs: list[File]) -> tuple[str, str]:
    """Read a file that was brought here."""
    return Path(inputs[0]).read_text(), where()[0]


def simulate_waiting(x: int, db: Client) -> float:
    """Store a field, wait for what is learned of it, return twice that."""
    db.put_tensor(f"field.{x}", np.full((8, 8), float(x)))
    db.wait_tensor(f"mean.{x}", timeout_s=30)
    return 2.0 * float(db.get_tensor(f"mean.{x}")[()])


def learn(field: Any, x: int, db: Client) -> float:
    """Store and return the mean of a field."""
    mean = float(np.mean(field))
    db.put_tensor(f"mean.{x}", np.asarray(mean))
    return mean


def exchange(name: str, count: int, db: Client) -> int:
    """Store and fetch some arrays; return what is in the last one."""
    value = np.zeros(1 << 16)
    for number in range(count):
        db.put_tensor(name, np.full(1 << 16, float(number)))
        value = db.get_tensor(name)
        assert np.all(value == number)
    return int(value[0])
