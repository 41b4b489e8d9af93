# SPDX-License-Identifier: BSD-3-Clause
"""Which variables give a process some of the GPUs of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ssdag.providers.gpus import restrict_to, visible_gpus

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("files", [(), ("nvidiactl",), ("nvidiactl", "kfd"), ("dri",)])
def test_all_makers_unless_only_amd_is_there(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert restrict_to("1,3", str(tmp_path)) == {
        "CUDA_VISIBLE_DEVICES": "1,3",
        "ROCR_VISIBLE_DEVICES": "1,3",
        "ZE_AFFINITY_MASK": "1,3",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }


def test_on_amd_nothing_that_hip_would_count_twice(tmp_path: Path) -> None:
    (tmp_path / "kfd").touch()
    variables = restrict_to("2", str(tmp_path))
    assert variables == {"ROCR_VISIBLE_DEVICES": "2"}
    assert visible_gpus(variables) == ("2",)
