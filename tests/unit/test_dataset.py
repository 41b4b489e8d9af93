# SPDX-License-Identifier: BSD-3-Clause
"""Datasets in memory, and the packing of their metadata."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag import Dataset
from ssdag.client.datasets.keys import check_base, name_of
from ssdag.client.datasets.metadata import TENSOR_NAMES, Field, pack_texts, unpack, unpack_texts
from ssdag.errors import DataFormatError, MissingDataError

#: What SmartRedis 0.6.1 stored for the values beside it.
GOLDEN: dict[bytes, tuple[Any, list[Any]]] = {
    b"\x01\x00\x00\x00\x00\x00\x00\xf8?\x00\x00\x00\x00\x00\x00\x00\xc0": (np.float64, [1.5, -2.0]),
    b"\x02\x00\x00\x80>": (np.float32, [0.25]),
    b"\x03\xf9\xff\xff\xff": (np.int32, [-7]),
    b"\x04\x00\x00\x00\x00\x00\x01\x00\x00": (np.int64, [1 << 40]),
    b"\x05\x07\x00\x00\x00": (np.uint32, [7]),
    b"\x06\x01\x00\x00\x00\x00\x00\x00\x80": (np.uint64, [(1 << 63) + 1]),
    b"\x07\x05\0\0\0\0\0\0\0hello\x06\0\0\0\0\0\0\0w\xc3\xb6rld\0\0\0\0\0\0\0\0": (
        str,
        ["hello", "wörld", ""],
    ),
}


@pytest.mark.parametrize("stored", GOLDEN)
def test_bytes_of_smartredis(stored: bytes) -> None:
    kind, values = GOLDEN[stored]
    made = Dataset("d")
    for value in values:
        if kind is str:
            made.add_meta_string("f", value)
        else:
            made.add_meta_scalar("f", kind(value))
    assert made._fields["f"].packed() == stored
    field = unpack("f", stored)
    assert field.values == values
    assert field.dtype == (None if kind is str else np.dtype(kind))


def test_tensor_names_of_smartredis() -> None:
    stored = b"\x07\x01\0\0\0\0\0\0\0u\x07\0\0\0\0\0\0\0gr\xc3\xb6\xc3\x9fe\x01\0\0\0\0\0\0\0x"
    assert pack_texts(["u", "größe", "x"]) == stored
    assert unpack_texts(TENSOR_NAMES.decode(), stored) == ["u", "größe", "x"]


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_any_texts(texts: list[str]) -> None:
    assert unpack("f", Field(None, texts).packed()).values == texts


@given(
    st.sampled_from(["f8", "f4", "i4", "i8", "u4", "u8"]),
    st.lists(st.integers(0, 255), max_size=64),
)
def test_any_numbers(dtype: str, data: list[int]) -> None:
    raw = bytes(data[: len(data) // 8 * 8])
    values = np.frombuffer(raw, dtype)
    if not np.isnan(values).any():
        again = unpack("f", Field(np.dtype(dtype), values.tolist()).packed())
        assert again.array().tobytes() == raw


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"", "unknown type 0"),
        (b"\x08", "unknown type 8"),
        (b"1", "unknown type 49"),
        (b"\x01\0", "cut"),
        (b"\x07\x01", "cut"),
        (b"\x07\x01\0\0\0\0\0\0\0", "cut"),
        (b"\x07\xff\xff\xff\xff\xff\xff\xff\xff", "cut"),
    ],
)
def test_damage(stored: bytes, text: str) -> None:
    with pytest.raises(DataFormatError, match=text):
        unpack("f", stored)


def test_tensors() -> None:
    u = np.arange(6.0).reshape(2, 3)
    made = Dataset("d", {"u": u})
    assert made["u"] is u  # not copied
    made.add_tensor("v", [1, 2])
    with pytest.raises(DataFormatError, match="has a tensor 'v' already"):
        made.add_tensor("v", [3])
    made["v"] = [3]
    assert made.get_tensor("v").tolist() == [3]
    assert list(made) == made.tensor_names == made.get_tensor_names() == ["u", "v"]
    assert made.get_tensor_type("u") == np.float64
    assert made.get_tensor_dims("u") == (2, 3)
    assert "u" in made
    assert len(made) == 2
    assert made.nbytes == 48 + 8
    del made["u"]
    for call in (made.get_tensor, made.__delitem__, made.get_tensor_dims):
        with pytest.raises(MissingDataError, match=r"no tensor 'u' \(it has 'v'\)"):
            call("u")
    with pytest.raises(DataFormatError, match="can be called 'meta'"):
        made["meta"] = [1]
    with pytest.raises(DataFormatError, match="Python objects"):
        made["o"] = [object()]
    with pytest.raises(DataFormatError, match="must not be empty"):
        made[""] = [1]
    assert Dataset("d")
    assert made != Dataset("d", {"v": [3]})
    assert hash(made)
    assert "v: int64[1]" in repr(made)


def test_metadata() -> None:
    made = Dataset("d", None, {"step": 7, "tags": ["a", "b"], "box": np.arange(3, dtype="f4")})
    assert made.meta["step"] == 7
    assert made.meta["tags"] == ["a", "b"]
    assert made.meta["box"].dtype == np.float32
    assert made.get_meta_scalars("step").tolist() == [7]
    assert made.get_metadata_field_names() == ["step", "tags", "box"]
    assert made.get_metadata_field_type("tags") is str
    assert made.get_metadata_field_type("step") == np.int64
    assert made.has_field("box")
    made.clear_field("box")
    made.clear_field("box")
    assert not made.has_field("box")
    with pytest.raises(MissingDataError, match="no metadata field 'box'"):
        made.get_meta_scalars("box")
    with pytest.raises(MissingDataError, match="no metadata field 'box'"):
        del made.meta["box"]
    with pytest.raises(DataFormatError, match="holds texts"):
        made.get_meta_scalars("tags")
    with pytest.raises(DataFormatError, match="holds numbers"):
        made.get_meta_strings("step")
    with pytest.raises(DataFormatError, match="not of texts"):
        made.add_meta_string("step", "x")
    with pytest.raises(DataFormatError, match="is of type str"):
        made.add_meta_scalar("tags", 3)
    for name in (".COMPLETE", ".tensor_names"):
        with pytest.raises(DataFormatError, match="reserved"):
            made.meta[name] = 1
    made.meta["tags"] = np.array(["x", "yy"])
    assert made.get_meta_strings("tags") == ["x", "yy"]
    for text in (np.array("x"), np.str_("x")):
        made.meta["tags"] = text
        assert made.meta["tags"] == "x"


@pytest.mark.parametrize(
    ("value", "dtype", "stored"),
    [
        (True, "i4", 1),
        (np.int8(-3), "i4", -3),
        (np.uint16(3), "u4", 3),
        (np.float16(0.5), "f4", 0.5),
        (np.array(3, ">i4"), "i4", 3),
        (1 << 63, "u8", 1 << 63),
        (float("inf"), "f8", float("inf")),
    ],
)
def test_types_of_numbers(value: Any, dtype: str, stored: Any) -> None:
    made = Dataset("d")
    made.add_meta_scalar("f", value)
    assert made.get_metadata_field_type("f") == np.dtype(dtype)
    assert made.meta["f"] == stored
    made.meta["f"] = value
    assert made.get_metadata_field_type("f") == np.dtype(dtype)
    made.meta["f"] = [value, value]
    assert made.get_meta_scalars("f").tolist() == [stored, stored]


def test_plain_numbers_take_the_type_of_the_field() -> None:
    made = Dataset("d", None, {"f": np.float32(1), "u": np.uint32(1), "i": 1})
    made.add_meta_scalar("f", 2)
    made.add_meta_scalar("f", 0.5)
    made.add_meta_scalar("f", float("nan"))
    made.add_meta_scalar("u", 7)
    made.add_meta_scalar("i", 2.0)
    assert made.get_meta_scalars("f")[:3].tolist() == [1, 2, 0.5]
    assert made.get_metadata_field_type("i") == np.int64
    for field, value in (("f", 0.1), ("u", -1), ("i", 0.5), ("i", 1 << 64), ("i", np.int32(1))):
        with pytest.raises(DataFormatError):
            made.add_meta_scalar(field, value)


@pytest.mark.parametrize(
    "value",
    [1j, None, b"x", 1 << 64, [], [1, "a"], [[1]], ["a", 1], {}, np.datetime64(1, "s"), [1, 1.5j]],
)
def test_values_that_cannot_be_metadata(value: Any) -> None:
    made = Dataset("d")
    with pytest.raises(DataFormatError):
        made.meta["f"] = value
    if not isinstance(value, str):
        with pytest.raises(DataFormatError):
            made.add_meta_scalar("f", value)
    with pytest.raises(DataFormatError):
        made.add_meta_string("f", value)
    assert not made.has_field("f")


def test_integers_that_no_type_holds_together() -> None:
    with pytest.raises(DataFormatError, match="not exact"):
        Dataset("d").meta["f"] = [(1 << 63) + 1, -1]


def test_names() -> None:
    for name in ("", "}", "}x", 3, None, "\ud800x"):
        with pytest.raises(DataFormatError):
            Dataset(name)  # type: ignore[arg-type]
        with pytest.raises(DataFormatError):
            Dataset("d").set_name(name)  # type: ignore[arg-type]
    made = Dataset("a{b}c")
    made.name = "e"
    assert made.get_name() == "e"
    for base, name in ((b"{d}", "d"), (b"p.{d}", "d"), (b"p.{a{b}c}", "a{b}c")):
        assert name_of(base) == name
        assert check_base(base) == base
    for base in (b"", b"d", b"{}", b"{d", b"d}", b"{d}x", b"{}d}"):
        with pytest.raises(DataFormatError):
            name_of(base)
    with pytest.raises(DataFormatError, match="prefix"):
        check_base(b"{}.{d}")


def test_pickle() -> None:
    made = Dataset("d", {"u": [1, 2]}, {"t": ["a"], "n": np.uint32(3)})
    again = pickle.loads(pickle.dumps(made))
    assert again["u"].tolist() == [1, 2]
    assert dict(again.meta) == {"t": "a", "n": 3}
    assert again.get_metadata_field_type("n") == np.uint32
