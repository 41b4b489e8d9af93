# SPDX-License-Identifier: BSD-3-Clause
"""A dataset: named tensors and metadata that are stored and read as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssdag.client.datasets.fields import Metadata
from ssdag.client.tensors import npy
from ssdag.client.transport.resp import key_bytes
from ssdag.errors import DataFormatError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas
    import xarray

    from ssdag.client.datasets.metadata import Field
    from ssdag.client.tensors.npy import Array

#: The metadata of dataset D are at ``{D}.meta``, so no tensor can be there.
_RESERVED_TENSOR = "meta"


class Dataset(Mapping[str, "Array"]):
    """Named tensors and metadata that belong together.

    It lives in this process; ``client.put_dataset(dataset)`` stores it and
    ``client.get_dataset(name)`` reads one. The tensors are those of a mapping::

        step = Dataset("step.7", {"u": u, "v": v}, {"time": 0.7, "solver": "lbm"})
        step["p"] = p
        step.meta["residual"] = 1e-6

    Arrays are kept as they are, not copied: what is stored is what they hold when the
    dataset is put.

    Parameters
    ----------
    name : str
        What it is stored under.
    tensors : mapping of str to array_like, optional
        Any shape and any dtype without Python objects.
    meta : mapping of str to number, text or sequence of them, optional
        See :attr:`meta`.

    Raises
    ------
    DataFormatError
        A name, dtype or value that cannot be stored.
    """

    __slots__ = ("_fields", "_name", "_tensors")

    def __init__(
        self,
        name: str,
        tensors: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self._name = check_name(name)
        self._tensors: dict[str, Array] = {}
        self._fields: dict[str, Field] = {}
        for key, array in (tensors or {}).items():
            self[key] = array
        self.meta.update(meta or {})

    @property
    def name(self) -> str:
        """What it is stored under; may be set."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = check_name(name)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{k}: {v.dtype}{list(v.shape)}" for k, v in self._tensors.items())
        fields = ", ".join(f"{k}: {v.kind}[{len(v.values)}]" for k, v in self._fields.items())
        return f"<Dataset {self._name!r} tensors=({arrays:.500}) meta=({fields:.500})>"

    # -- tensors ---------------------------------------------------------------------

    def __getitem__(self, name: str) -> Array:
        return self.get_tensor(name)

    def __setitem__(self, name: str, array: Any) -> None:
        key_bytes(name)
        if name == _RESERVED_TENSOR:
            raise DataFormatError(
                "no tensor of a dataset can be called 'meta': its metadata have that key"
            )
        plain = npy.contiguous(array)
        npy.encode_header(plain)
        self._tensors[name] = plain

    def __delitem__(self, name: str) -> None:
        self.get_tensor(name)
        del self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    __eq__ = object.__eq__  # a mapping would compare arrays by ==
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        """Return True, also without any tensor."""
        return True

    def add_tensor(self, name: str, array: Any) -> None:
        """Add a tensor under a name that is not in use; ``dataset[name] = array`` replaces.

        Raises
        ------
        DataFormatError
            The name is in use or reserved (``meta``), or the array cannot be stored.
        """
        if name in self._tensors:
            raise DataFormatError(
                f"dataset {self._name!r} has a tensor {name!r} already: "
                f"dataset[{name!r}] = array replaces it"
            )
        self[name] = array

    def get_tensor(self, name: str) -> Array:
        """Return a tensor, not copied.

        Raises
        ------
        MissingDataError
            There is none of this name.
        """
        try:
            return self._tensors[name]
        except KeyError:
            known = ", ".join(map(repr, self._tensors)) or "none"
            raise MissingDataError(
                f"dataset {self._name!r} has no tensor {name!r} (it has {known:.500})"
            ) from None

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors, in the order in which they were added."""
        return list(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(array.nbytes for array in self._tensors.values())

    # -- metadata --------------------------------------------------------------------

    @property
    def meta(self) -> Metadata:
        """The metadata as a mapping, to be read and changed.

        Each field is a vector of numbers (float64, float32, int32, int64, uint32,
        uint64) or of texts. A field with one value is returned as that value (a Python
        number or text), one with several as a 1-d array or a list of texts. Setting a
        field replaces it; :meth:`add_meta_scalar` and :meth:`add_meta_string` append.
        """
        return Metadata(self._name, self._fields)

    def add_meta_scalar(self, name: str, value: float | np.generic) -> None:
        """Append a number to a field, which is made if need be.

        A plain ``int`` is stored as int64 and a ``float`` as float64, or as the field
        has them, if that is exact. Small integers and float16 are widened, bool becomes
        int32.

        Raises
        ------
        DataFormatError
            It is no number that metadata can hold, or the field is of another type.
        """
        self.meta.add_number(name, value)

    def add_meta_string(self, name: str, value: str) -> None:
        """Append a text to a field, which is made if need be.

        Raises
        ------
        DataFormatError
            It is no text, or the field holds numbers.
        """
        self.meta.add_text(name, value)

    def get_meta_scalars(self, name: str) -> Array:
        """Return all numbers of a field, 1-d, of the field's dtype.

        Raises
        ------
        MissingDataError
            There is no such field.
        DataFormatError
            It holds texts.
        """
        return self.meta.numbers(name)

    def get_meta_strings(self, name: str) -> list[str]:
        """Return all texts of a field.

        Raises
        ------
        MissingDataError
            There is no such field.
        DataFormatError
            It holds numbers.
        """
        return self.meta.texts(name)

    def has_field(self, name: str) -> bool:
        """Return whether there is a metadata field of this name."""
        return name in self._fields

    def clear_field(self, name: str) -> None:
        """Remove a metadata field; nothing happens if there is none."""
        self._fields.pop(name, None)

    # -- other libraries -------------------------------------------------------------

    @classmethod
    def from_xarray(cls, name: str, data: xarray.Dataset | xarray.DataArray) -> Dataset:
        """Return a dataset with the variables, coordinates and attributes of `data`.

        Each variable is a tensor of its name, not copied (Dask's are computed). The
        encoding is left out. SmartRedis's ``transform_to_xarray`` reads it too.

        Raises
        ------
        DataFormatError
            A name is no text, a variable holds Python objects, an index has several
            levels, or an attribute is no number, text, list or array.
        """
        from ssdag.client.datasets.xarray_form import from_xarray

        return from_xarray(name, data)

    def to_xarray(self) -> xarray.Dataset:
        """Return the dataset of xarray that :meth:`from_xarray` was given.

        What SmartRedis's ``add_metadata_for_xarray`` has described is read too. The data
        are not copied.

        Raises
        ------
        DataFormatError
            It was not made by any of them.
        """
        from ssdag.client.datasets.xarray_form import to_xarray

        return to_xarray(self)

    @classmethod
    def from_pandas(cls, name: str, frame: pandas.DataFrame) -> Dataset:
        """Return a dataset with the columns and the index of a table.

        A column of numbers, times or truth values is a tensor of its name; a column of
        texts is a metadata field of its name; categories and missing values are kept.

        Raises
        ------
        DataFormatError
            A name is no text or there twice, an index has several levels, or a column
            is of another kind.
        """
        from ssdag.client.datasets.pandas_form import from_pandas

        return from_pandas(name, frame)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the table that :meth:`from_pandas` was given.

        Raises
        ------
        DataFormatError
            It was not made so.
        """
        from ssdag.client.datasets.pandas_form import to_pandas

        return to_pandas(self)

    # -- SmartRedis's names ----------------------------------------------------------

    def get_name(self) -> str:
        """Return :attr:`name`."""
        return self._name

    def set_name(self, name: str) -> None:
        """Set :attr:`name`."""
        self.name = name

    def get_tensor_names(self) -> list[str]:
        """Return :attr:`tensor_names`."""
        return self.tensor_names

    def get_tensor_type(self, name: str) -> np.dtype[Any]:
        """Return the dtype of a tensor; MissingDataError if there is none."""
        return self.get_tensor(name).dtype

    def get_tensor_dims(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; MissingDataError if there is none."""
        shape: tuple[int, ...] = self.get_tensor(name).shape
        return shape

    def get_metadata_field_names(self) -> list[str]:
        """Return the names of all metadata fields."""
        return list(self._fields)

    def get_metadata_field_type(self, name: str) -> np.dtype[Any] | type[str]:
        """Return the dtype of a field, or ``str``; MissingDataError if there is none."""
        return self.meta.type_of(name)


def check_name(name: str) -> str:
    """Return the name of a dataset if it can be one.

    All keys of dataset D are ``{D}.something``, so that a cluster keeps them together;
    that needs something between the braces.

    Raises
    ------
    DataFormatError
        It is empty, no text, or begins with ``}``.
    """
    key_bytes(name)
    if name.startswith("}"):
        raise DataFormatError(f"the name of a dataset must not begin with '}}': {name!r:.80}")
    return name


def assemble(name: str, tensors: dict[str, Array], fields: dict[str, Field]) -> Dataset:
    """Return a dataset of parts that were read from a server."""
    made = Dataset(name)
    made._tensors = tensors
    made._fields = fields
    return made


def parts(dataset: Dataset) -> tuple[dict[str, Array], dict[str, Field]]:
    """Return the tensors and the metadata fields as they are to be stored."""
    return dataset._tensors, dataset._fields
