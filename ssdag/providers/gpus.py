# SPDX-License-Identifier: BSD-3-Clause
"""The GPUs that this process may use, by the environment or by asking the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.providers.commands import Runner

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def visible_gpus(env: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the ids that the environment allows; None if it says nothing.

    An empty value, ``-1`` and Slurm's ``NoDevFiles`` allow none.
    """
    for name in _VARIABLES:
        if name in env:
            ids = (part.strip() for part in env[name].split(","))
            return tuple(i for i in ids if i and i not in ("-1", "NoDevFiles"))
    return None


def installed_gpus(runner: Runner, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the indexes that ``nvidia-smi`` lists; empty where there is none."""
    answer = runner.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], timeout_s)
    if answer.exit_code != 0:
        return ()
    lines = [line.strip() for line in answer.stdout.splitlines()]
    return tuple(line for line in lines if line.isdigit())
