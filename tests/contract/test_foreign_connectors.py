# SPDX-License-Identifier: BSD-3-Clause
"""Connectors on what other projects store: ADIOS2's files, Dragon's dictionary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdag.connectors import AdiosConnector, DistributedDict, DragonConnector, adios
from ssdag.connectors.values import get, put
from ssdag.errors import ConfigError, MissingDataError, StoreError

SCRIPT = Path(__file__).with_name("dragon_script.py")


def test_dragons_dictionary() -> None:
    dragon = Path(sys.executable).with_name("dragon")
    if not dragon.exists():
        pytest.skip("dragonhpc is not installed")
    path = os.pathsep.join([str(dragon.parent), os.environ["PATH"]])
    run = subprocess.run(
        [dragon, "--single-node-override", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2]), "PATH": path},
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert run.returncode == 0, f"{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    assert "all is well" in run.stdout


def test_what_is_no_dictionary_of_dragon() -> None:
    with pytest.raises(ConfigError, match="DDict is needed"):
        DragonConnector({})


def test_without_adios2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adios2", None)
    adios._adios.cache_clear()
    with pytest.raises(ConfigError, match="needs the package adios2"):
        AdiosConnector(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def bp(tmp_path: Path) -> AdiosConnector:
    pytest.importorskip("adios2")
    adios._adios.cache_clear()
    return AdiosConnector(tmp_path / "bp")


@pytest.mark.parametrize(
    "kind",
    ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "c16", ">f8", "c8", "f2", "?"],
)
def test_adios2_reads_our_arrays(bp: AdiosConnector, kind: str) -> None:
    import adios2

    array = np.arange(12).reshape(3, 4).astype(kind)
    put(bp, "u", array)
    found = get(bp, "u")
    assert found.dtype == array.dtype
    assert (found == array).all()
    found[0] = 0
    if kind.startswith((">", "?", "f2")) or kind == "c8":
        return  # what ADIOS2 has not: bytes for it
    with adios2.FileReader(os.path.join(bp.path, "u.bp")) as file:
        assert file.available_variables()["value"]["Shape"] == "3, 4"
        read = file.read("value")
    assert read.dtype == array.dtype
    assert (read == array).all()


@pytest.mark.parametrize(
    "value",
    [np.array(5.0), np.zeros((0, 3)), np.asfortranarray(np.eye(3)), {"a": np.arange(3)}, None],
    ids=repr,
)
def test_adios2_keeps_everything_else(bp: AdiosConnector, value: Any) -> None:
    shared: DistributedDict[Any] = DistributedDict(bp)
    shared["x"] = value
    shared.checkpoint("c")
    shared["x"] = 0
    shared.rollback("c")
    assert str(shared["x"]) == str(value)
    assert bp.size("dict:x") == len(bp.read("dict:x"))


def test_no_folder_of_adios2_is_left(bp: AdiosConnector) -> None:
    values = os.path.join(bp.path, ".values")
    for i in range(3):
        bp.write("x", [b"%d" % i])
        bp.add("x", [b"not this"])
    assert len(os.listdir(values)) == 1
    bp.take("x")
    bp.write("x", [b""])
    bp.delete("x")
    assert os.listdir(values) == os.listdir(os.path.join(bp.path, ".parts")) == []


def test_where_names_cannot_be_exchanged(
    bp: AdiosConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adios, "exchange", lambda *_: False)
    test_no_folder_of_adios2_is_left(bp)


def test_a_damaged_value_of_adios2(bp: AdiosConnector) -> None:
    bp.write("x", [b"data"])
    os.truncate(os.path.join(bp.path, "x.bp", "md.idx"), 10)
    with pytest.raises(StoreError, match="ADIOS2 cannot read it"):
        bp.read("x")
    os.unlink(os.path.join(bp.path, "x.bp", "md.idx"))
    with pytest.raises(StoreError, match="ADIOS2 cannot read it"):
        bp.size("x")
    bp.write("x", [b"new"])
    assert bytes(bp.read("x")) == b"new"
    with pytest.raises(MissingDataError):
        bp.read("y")
