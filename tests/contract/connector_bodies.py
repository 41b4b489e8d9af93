# SPDX-License-Identifier: BSD-3-Clause
"""What other processes do with a connector: ``python -m ... <function> <args>``.

The connector's pickle comes on standard input.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ssdag.connectors import DistributedDict
    from ssdag.connectors.base import Connector

BIG = 1 << 20
LARGE = 4 << 20


def echo(connector: Connector) -> None:
    """Answer one question."""
    connector.wait("question", 60)
    connector.write("answer", [connector.read("question"), b"!"])


def write_for_ever(connector: Connector, seed: str = "7") -> None:
    """Write values of one byte until killed."""
    data = bytes([int(seed)]) * LARGE
    while True:
        connector.write("x", [data[:100], data[100:]])


def hold(connector: Connector) -> None:
    """Read a value, and say later what it is."""
    held = connector.read("x")
    connector.write("held", [b""])
    connector.wait("go", 60)
    connector.write("found", [held])


def count(shared: DistributedDict[Any], rank: str) -> None:
    """Put as many values as the dictionary says."""
    number = shared.get("go", timeout_s=60)
    for i in range(number):
        shared["all", int(rank), i] = np.array([int(rank), i])
    shared["done", int(rank)] = number


def start(connector: Any, function: Any, *args: str) -> subprocess.Popen[bytes]:
    """Start a process that shares nothing with this one but what is pickled to it."""
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", function.__module__, function.__name__, *args],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
    )
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(connector))
    process.stdin.close()
    return process


if __name__ == "__main__":
    globals()[sys.argv[1]](pickle.load(sys.stdin.buffer), *sys.argv[2:])
