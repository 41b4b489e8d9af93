# SPDX-License-Identifier: BSD-3-Clause
"""Keys of datasets, and the errors about them.

Dataset D has a hash ``{D}.meta`` with its metadata and a key ``{D}.tensor`` for each
tensor, as SmartRedis has them; the hash's field ``.COMPLETE`` says that all are there.
A prefix stands before the brace. Whoever writes changes the hash in the same
transaction. So a reader that watches the hash while it reads learns whether what it has
read belongs together.
"""

from __future__ import annotations

from typing import Any

from ssdag.client.datasets import metadata
from ssdag.client.datasets.metadata import TENSOR_NAMES
from ssdag.client.transport.resp import key_bytes
from ssdag.errors import DataError, DataFormatError, MissingDataError

#: How often something is tried again because others write at the same time.
TRIES = 100


def missing(name: str) -> MissingDataError:
    """Return the error for a name under which no dataset is stored."""
    return MissingDataError(
        f"no dataset {name!r} is stored; wait_dataset({name!r}) waits until somebody puts it"
    )


def lost(name: str, tensor: str | None = None) -> MissingDataError:
    """Return the error for a dataset that lacks a tensor."""
    which = "a tensor" if tensor is None else f"its tensor {tensor!r}"
    return MissingDataError(
        f"dataset {name!r} has lost {which}: it was deleted by its own key, or the server "
        "dropped it at its memory limit"
    )


def busy(what: str) -> DataError:
    """Return the error for something that others change again and again meanwhile."""
    error = DataError(f"{what}: others changed it at the same time, {TRIES} times in a row")
    error.transient = True
    return error


def check_base(base: bytes) -> bytes:
    """Return the start of all keys of a dataset, ``prefix.{name}``, if it can be one.

    Raises
    ------
    DataFormatError
        A cluster would not keep the keys together: the first braces hold nothing.
    """
    begin = base.index(b"{")
    if base.find(b"}", begin) == begin + 1:
        raise DataFormatError(f"the prefix of {metadata.text_of(base)!r:.80} must not have '{{}}'")
    return base


def meta_key(base: bytes) -> bytes:
    """Return the key of the hash."""
    return base + b".meta"


def tensor_key(base: bytes, name: str) -> bytes:
    """Return the key of a tensor."""
    return base + b"." + key_bytes(name)


def name_of(base: bytes) -> str:
    """Return the name of a dataset from the start of its keys, which is what lists hold.

    Raises
    ------
    DataFormatError
        It is no such start.
    """
    begin = base.find(b"{")
    if begin < 0 or not base.endswith(b"}") or base.find(b"}", begin) == begin + 1:
        raise DataFormatError(f"{metadata.text_of(base)!r:.80} is no entry for a dataset")
    return metadata.text_of(base[begin + 1 : -1])


def tensor_names(packed_names: Any) -> list[str]:
    """Return the names of tensors from what the hash holds; none if it is unreadable."""
    if not isinstance(packed_names, bytes):
        return []
    try:
        return metadata.unpack_texts(TENSOR_NAMES.decode(), packed_names)
    except DataFormatError:
        return []
