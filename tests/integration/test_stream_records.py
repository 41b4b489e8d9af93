# SPDX-License-Identifier: BSD-3-Clause
"""What a record of a stream can be, and what is stored of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag.client import Client
from ssdag.client.datasets.dataset import Dataset
from ssdag.errors import DataFormatError
from ssdag.services.orchestrator import Orchestrator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ssdag.client.streams.stream import Stream

#: More than stands in an entry itself.
LARGE = np.arange(4096.0)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        Orchestrator() as db,
        Client(db.address, password_file=db.password_file) as made,
    ):
        yield made


@pytest.fixture
def stream(client: Client) -> Iterator[Stream]:
    made = client.stream("u")
    yield made
    made.delete()


def one(stream: Stream) -> Any:
    with stream.reader(timeout_s=20) as reader:
        return next(reader)


RECORDS = [
    np.arange(6.0).reshape(2, 3),
    np.array(3, ">i2"),
    np.empty((0, 4), np.complex64),
    np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
    np.array([(1, 2.5)], [("n", "<i4"), ("x", "<f8")]),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_an_array_comes_back_as_it_was(stream: Stream, record: np.ndarray[Any, Any]) -> None:
    stream.append(record)
    back = one(stream)
    assert back.dtype == record.dtype
    assert back.shape == record.shape
    assert back.flags.f_contiguous == record.flags.f_contiguous
    assert back.flags.writeable
    assert (back == record).all()


def test_a_dict_comes_back_as_it_was(stream: Stream) -> None:
    record = {
        "u": LARGE,
        "t": 0.1,
        "label": "größe",
        "n": 2**70,
        "on": True,
        "none": None,
        "raw": b"\x00\xff",
        "scalar": np.float64(2.5),
        "list": [1, "two"],
        "v": np.zeros((2, 0)),
    }
    stream.append(record)
    back = one(stream)
    assert list(back) == list(record)
    assert (back.pop("u") == record.pop("u")).all()
    assert back.pop("v").shape == (2, 0)
    assert type(back["scalar"]) is np.float64
    assert back["n"] == 2**70
    assert back["on"] is True
    del record["v"]
    assert back == record


def test_a_dataset_comes_back_as_it_was(stream: Stream) -> None:
    record = Dataset("step 7", {"u": LARGE, "ids": np.arange(3)}, {"t": 0.5, "by": ["a", "ü"]})
    stream.append(record)
    back = one(stream)
    assert isinstance(back, Dataset)
    assert back.name == "step 7"
    assert list(back) == ["u", "ids"]
    assert (back["u"] == LARGE).all()
    assert back.get_meta_scalars("t").tolist() == [0.5]
    assert back.get_meta_strings("by") == ["a", "ü"]


@pytest.mark.parametrize(
    "record", [{"a": object()}, {1: 2}, {"a": [np.zeros(2)]}, np.array([object()])]
)
def test_what_cannot_be_stored_is_said_at_once(stream: Stream, record: Any) -> None:
    with pytest.raises(DataFormatError):
        stream.append(record)
    assert len(stream) == 0


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (None, "NoneType is no record: it is an array, a dictionary"),
        ({1, 2}, "set is no record"),
        (iter([]), "is no record"),
        ("text", "no bare str.*{'text': value}"),
        (b"raw", "no bare bytes"),
        (np.str_("text"), "no bare str_"),
        ([[1, 2], [3]], "no rectangular array"),
    ],
)
def test_what_is_no_record_is_told_what_one_is(stream: Stream, record: Any, text: str) -> None:
    with pytest.raises(DataFormatError, match=text):
        stream.append(record)
    assert len(stream) == 0


def test_records_are_plain_npy_values(client: Client, stream: Stream) -> None:
    """A large array can be read with nothing but a Redis client and numpy."""
    stream.append(LARGE)
    ((_, fields),) = client.call("XRANGE", "{u}:stream", "-", "+")
    data = client.call("GET", fields[fields.index(b"at") + 1])
    assert (np.load(io.BytesIO(data)) == LARGE).all()
