# SPDX-License-Identifier: BSD-3-Clause
"""Tables of pandas as datasets, and back.

A column of numbers, times or truth values is a tensor of its name, a column of texts is
a metadata field of its name, so that every client in every language reads both. A
categorical column is a tensor of codes and another column of the categories; what is
missing in a column that cannot say so itself is marked in a tensor of truth values. How
they make up the table stands in the metadata field ``_pandas``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client.datasets.converters import (
    attributes,
    attributes_back,
    describe,
    description,
    free_name,
    name_text,
)
from ssdag.client.datasets.dataset import Dataset, parts
from ssdag.client.datasets.metadata import Field
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    import pandas

_FIELD = "_pandas"


def from_pandas(name: str, frame: pandas.DataFrame) -> Dataset:
    """Return a dataset with the columns of a table; see :meth:`ssdag.Dataset.from_pandas`."""
    import pandas

    if not isinstance(frame, pandas.DataFrame):
        raise DataFormatError(f"from_pandas takes a DataFrame, not {type(frame)}")
    if frame.columns.nlevels > 1 or not frame.columns.is_unique:
        raise DataFormatError("the columns of the table must have one level, and no name twice")
    writer = _Writer(Dataset(name))
    columns = [
        {"name": name_text(label, "a column"), **writer.add(label, frame[label])}
        for label in frame.columns
    ]
    index = frame.index
    if index.nlevels > 1:
        raise DataFormatError("the index has several levels: make columns of it by reset_index()")
    plan: dict[str, Any] = {"columns": columns, "attrs": attributes(frame.attrs, "the table")}
    if isinstance(index, pandas.RangeIndex):
        plan["index"] = {"range": [index.start, index.stop, index.step]}
    else:
        plan["index"] = writer.add("index", index.to_series())
    plan["index"]["name"] = None if index.name is None else name_text(index.name, "the index")
    describe(writer.dataset, _FIELD, plan)
    return writer.dataset


class _Writer:
    """Adds columns to a dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def add(self, name: str, column: pandas.Series[Any]) -> dict[str, Any]:
        """Add a column; return how it is stored."""
        import pandas

        dtype = column.dtype
        out: dict[str, Any] = {"dtype": str(dtype)}
        if isinstance(dtype, pandas.CategoricalDtype):
            out["codes"] = self._tensor(name, column.cat.codes.to_numpy())
            categories = dtype.categories.to_series()
            out["categories"] = self.add(f"{name}.categories", categories)
            out["ordered"] = bool(dtype.ordered)
        elif isinstance(dtype, pandas.DatetimeTZDtype):
            times = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
            out["tensor"] = self._tensor(name, times)
        elif isinstance(dtype, np.dtype) and not dtype.hasobject:
            out["tensor"] = self._tensor(name, column.to_numpy())
        elif isinstance(dtype, pandas.StringDtype | np.dtype):
            self._missing(name, column, out)
            out["texts"] = self._texts(name, column)
        elif isinstance(getattr(dtype, "numpy_dtype", None), np.dtype) and dtype.kind in "biuf":
            self._missing(name, column, out)
            plain = column.to_numpy(dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0))
            out["tensor"] = self._tensor(name, plain)
        else:
            raise DataFormatError(
                f"column {name!r} is of type {dtype}, which cannot be stored: convert it by "
                "astype() to numbers, times or texts"
            )
        return out

    def _tensor(self, name: str, values: Any) -> str:
        tensor = free_name(name, self.dataset)
        self.dataset[tensor] = values
        return tensor

    def _texts(self, name: str, column: pandas.Series[Any]) -> str:
        field = free_name(name, {*self.dataset.meta, _FIELD})
        texts = ["" if gone else text for text, gone in zip(column, column.isna(), strict=True)]
        for text in texts:
            if not isinstance(text, str):
                raise DataFormatError(
                    f"column {name!r} holds Python objects such as {text!r:.80}: convert it by "
                    "astype() to numbers, times or texts"
                )
        parts(self.dataset)[1][field] = Field(None, texts)  # also an empty one
        return field

    def _missing(self, name: str, column: pandas.Series[Any], out: dict[str, Any]) -> None:
        gone = column.isna().to_numpy(bool)
        if gone.any():
            out["missing"] = self._tensor(f"{name}.missing", gone)


def to_pandas(dataset: Dataset) -> pandas.DataFrame:
    """Return the table; see :meth:`ssdag.Dataset.to_pandas`."""
    import pandas

    plan = description(dataset, _FIELD, "from_pandas")
    try:
        index = plan["index"]
        if "range" in index:
            rows: Any = pandas.RangeIndex(*index["range"])
        else:
            rows = pandas.Index(_column(dataset, index))
        rows.name = index["name"]
        columns = {one["name"]: _column(dataset, one) for one in plan["columns"]}
        frame = pandas.DataFrame(columns, index=rows, copy=False)
        frame.attrs.update(attributes_back(plan["attrs"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFormatError(
            f"metadata field {_FIELD!r} of {dataset.name!r} is damaged: {error!r}"
        ) from error
    return frame


def _column(dataset: Dataset, how: dict[str, Any]) -> Any:
    """Return the values of a column as an array of pandas or numpy."""
    import pandas

    dtype: Any = how["dtype"]
    if "codes" in how:
        return pandas.Categorical.from_codes(
            dataset[how["codes"]],
            categories=pandas.Index(_column(dataset, how["categories"])),
            ordered=how["ordered"],
        )
    gone = dataset[how["missing"]] if "missing" in how else None
    if "texts" in how:
        texts: list[str | None] = list(dataset.get_meta_strings(how["texts"]))
        if gone is not None:
            for i in np.flatnonzero(gone):
                texts[i] = None
        return pandas.array(texts, dtype) if dtype != "object" else np.array(texts, object)
    values = dataset[how["tensor"]]
    if dtype.startswith("datetime64[") and "," in dtype:
        zone = dtype.split(",", 1)[1].strip(" ]")
        return pandas.DatetimeIndex(values).tz_localize("UTC").tz_convert(zone).array
    if str(values.dtype) == dtype:
        return values
    made = pandas.array(values, dtype)
    if gone is not None:
        made[gone] = pandas.NA
    return made
