# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that stores and fetches tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ssdag.client.base import ClientBase, call
from ssdag.client.tensors import npy, slab_write
from ssdag.client.tensors import transfer as tensors
from ssdag.client.transport.resp import command
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.tensors.npy import Array, Header
    from ssdag.client.tensors.slab import Slab


#: Of a time to live; the server counts in milliseconds.
_LONGEST_S = 1e12


class TensorCalls(ClientBase):
    """Tensors by name; see :class:`ssdag.Client`."""

    def put_tensor(self, name: str, array: Any, *, ttl_s: float | None = None) -> None:
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
        ttl_s : float, optional
            Seconds after which the server deletes it; by default it stays, also if what
            was there had a limit.

        Raises
        ------
        DataFormatError
            The dtype or the name cannot be stored.
        ConfigError
            `ttl_s` is no positive number.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._written("tensor", name)
        plain = npy.contiguous(array)
        limit = milliseconds(ttl_s)
        self._run(f"put of tensor {name!r}", lambda c: tensors.put(c, key, plain, limit), key=key)

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

    def create_tensor(
        self,
        name: str,
        shape: int | Sequence[int],
        dtype: Any = float,
        *,
        order: Literal["C", "F"] = "C",
        ttl_s: float | None = None,
    ) -> None:
        """Store a tensor of zeros, in place of what is there, to be filled by slabs.

        Its data do not travel: the server makes them, so the tensor may be larger than
        the memory of any client.

        Parameters
        ----------
        name : str
            Any text but the empty one.
        shape : int or sequence of int
            Length of each axis.
        dtype : data-type
            Any without Python objects.
        order : "C" or "F"
            Whether the last or the first axis varies fastest.
        ttl_s : float, optional
            Seconds after which the server deletes it.

        Raises
        ------
        DataFormatError
            The dtype, the shape or the name cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._written("tensor", name)
        header, nbytes = npy.header_of(shape, dtype, order)
        limit = milliseconds(ttl_s)
        what = f"making of tensor {name!r}"
        self._run(what, lambda c: slab_write.create(c, key, header, nbytes, limit), key=key)

    def put_slab(self, name: str, slab: Slab, values: Any) -> None:
        """Write ``array[slab] = values`` into a stored tensor. Blocks until it is there.

        Readers see all of it or nothing. Clients may write different parts of one tensor
        at the same time.

        Parameters
        ----------
        name : str
            A tensor that is there, under the prefix that this client writes with.
        slab : int, slice, ``...`` or tuple of them
            The part. A range along axis 0 (Fortran order: the last axis) is quickest; of
            others, each run of bytes in a row is written by itself.
        values : array_like
            What can be broadcast to the part's shape. Another dtype is converted if no
            value changes, or loses only digits behind the point.

        Raises
        ------
        MissingDataError
            There is no such tensor.
        DataFormatError
            The value is no tensor, or `slab` or `values` do not fit it.
        StoreError
            The server cannot be reached or refuses.
        """
        key = self._written("tensor", name)
        plain = npy.contiguous(values)
        what = f"put of a slab of tensor {name!r}"
        self._run(what, lambda c: slab_write.put_slab(c, name, key, slab, plain), key=key)

    def get_tensor_info(self, name: str) -> Header:
        """Return dtype, shape and order of a stored tensor, without its data.

        Returns
        -------
        Header
            With `dtype`, `shape`, `fortran`, `nbytes` and `items`.

        Raises
        ------
        MissingDataError
            Nothing is stored under this name.
        DataFormatError
            The value is no tensor.
        """
        key = self._read("tensor", name)
        what = f"look at tensor {name!r}"
        return self._run(what, lambda c: tensors.look(c, name, key)[0], key=key)

    def expire_tensor(self, name: str, ttl_s: float | None) -> None:
        """Let the server delete a tensor after so many seconds from now; None: never.

        Raises
        ------
        MissingDataError
            Nothing is stored under this name.
        """
        key = self._read("tensor", name)
        limit = milliseconds(ttl_s)
        if limit is None:
            line = command(b"PERSIST", key)
        else:
            line = command(b"PEXPIRE", key, b"%d" % limit)
        found = self._run(f"limit of tensor {name!r}", lambda c: call(c, line), key=key)
        if limit is None:  # 0 also means that it had no limit
            found = found or self.tensor_exists(name)
        if not found:
            raise tensors.missing(name)

    def get_tensor_ttl(self, name: str) -> float | None:
        """Return in how many seconds the server deletes a tensor; None if it does not.

        Raises
        ------
        MissingDataError
            Nothing is stored under this name.
        """
        key = self._read("tensor", name)
        line = command(b"PTTL", key)
        left = self._run(f"look at tensor {name!r}", lambda c: call(c, line), key=key)
        if left == -2:
            raise tensors.missing(name)
        return None if left < 0 else float(left) / 1000

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


def milliseconds(ttl_s: float | None) -> int | None:
    """Return a time to live as the server takes it.

    Raises
    ------
    ConfigError
        It is no positive number.
    """
    if ttl_s is None:
        return None
    if not isinstance(ttl_s, int | float) or not 0 < ttl_s < _LONGEST_S:
        raise ConfigError(f"ttl_s={ttl_s!r}: seconds above 0, or None for ever")
    return max(1, round(ttl_s * 1000))
