# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that stores and fetches datasets."""

from __future__ import annotations

from ssdag.client import datasets
from ssdag.client.base import ClientBase, call
from ssdag.client.dataset import Dataset, check_name
from ssdag.client.metadata import COMPLETE
from ssdag.client.resp import command
from ssdag.errors import DataFormatError


class DatasetCalls(ClientBase):
    """Datasets by name; see :class:`ssdag.Client`."""

    def put_dataset(self, dataset: Dataset) -> None:
        """Store a dataset under its name, in place of what is there.

        Blocks until the server has it. It is one transaction: readers see the old one
        until the new one is there as a whole, also if this process dies in the middle.

        Parameters
        ----------
        dataset : Dataset
            Tensors of any dtype without Python objects; it may be empty.

        Raises
        ------
        DataFormatError
            It is no dataset, or a value cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        if not isinstance(dataset, Dataset):
            raise DataFormatError(f"put_dataset takes a Dataset, not {type(dataset).__name__}")
        base = self._written_base(dataset.name)
        what = f"put of dataset {dataset.name!r}"
        self._run(what, lambda c: datasets.put(c, base, dataset), key=base)

    def get_dataset(self, name: str) -> Dataset:
        """Return a stored dataset. Blocks while it travels.

        All of it is from one put, also if others put or delete it meanwhile.

        Parameters
        ----------
        name : str
            What it was stored as.

        Raises
        ------
        MissingDataError
            There is none of this name, it is not complete, or it has lost a tensor.
        DataFormatError
            What is stored is damaged.
        StoreError
            The server cannot be reached or refuses.
        """
        base = self._read_base(name)
        what = f"get of dataset {name!r}"
        return self._run(what, lambda c: datasets.get(c, name, base), key=base)

    def dataset_exists(self, name: str) -> bool:
        """Return whether a complete dataset is stored under this name."""
        base = self._read_base(name)
        line = command(b"HEXISTS", datasets.meta_key(base), COMPLETE)
        return bool(self._run(f"look for dataset {name!r}", lambda c: call(c, line), key=base))

    # -- names -----------------------------------------------------------------------

    def _written_base(self, name: str) -> bytes:
        """Return the start of the keys under which a dataset is written, ``prefix.{name}``."""
        return datasets.check_base(self._written("dataset", f"{{{check_name(name)}}}"))

    def _read_base(self, name: str) -> bytes:
        """Return the start of the keys under which a dataset is read."""
        return datasets.check_base(self._read("dataset", f"{{{check_name(name)}}}"))
