# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that stores and fetches tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssdag.client import npy, tensors
from ssdag.client.base import ClientBase, call
from ssdag.client.resp import command
from ssdag.errors import DataFormatError

if TYPE_CHECKING:
    from ssdag.client.npy import Array
    from ssdag.client.slab import Slab


class TensorCalls(ClientBase):
    """Tensors by name; see :class:`ssdag.Client`."""

    def put_tensor(self, name: str, array: Any) -> None:
        """Store an array under a name, in place of what is there.

        Blocks until the server has it. The value is the array's NPY file: dtype, byte
        order, shape and Fortran order come back as they were.

        Parameters
        ----------
        name : str
            Any text but the empty one.
        array : array_like
            Any shape, also 0-d and empty; any dtype without Python objects. It is
            copied only if it is contiguous in neither order.

        Raises
        ------
        DataFormatError
            The dtype or the name cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._written("tensor", name)
        plain = npy.contiguous(array)
        self._run(f"put of tensor {name!r}", lambda c: tensors.put(c, key, plain), key=key)

    def get_tensor(self, name: str, *, out: Array | None = None, slab: Slab | None = None) -> Array:
        """Return a stored array, or a part of it. Blocks while it travels.

        Parameters
        ----------
        name : str
            What it was stored as.
        out : numpy.ndarray, optional
            Writable array of the same dtype and shape that is filled and returned. In
            the order of the stored array (C or Fortran) it is filled in place, without a
            copy. If the server is lost in the middle its contents are undefined.
        slab : int, slice, ``...`` or tuple of them, optional
            Return ``array[slab]``. One range of bytes travels: exactly the part for a
            range along axis 0 (Fortran order: the last axis), else from the first to
            the last element of the part.

        Raises
        ------
        MissingDataError
            Nothing is stored under this name.
        DataFormatError
            The value is no tensor, or `out` or `slab` do not fit it.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._read("tensor", name)
        if out is not None and not (isinstance(out, np.ndarray) and out.flags.writeable):
            raise DataFormatError("out= must be a writable numpy array")
        what = f"get of tensor {name!r}"
        if slab is None:
            return self._run(what, lambda c: tensors.get(c, name, key, out), key=key)
        return self._run(what, lambda c: tensors.get_slab(c, name, key, slab, out), key=key)

    def tensor_exists(self, name: str) -> bool:
        """Return whether something is stored under this name."""
        key = self._read("tensor", name)
        line = command(b"EXISTS", key)
        return bool(self._run(f"look for tensor {name!r}", lambda c: call(c, line), key=key))

    def delete_tensor(self, name: str) -> bool:
        """Delete a tensor; return whether there was one.

        It is never sent twice: if the connection breaks before the answer, StoreError
        says so and nobody knows whether it is deleted.
        """
        key = self._read("tensor", name)
        line = command(b"DEL", key)
        what = f"delete of tensor {name!r}"
        return bool(self._run(what, lambda c: call(c, line), key=key, idempotent=False))
