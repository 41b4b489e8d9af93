# SPDX-License-Identifier: BSD-3-Clause
"""Mapped files: what is shared, what is private, and that huge pages change no byte."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.wire.mapping import map_file, map_private, use_huge_pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def path() -> Iterator[str]:
    """A file where segments lie, too."""
    path = f"/dev/shm/ssdag-{os.getpid()}-test_mapping"
    yield path
    os.unlink(path)


def filled(path: str, size: int) -> bytes:
    """Write random bytes and return them."""
    content = np.random.default_rng(size).bytes(size)
    with open(path, "wb") as file:
        file.write(content)
    return content


def mapped_names() -> str:
    with open("/proc/self/maps") as file:
        return file.read()


@pytest.mark.parametrize("size", [1, 4096, 4097, 2 * MIB, 2 * MIB + 1, 5 * MIB, 8 * MIB])
def test_the_bytes_are_those_of_the_file_with_huge_pages_and_without(path: str, size: int) -> None:
    content = filled(path, size)
    assert bytes(map_private(path, size)) == content
    fd = os.open(path, os.O_RDWR)
    writer = map_file(fd, size, shared=True)
    os.close(fd)
    use_huge_pages(writer, size)
    assert bytes(writer) == content
    reader = map_private(path, size)
    assert bytes(reader) == content
    # What the writer changes is seen, what the reader changes is his alone.
    writer[size - 1] = (content[-1] + 1) % 256
    assert reader[size - 1] == (content[-1] + 1) % 256
    reader[0] = (content[0] + 7) % 256
    assert writer[0] == (content[0] if size > 1 else (content[0] + 1) % 256)
    assert bytes(writer[1 : size - 1]) == content[1 : size - 1]


def test_memory_is_unmapped_and_told_with_its_last_view(path: str) -> None:
    filled(path, 3 * MIB)
    gone: list[int] = []
    view = map_private(path, 3 * MIB, lambda: gone.append(1))
    array = np.frombuffer(view, np.uint8)[5:10]
    assert path in mapped_names()
    del view
    gc.collect()
    assert not gone
    del array
    gc.collect()
    assert gone == [1]
    assert path not in mapped_names()


def test_no_descriptor_stays_open(path: str) -> None:
    filled(path, MIB)
    before = len(os.listdir("/proc/self/fd"))
    views = [map_private(path, MIB) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    del views


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_private(str(tmp_path / "nothing"), 10)
