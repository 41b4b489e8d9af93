# SPDX-License-Identifier: BSD-3-Clause
"""The GPUs that this process may use, by the environment or by asking the driver."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssdag.providers.commands import Runner

#: What NVIDIA's, AMD's and Intel's drivers read.
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


def restrict_to(ids: str, devices: str = "/dev") -> dict[str, str]:
    """Return the variables that give a process some of this machine's GPUs.

    Those of all makers, but on a machine with AMD's GPUs alone theirs only: HIP reads
    CUDA_VISIBLE_DEVICES as well, and would count it within what ROCR_VISIBLE_DEVICES has
    left, so that a process with the second GPU would see none.

    Parameters
    ----------
    ids : str
        Ids with commas between them.
    devices : str, optional
        The folder of device files; for tests.
    """
    amd = os.path.exists(os.path.join(devices, "kfd"))
    nvidia = os.path.exists(os.path.join(devices, "nvidiactl"))
    if amd and not nvidia:
        return {"ROCR_VISIBLE_DEVICES": ids}
    return dict.fromkeys(_VARIABLES, ids) | {"ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1"}


def installed_gpus(runner: Runner, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the indexes that ``nvidia-smi`` lists; empty where there is none."""
    answer = runner.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], timeout_s)
    if answer.exit_code != 0:
        return ()
    lines = [line.strip() for line in answer.stdout.splitlines()]
    return tuple(line for line in lines if line.isdigit())
