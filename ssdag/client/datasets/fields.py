# SPDX-License-Identifier: BSD-3-Clause
"""The metadata of one dataset as a mapping: what may be in a field, and how it is added."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client.datasets.metadata import (
    COMPLETE,
    TENSOR_NAMES,
    Field,
    exact,
    stored_type,
    text_bytes,
)
from ssdag.client.transport.resp import key_bytes
from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from ssdag.client.tensors.npy import Array

_RESERVED = frozenset({COMPLETE.decode(), TENSOR_NAMES.decode()})


class Metadata(MutableMapping[str, Any]):
    """The metadata of a dataset as a mapping; see :attr:`ssdag.Dataset.meta`.

    Parameters
    ----------
    owner : str
        Name of the dataset, for errors.
    fields : dict
        What is shown and changed.
    """

    __slots__ = ("_fields", "_owner")

    def __init__(self, owner: str, fields: dict[str, Field]) -> None:
        self._owner = owner
        self._fields = fields

    def __repr__(self) -> str:
        return repr(dict(self))

    def __getitem__(self, name: str) -> Any:
        field = self._field(name)
        if len(field.values) == 1:
            return field.values[0]
        return list(field.values) if field.dtype is None else field.array()

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        self._fields[name] = _field_of(name, value)

    def __delitem__(self, name: str) -> None:
        self._field(name)
        del self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def _field(self, name: str) -> Field:
        try:
            return self._fields[name]
        except KeyError:
            known = ", ".join(map(repr, self._fields)) or "none"
            raise MissingDataError(
                f"dataset {self._owner!r} has no metadata field {name!r} (it has {known:.500})"
            ) from None

    def add_number(self, name: str, value: Any) -> None:
        """Append a number; see :meth:`ssdag.Dataset.add_meta_scalar`."""
        _check_name(name)
        field = self._fields.get(name)
        plain = isinstance(value, int | float) and not isinstance(value, bool | np.generic)
        if plain and field is not None and field.dtype is not None:
            number = exact(value, field.dtype)
            if number is not None:
                field.values.append(number)
                return
        if np.ndim(value):
            raise DataFormatError(
                f"metadata field {name!r}: one number at a time, not {value!r:.80}"
            )
        new = _field_of(name, value)
        if new.dtype is None:
            raise DataFormatError(f"metadata field {name!r}: {value!r:.80} is no number")
        if field is None:
            self._fields[name] = new
        elif field.dtype == new.dtype:
            field.values += new.values
        else:
            raise DataFormatError(
                f"metadata field {name!r} is of type {field.kind}, and {value!r:.80} of {new.kind}"
            )

    def add_text(self, name: str, value: str) -> None:
        """Append a text; see :meth:`ssdag.Dataset.add_meta_string`."""
        _check_name(name)
        text_bytes(value)
        field = self._fields.setdefault(name, Field(None, []))
        if field.dtype is not None:
            raise DataFormatError(f"metadata field {name!r} is of type {field.kind}, not of texts")
        field.values.append(value)

    def numbers(self, name: str) -> Array:
        """Return a field of numbers as a 1-d array."""
        field = self._field(name)
        if field.dtype is None:
            raise DataFormatError(f"metadata field {name!r} holds texts: use get_meta_strings")
        return field.array()

    def texts(self, name: str) -> list[str]:
        """Return a field of texts."""
        field = self._field(name)
        if field.dtype is not None:
            raise DataFormatError(f"metadata field {name!r} holds numbers: use get_meta_scalars")
        return list(field.values)

    def type_of(self, name: str) -> np.dtype[Any] | type[str]:
        """Return the dtype of a field, or ``str``."""
        dtype = self._field(name).dtype
        return str if dtype is None else dtype


def _check_name(name: str) -> None:
    key_bytes(name)
    if name in _RESERVED:
        raise DataFormatError(f"metadata field {name!r} is reserved")


def _field_of(name: str, value: Any) -> Field:
    """Return the field for one value or a sequence of them."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        value = value.tolist()
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        if not value:
            raise DataFormatError(f"metadata field {name!r}: an empty sequence has no type")
        if isinstance(value[0], str):
            for text in value:
                text_bytes(text)
            return Field(None, list(value))
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataFormatError(f"metadata field {name!r}: {error}") from error
    if array.ndim > 1:
        raise DataFormatError(f"metadata field {name!r} is {array.ndim}-d: put arrays as tensors")
    dtype = stored_type(name, array.dtype)
    if dtype.kind == "f" and isinstance(value, list | tuple):
        # numpy makes floats of integers that no integer type holds together.
        for number in value:
            if isinstance(number, int) and exact(number, dtype) is None:
                raise DataFormatError(
                    f"metadata field {name!r}: {number} is not exact as {dtype.name}"
                )
    return Field(dtype, array.reshape(-1).astype(dtype).tolist())
