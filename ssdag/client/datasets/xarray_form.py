# SPDX-License-Identifier: BSD-3-Clause
"""Datasets of xarray as datasets of ours, and back.

Each variable is a tensor of its name. Which are coordinates, the dimensions and all
attributes stand in the metadata field ``_xarray``. The fields that SmartRedis's own
converter reads are there too, as far as they can say it: texts as attributes, and the
same value wherever an attribute has the same name.
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
from ssdag.client.datasets.dataset import Dataset
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray

_FIELD = "_xarray"
_NAMES = "_xarray_data_names"


def from_xarray(name: str, data: xarray.Dataset | xarray.DataArray) -> Dataset:
    """Return a dataset with the variables of `data`; see :meth:`ssdag.Dataset.from_xarray`."""
    import xarray

    if isinstance(data, xarray.DataArray):
        data = data.to_dataset(name=data.name or "data")
    if not isinstance(data, xarray.Dataset):
        raise DataFormatError(f"from_xarray takes a Dataset or DataArray, not {type(data)}")
    made = Dataset(name)
    plan: dict[str, Any] = {}
    for key, variable in data.variables.items():
        label = name_text(key, "a variable")
        tensor = free_name(label, made)
        made[tensor] = _values(label, data, variable)
        plan[label] = {
            "tensor": tensor,
            "dims": [name_text(dim, f"a dimension of {label!r}") for dim in variable.dims],
            "coordinate": key in data.coords,
            "attrs": attributes(variable.attrs, f"variable {label!r}"),
        }
    _describe_as_smartredis(made, data, plan)
    describe(made, _FIELD, {"variables": plan, "attrs": attributes(data.attrs, "the dataset")})
    return made


def _values(name: str, data: xarray.Dataset, variable: xarray.Variable) -> Any:
    index = data.indexes.get(name)
    if index is not None and index.nlevels > 1:
        raise DataFormatError(
            f"coordinate {name!r} is an index of several levels: take it apart with "
            f"data.reset_index({name!r}) first"
        )
    values = np.asarray(variable.values)
    if values.dtype.hasobject:
        if not all(isinstance(value, str) for value in values.reshape(-1)):
            raise DataFormatError(
                f"variable {name!r} holds Python objects: convert it to numbers, texts or "
                "datetime64 first"
            )
        values = values.astype(str)
    return values


def _describe_as_smartredis(
    made: Dataset, data: xarray.Dataset, plan: Mapping[str, dict[str, Any]]
) -> None:
    """Add the fields that SmartRedis's converter reads."""
    values: dict[str, Any] = {}
    for dim in data.dims:
        made.meta[str(dim)] = str(dim)
    for variable in plan.values():
        for key, value in variable["attrs"].items():
            values[key] = value if values.setdefault(key, value) == value else None
    shared = {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and "," not in key and not made.has_field(key)
        if not key.startswith(("_xarray", "."))
    }
    made.meta.update(shared)
    for label, variable in plan.items():
        made.add_meta_string(_NAMES, variable["tensor"])
        coords = [] if variable["coordinate"] else list(data[label].coords)
        lists = {
            "dim": variable["dims"],
            "coord": [plan[str(coord)]["tensor"] for coord in coords],
            "attr": [key for key in variable["attrs"] if key in shared],
        }
        for kind, names in lists.items():
            field = f"_xarray_{variable['tensor']}_{kind}_names"
            made.meta[field] = ",".join(names) or "null"


def to_xarray(dataset: Dataset) -> xarray.Dataset:
    """Return the dataset of xarray; see :meth:`ssdag.Dataset.to_xarray`."""
    import xarray

    if not dataset.has_field(_FIELD) and dataset.has_field(_NAMES):
        return _of_smartredis(dataset)
    plan = description(dataset, _FIELD, "from_xarray")
    variables: dict[str, Any] = {}
    try:
        coords = [name for name, one in plan["variables"].items() if one["coordinate"]]
        for name, one in plan["variables"].items():
            attrs = attributes_back(one["attrs"])
            variables[name] = xarray.Variable(one["dims"], dataset[one["tensor"]], attrs)
        attrs = attributes_back(plan["attrs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFormatError(
            f"metadata field {_FIELD!r} of {dataset.name!r} is damaged: {error!r}"
        ) from error
    return xarray.Dataset(
        {name: one for name, one in variables.items() if name not in coords},
        {name: variables[name] for name in coords},
        attrs,
    )


def _of_smartredis(dataset: Dataset) -> xarray.Dataset:
    """Read what SmartRedis's ``add_metadata_for_xarray`` has described."""
    import xarray

    def names(variable: str, kind: str) -> list[str]:
        field = f"_xarray_{variable}_{kind}_names"
        text = dataset.get_meta_strings(field)[0] if dataset.has_field(field) else "null"
        return [] if text in ("null", "") else text.split(",")

    def texts(fields: list[str]) -> list[str]:
        return [dataset.get_meta_strings(field)[0] for field in fields]

    # Once per call of add_metadata_for_xarray, so a name may be there twice.
    every = list(dict.fromkeys(dataset.get_meta_strings(_NAMES)))
    coords = {coord for variable in every for coord in names(variable, "coord")}
    variables = {}
    for variable in every:
        attrs = names(variable, "attr")
        variables[variable] = xarray.Variable(
            texts(names(variable, "dim")),
            dataset[variable],
            dict(zip(attrs, texts(attrs), strict=True)),
        )
    return xarray.Dataset(
        {name: one for name, one in variables.items() if name not in coords},
        {name: one for name, one in variables.items() if name in coords},
    )
