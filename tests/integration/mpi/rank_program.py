# SPDX-License-Identifier: BSD-3-Clause
"""A rank that writes down what it sees: ``rank_program.py FOLDER words...``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mpi4py import MPI

world = MPI.COMM_WORLD
seen = {
    "size": world.size,
    "sum": world.allreduce(world.rank),
    "argv": sys.argv[2:],
    "cwd": os.getcwd(),
    "cores": sorted(os.sched_getaffinity(0)),
    "env": {name: text for name, text in os.environ.items() if name.startswith("SSDAG_T_")},
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "host": os.environ.get("PMI_HOSTNAME"),
    "node": os.environ.get("SLURMD_NODENAME"),
}
Path(sys.argv[1], f"{world.rank}.json").write_text(json.dumps(seen))
