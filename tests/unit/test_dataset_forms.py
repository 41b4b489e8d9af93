# SPDX-License-Identifier: BSD-3-Clause
"""Datasets of xarray and tables of pandas, in and out."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ssdag import Dataset
from ssdag.errors import DataFormatError


def field() -> xr.Dataset:
    time = pd.date_range("2026-01-01", periods=3, freq="h")
    return xr.Dataset(
        {
            "u": (("time", "x"), np.arange(12.0).reshape(3, 4), {"units": "m/s", "n": 3}),
            "meta": ((), np.float32(1.5), {"units": "K"}),
            "mask": (("x",), np.array([True, False, True, True])),
        },
        {
            "time": ("time", time, {"axis": "T"}),
            "x": ("x", np.linspace(0, 1, 4), {"units": "m"}),
            "station": ("x", np.array(["a", "bb", "ß", ""], object)),
        },
        {"title": "a field", "levels": np.arange(3, dtype="i4"), "history": ["a", 1], "none": None},
    )


def test_xarray_round_trip() -> None:
    given = field()
    made = Dataset.from_xarray("f", given)
    assert set(made) == {"u", "meta_", "mask", "time", "x", "station"}
    assert np.shares_memory(made["u"], given["u"].values)
    found = made.to_xarray()
    xr.testing.assert_identical(found, given)
    assert found["u"].dtype == np.float64
    assert found.attrs["levels"].dtype == np.dtype("i4")
    assert np.shares_memory(found["u"].values, given["u"].values)
    xr.testing.assert_identical(Dataset.from_xarray("f", given["u"]).to_xarray()["u"], given["u"])
    xr.testing.assert_identical(
        Dataset.from_xarray("f", xr.DataArray([1, 2])).to_xarray()["data"],
        xr.DataArray([1, 2], name="data"),
    )


def test_fields_for_smartredis() -> None:
    made = Dataset.from_xarray("f", field())
    meta = made.meta
    assert set(meta["_xarray_data_names"]) == set(made)
    assert meta["_xarray_u_dim_names"] == "time,x"
    assert set(meta["_xarray_u_coord_names"].split(",")) == {"time", "x", "station"}
    assert (meta["x"], meta["time"]) == ("x", "time")
    assert meta["_xarray_time_attr_names"] == "axis"
    assert meta["axis"] == "T"
    # One field cannot hold the units of several variables.
    assert meta["_xarray_u_attr_names"] == "null"
    assert "units" not in meta


def test_what_smartredis_described() -> None:
    """As its add_metadata_for_xarray writes it."""
    made = Dataset("d", {"1ddata": np.arange(3.0), "x": np.arange(3)})
    for key, value in {
        "_xarray_1ddata_dim_names": "xdim",
        "_xarray_1ddata_coord_names": "x",
        "_xarray_1ddata_attr_names": "units",
        "_xarray_x_dim_names": "xdim",
        "_xarray_x_coord_names": "null",
        "_xarray_x_attr_names": "units",
        "xdim": "x",
        "units": "m",
    }.items():
        made.add_meta_string(key, value)
    for name in ("1ddata", "x", "x"):
        made.add_meta_string("_xarray_data_names", name)
    found = made.to_xarray()
    expected = xr.Dataset(
        {"1ddata": ("x", np.arange(3.0), {"units": "m"})},
        {"x": ("x", np.arange(3), {"units": "m"})},
    )
    xr.testing.assert_identical(found, expected)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (xr.Dataset({1: ("x", [1])}), "called 1"),
        (xr.Dataset({"a": ("x", np.array([1, None], object))}), "Python objects"),
        (xr.Dataset({"a": ("x", [1], {"f": open})}), "attribute 'f'"),
        (
            xr.Dataset({"a": (("x", "y"), [[1.0]])}).stack(z=("x", "y")),
            "several levels",
        ),
        ([1], "takes a Dataset"),
    ],
)
def test_xarray_that_cannot_be_stored(data: Any, text: str) -> None:
    with pytest.raises(DataFormatError, match=text):
        Dataset.from_xarray("d", data)


def table() -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "x": np.array([1.5, np.nan, 3]),
            "meta": np.array([1, 2, 3], np.int8),
            "ok": [True, False, True],
            "when": pd.to_datetime(["2026-01-01", None, "2026-01-03"]),
            "zone": pd.date_range("2026-01-01", periods=3, tz="Europe/Berlin"),
            "long": pd.to_timedelta([1, 2, 3], "s"),
            "text": ["a\0", "", "ß"],
            "gaps": pd.array(["a", None, "c"], "string"),
            "anything": np.array(["a", "b", None], object),
            "kind": pd.Categorical(["u", "v", None], ["v", "u"], ordered=True),
            "number": pd.Categorical([1, 2, 1]),
            "whole": pd.array([1, None, 3], "Int64"),
            "truth": pd.array([True, None, False], "boolean"),
            "wide": pd.array([1.5, None, 2.5], "Float32"),
        }
    )
    frame.attrs["source"] = "here"
    return frame


@pytest.mark.parametrize(
    "index",
    [
        None,
        pd.RangeIndex(2, 8, 2, name="row"),
        pd.Index(["a", "b", "c"], name="key"),
        pd.date_range("2026-01-01", periods=3, tz="UTC"),
        pd.CategoricalIndex(["a", "b", "a"]),
    ],
)
def test_pandas_round_trip(index: Any) -> None:
    given = table() if index is None else table().set_index(index)
    made = Dataset.from_pandas("t", given)
    assert made["meta_"].tolist() == [1, 2, 3]
    assert made.meta["text"] == ["a\0", "", "ß"]
    found = made.to_pandas()
    pd.testing.assert_frame_equal(found, given, check_freq=False)
    assert found.attrs == given.attrs


@pytest.mark.parametrize("rows", [0, 1])
def test_short_tables(rows: int) -> None:
    given = table().iloc[:rows]
    pd.testing.assert_frame_equal(Dataset.from_pandas("t", given).to_pandas(), given)
    empty = pd.DataFrame(index=pd.RangeIndex(3))
    pd.testing.assert_frame_equal(
        Dataset.from_pandas("t", empty).to_pandas(), empty, check_column_type=False
    )


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pd.DataFrame({1: [1]}), "called 1"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "no name twice"),
        (pd.DataFrame({"a": [datetime.date(2026, 1, 1)]}), "Python objects"),
        (pd.DataFrame({"a": pd.period_range("2026", periods=1, freq="M")}), "cannot be stored"),
        (pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])), "reset_index"),
        ([1], "takes a DataFrame"),
    ],
)
def test_pandas_that_cannot_be_stored(frame: Any, text: str) -> None:
    with pytest.raises(DataFormatError, match=text):
        Dataset.from_pandas("t", frame)


def test_not_made_by_us() -> None:
    for call in (Dataset("d").to_xarray, Dataset("d").to_pandas):
        with pytest.raises(DataFormatError, match="was not made by"):
            call()
    for damage in ("{", "3", "{}"):
        made = Dataset("d", None, {"_xarray": damage, "_pandas": damage})
        for call in (made.to_xarray, made.to_pandas):
            with pytest.raises(DataFormatError, match="damaged"):
                call()
