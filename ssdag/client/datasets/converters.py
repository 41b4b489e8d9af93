# SPDX-License-Identifier: BSD-3-Clause
"""What the datasets of other libraries have in common: names, texts and attributes.

How the tensors of a dataset make up a dataset of xarray or a table of pandas stands in
one metadata field as JSON.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from ssdag.client.datasets.dataset import Dataset


def describe(dataset: Dataset, field: str, plan: dict[str, Any]) -> None:
    """Keep a description in a metadata field.

    Raises
    ------
    DataFormatError
        There is something in it that JSON does not have.
    """
    dataset.meta[field] = json.dumps(plan, allow_nan=True, separators=(",", ":"))


def description(dataset: Dataset, field: str, maker: str) -> dict[str, Any]:
    """Return a description from its metadata field.

    Raises
    ------
    DataFormatError
        There is none, or it is damaged.
    """
    if not dataset.has_field(field):
        raise DataFormatError(
            f"dataset {dataset.name!r} was not made by {maker}: it has no metadata field {field!r}"
        )
    try:
        plan = json.loads(dataset.get_meta_strings(field)[0])
        if not isinstance(plan, dict):
            raise TypeError
    except (ValueError, TypeError, IndexError) as error:
        raise DataFormatError(f"metadata field {field!r} of {dataset.name!r} is damaged") from error
    return plan


def free_name(name: str, taken: Container[str]) -> str:
    """Return the name of a tensor or field for something called `name`."""
    while name in taken or name == "meta" or name.startswith("."):
        name = f"{name}_" if not name.startswith(".") else f"_{name}"
    return name


def name_text(name: object, what: str) -> str:
    """Return a name if it is a text.

    Raises
    ------
    DataFormatError
        It is something else, or empty.
    """
    if not isinstance(name, str) or not name:
        raise DataFormatError(f"{what} is called {name!r:.80}: only texts can be names here")
    return name


def attributes(attrs: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    """Return attributes as JSON has them; arrays keep their dtype.

    Raises
    ------
    DataFormatError
        A value is no number, text, list of them, or array.
    """
    return {
        name_text(name, f"an attribute of {owner}"): _plain(value, f"{owner}: attribute {name!r}")
        for name, value in attrs.items()
    }


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        return {"dtype": value.dtype.str, "values": value.tolist()}
    if isinstance(value, list | tuple):
        return [_plain(one, what) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataFormatError(
        f"{what} is a {type(value).__name__}: only numbers, texts, lists and arrays can be stored"
    )


def attributes_back(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes from their JSON."""
    return {
        name: np.array(value["values"], value["dtype"]) if isinstance(value, dict) else value
        for name, value in attrs.items()
    }
