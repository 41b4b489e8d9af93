# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that stores and fetches datasets."""

from __future__ import annotations

from ssdag.client.base import ClientBase, call
from ssdag.client.datasets import reading as dataset_reading
from ssdag.client.datasets import writing as dataset_writing
from ssdag.client.datasets.dataset import Dataset, check_name
from ssdag.client.datasets.keys import check_base, meta_key
from ssdag.client.datasets.metadata import COMPLETE, text_of
from ssdag.client.tensors import moving
from ssdag.client.transport.resp import command
from ssdag.client.transport.slots import slot_of
from ssdag.errors import DataFormatError


class DatasetCalls(ClientBase):
    """Datasets by name; see :class:`ssdag.Client`."""

    def put_dataset(self, dataset: Dataset) -> None:
        """Store a dataset under its name, in place of what is there.

        Blocks until the server has it. It is one transaction: readers see the old one
        until the new one is there as a whole, also if this process dies in the middle.
        Until then the server holds both.

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
        self._run(what, lambda c: dataset_writing.put(c, base, dataset), key=base)

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
        return self._get_dataset(name, self._read_base(name))

    def dataset_exists(self, name: str) -> bool:
        """Return whether a complete dataset is stored under this name."""
        base = self._read_base(name)
        line = command(b"HEXISTS", meta_key(base), COMPLETE)
        return bool(self._run(f"look for dataset {name!r}", lambda c: call(c, line), key=base))

    def delete_dataset(self, name: str) -> bool:
        """Delete a dataset with all its tensors; return whether there was one.

        It is one transaction, and never sent twice: if the connection breaks before the
        answer, StoreError says so and nobody knows whether it is deleted.
        """
        return self._delete_dataset(name, self._read_base(name))

    def _delete_dataset(self, name: str, base: bytes) -> bool:
        what = f"delete of dataset {name!r}"
        return self._run(
            what, lambda c: dataset_writing.delete(c, base), key=base, idempotent=False
        )

    def copy_dataset(self, source: str, target: str) -> None:
        """Copy a dataset within the server, in place of what is at `target`.

        It is one transaction, and the data do not travel. In a cluster they do, unless
        both names have the same slot.

        Raises
        ------
        MissingDataError
            There is no complete dataset of the name `source`.
        StoreError
            The server cannot be reached or refuses.
        """
        begin, end = self._read_base(source), self._written_base(target)
        if self._are_together(begin, end):
            what = f"copy of dataset {source!r}"
            self._run(
                what,
                lambda c: dataset_writing.move(c, source, begin, end, keep=True),
                key=begin,
            )
        else:
            self._copy_through_here(source, target)

    def rename_dataset(self, old: str, new: str) -> None:
        """Rename a dataset within the server, in place of what is at `new`.

        It is one transaction, and never sent twice, see :meth:`delete_dataset`. In a
        cluster, unless both names have the same slot, the dataset is put under the new
        name and then deleted under the old one.

        Raises
        ------
        MissingDataError
            There is no complete dataset of the name `old`.
        StoreError
            The server cannot be reached or refuses.
        """
        begin, end = self._read_base(old), self._written_base(new)
        if self._are_together(begin, end):
            what = f"rename of dataset {old!r}"
            self._run(
                what,
                lambda c: dataset_writing.move(c, old, begin, end, keep=False),
                key=begin,
                idempotent=False,
            )
        else:
            self._copy_through_here(old, new)
            self.delete_dataset(old)

    def list_datasets(self, pattern: str = "*") -> list[str]:
        """Return the names of complete datasets, sorted.

        Looks through all names of all servers step by step, so it takes long where there
        are millions, and what is written or deleted meanwhile may be there or not.

        Parameters
        ----------
        pattern : str
            ``*`` stands for any characters, ``?`` for one, ``[a-c]`` for one of these,
            a backslash makes them plain. With a prefix, only names under it are listed,
            and without it.
        """
        start, end = self._read_base("x")[:-2], meta_key(b"}")
        glob = moving.escape(start) + pattern.encode("utf-8", "surrogateescape") + end
        found = moving.scan(self, glob, b"hash")
        complete = self.call_many([(b"HEXISTS", key, COMPLETE) for key in found])
        return sorted(
            text_of(key[len(start) : -len(end)])
            for key, there in zip(found, complete, strict=True)
            if there == 1 and len(key) > len(start) + len(end)
        )

    def _copy_through_here(self, source: str, target: str) -> None:
        dataset = self.get_dataset(source)
        dataset.name = target
        self.put_dataset(dataset)

    def _get_dataset(self, name: str, base: bytes) -> Dataset:
        what = f"get of dataset {name!r}"
        return self._run(what, lambda c: dataset_reading.get(c, name, base), key=base)

    # -- names -----------------------------------------------------------------------

    def _written_base(self, name: str) -> bytes:
        """Return the start of the keys under which a dataset is written, ``prefix.{name}``."""
        return check_base(self._written("dataset", f"{{{check_name(name)}}}"))

    def _read_base(self, name: str) -> bytes:
        """Return the start of the keys under which a dataset is read."""
        return check_base(self._read("dataset", f"{{{check_name(name)}}}"))

    def _are_together(self, one: bytes, other: bytes) -> bool:
        """Return whether two keys can be in one transaction."""
        return not self.clustered or slot_of(one) == slot_of(other)
