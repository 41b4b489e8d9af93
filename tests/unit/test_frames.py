# SPDX-License-Identifier: BSD-3-Clause
"""Frames: whatever is sent comes out whole and in order, however the stream is cut."""

from __future__ import annotations

import itertools
import random
import signal
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.wire import frames
from ssdag.wire.frames import Frame, FrameReader, FrameWriter, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRATCH = frames._SCRATCH
DEADLINE_S = 30.0

#: Bytes from which parts of frames are cut: no two places look alike for long.
NOISE = random.Random(5).randbytes(SCRATCH + 99_991)

#: Around every border in the reader: none, a few, half of the scratch buffer, all of it.
SIZES = st.one_of(
    st.integers(0, 40),
    st.integers(0, 40_000),
    st.integers(-70, 70).map(lambda d: SCRATCH // 2 + d),
    st.integers(-70, 70).map(lambda d: SCRATCH + d),
)
SHAPES = st.tuples(SIZES, st.lists(SIZES, max_size=6))


def noise(size: int, at: int) -> bytes:
    return NOISE[at : at + size].ljust(size, b"~")


def build(shapes: list[tuple[int, list[int]]]) -> list[tuple[bytes, list[bytes]]]:
    """Make frames of given sizes; no two parts have the same content."""
    at = itertools.count()
    return [
        (noise(body, next(at)), [noise(size, next(at)) for size in sizes]) for body, sizes in shapes
    ]


def stream_of(parts: list[tuple[bytes, list[bytes]]]) -> bytes:
    return b"".join(b"".join(encode(body, buffers)) for body, buffers in parts)


def plain(frame: Frame) -> tuple[bytes, list[bytes]]:
    return bytes(frame.body), [bytes(b) for b in frame.buffers]


class Source:
    """A socket that gives a stream in pieces of chosen sizes, then its end."""

    def __init__(self, data: bytes, pieces: Iterator[int]) -> None:
        self._data = memoryview(data)
        self._pieces = pieces

    def recv_into(self, view: memoryview) -> int:
        assert len(view), "a receive of nothing looks like the end of the connection"
        count = min(len(view), max(1, next(self._pieces)), len(self._data))
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


def reader_of(data: bytes, pieces: Iterator[int]) -> FrameReader:
    return FrameReader(cast("socket.socket", Source(data, pieces)))


def read_all(reader: FrameReader) -> list[tuple[bytes, list[bytes]]]:
    """Read to the end of the stream; ``read`` must say rightly whether there is a frame."""
    found: list[tuple[bytes, list[bytes]]] = []
    while True:
        try:
            promised = reader.read()
        except EOFError:
            assert reader.take() is None
            return found
        first = reader.take()
        assert promised == (first is not None)
        while first is not None:
            found.append(plain(first))
            first = reader.take()


@settings(max_examples=120, deadline=None)
@given(
    shapes=st.lists(SHAPES, max_size=5),
    pieces=st.lists(st.one_of(st.integers(1, 64), st.integers(1, 2 * SCRATCH)), min_size=1),
)
def test_any_sizes_in_any_pieces(shapes: list[tuple[int, list[int]]], pieces: list[int]) -> None:
    parts = build(shapes)
    data = stream_of(parts)
    # Long streams in single bytes would take minutes.
    scale = 1 + len(data) // 20_000
    assert read_all(reader_of(data, itertools.cycle([p * scale for p in pieces]))) == parts


@settings(max_examples=60, deadline=None)
@given(shapes=st.lists(SHAPES, min_size=1, max_size=3), cut=st.floats(0, 1, exclude_max=True))
def test_a_frame_that_was_cut_never_comes_out(
    shapes: list[tuple[int, list[int]]], cut: float
) -> None:
    parts = build(shapes)
    data = stream_of(parts)
    length = int(cut * len(data))
    ends = itertools.accumulate(len(stream_of([part])) for part in parts)
    whole = sum(end <= length for end in ends)
    assert read_all(reader_of(data[:length], itertools.repeat(10_000))) == parts[:whole]


def test_small_frames_byte_by_byte_at_every_place_of_the_scratch_buffer() -> None:
    """A frame that reaches over the end of the scratch buffer is moved to its beginning."""
    part = (b"b" * 700, [b"x" * 13, b"", b"y" * 300])
    count = 3 * SCRATCH // 1000
    pieces = itertools.cycle([SCRATCH // 3 - 1, 1, 1, 997])
    assert read_all(reader_of(stream_of([part] * count), pieces)) == [part] * count


@pytest.mark.parametrize("number", [SCRATCH // 16 - 1, SCRATCH // 16 + 1, SCRATCH // 8, 100_000])
@pytest.mark.parametrize("piece", [1013, 1 << 30])
def test_a_table_of_sizes_larger_than_the_scratch_buffer(number: int, piece: int) -> None:
    parts = [(b"before", []), (b"body", [b"%d" % i for i in range(number)]), (b"after", [b"z"])]
    assert read_all(reader_of(stream_of(parts), itertools.repeat(piece))) == parts


def test_a_large_table_of_empty_buffers() -> None:
    parts = [(b"", [b""] * (SCRATCH // 8)), (b"after", [])]
    assert read_all(reader_of(stream_of(parts), itertools.repeat(SCRATCH))) == parts


def test_buffers_can_be_written_to_and_share_nothing() -> None:
    reader = reader_of(stream_of([(b"b", [b"one", b"two"])] * 2), itertools.repeat(1 << 20))
    assert reader.read()
    first, second = reader.take(), reader.take()
    assert first is not None
    assert second is not None
    first.buffers[0][:] = b"XXX"
    assert plain(first) == (b"b", [b"XXX", b"two"])
    assert plain(second) == (b"b", [b"one", b"two"])


def test_memory_of_a_large_frame_is_received_in_place() -> None:
    """Only what lies in the scratch buffer already is copied."""
    taken: list[int] = []

    class Counting(Source):
        def recv_into(self, view: memoryview) -> int:
            taken.append(len(view))
            return super().recv_into(view)

    size = 40 * SCRATCH
    data = stream_of([(b"b", [noise(size, 0)])])
    reader = FrameReader(cast("socket.socket", Counting(data, itertools.repeat(1 << 40))))
    assert not reader.read()
    assert reader.read()
    assert taken == [SCRATCH, len(data) - SCRATCH]


# -- what is no frame ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=IQ", 0, 1 << 62),
        struct.pack("=IQ", 0, (1 << 64) - 1),
        struct.pack("=IQQ", 1, 3, 1 << 62) + b"abc",
        struct.pack("=IQQQ", 2, 0, 1 << 63, 1 << 63),
        struct.pack("=IQ", (1 << 32) - 1, 3),
        b"this is what a task printed to a descriptor that it took for its own\n" * 9,
    ],
    ids=["body", "largest body", "buffer", "sum", "number", "text"],
)
def test_nonsense_is_an_error_and_takes_no_memory(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def modest(content: Any) -> bytearray:
        assert not isinstance(content, int) or not 1 << 30 < content < 1 << 45, "gigabytes"
        return bytearray(content)

    monkeypatch.setattr(frames, "bytearray", modest, raising=False)
    # What the hub takes for the end of the worker; anything else would end the hub.
    with pytest.raises((EOFError, OSError, MemoryError, OverflowError)):
        read_all(reader_of(data, itertools.repeat(SCRATCH)))


# -- writing ------------------------------------------------------------------------------


class Sink:
    """A socket that takes some of what it is given; zero stands for 'not now'."""

    def __init__(self, takes: Iterator[int]) -> None:
        self.data = bytearray()
        self._takes = takes

    def sendmsg(self, pieces: list[memoryview], *_: Any) -> int:
        assert len(pieces) <= 1024, "the kernel takes no more"
        limit = next(self._takes)
        if not limit:
            raise BlockingIOError
        data = b"".join(pieces)[:limit]
        self.data += data
        return len(data)


@settings(max_examples=120, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 300), st.lists(st.integers(0, 300), max_size=8)), max_size=8
    ),
    takes=st.lists(st.integers(0, 700), min_size=1).filter(any),
)
def test_partial_writes(shapes: list[tuple[int, list[int]]], takes: list[int]) -> None:
    parts = build(shapes)
    sink = Sink(itertools.cycle(takes))
    writer = FrameWriter(cast("socket.socket", sink))
    for body, buffers in parts:
        went = writer.send(encode(body, buffers))
        assert went == (not writer.backlog)
    while writer.backlog:
        went = writer.flush()
        assert went == (not writer.backlog)
    assert bytes(sink.data) == stream_of(parts)


def test_what_waits_is_not_copied() -> None:
    """The queue holds the caller's memory: a hub with a slow worker does not double it."""
    sink = Sink(iter([0, 1 << 20]))
    writer = FrameWriter(cast("socket.socket", sink))
    buffer = bytearray(b"before")
    assert not writer.send(encode(b"", [buffer]))
    buffer[:] = b"after!"
    assert writer.flush()
    assert sink.data.endswith(b"after!")


def test_ten_thousand_pieces() -> None:
    parts = [(b"b", [bytes([i % 251]) * (i % 7) for i in range(10_000)])]
    sink = Sink(itertools.repeat(1 << 30))
    assert FrameWriter(cast("socket.socket", sink)).send(encode(*parts[0]))
    assert bytes(sink.data) == stream_of(parts)


# -- real sockets -------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    theirs.settimeout(DEADLINE_S)
    with ours, theirs:
        yield ours, theirs


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_through_a_socket_that_blocks(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    parts = build([(10, []), (SCRATCH, [3_000_000, 0, 1]), (0, [0]), (5, [70_000] * 20)] * 3)
    writer = FrameWriter(ours)

    def write() -> None:
        for body, buffers in parts:
            assert writer.send(encode(body, buffers))
        ours.shutdown(socket.SHUT_WR)

    thread = in_thread(write)
    assert read_all(FrameReader(theirs)) == parts
    thread.join(DEADLINE_S)


def test_a_socket_that_does_not_block(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    theirs.setblocking(False)
    reader, writer = FrameReader(theirs), FrameWriter(ours)
    with pytest.raises(BlockingIOError):
        reader.read()
    parts = build([(9, [3_000_000, 5])])
    assert not writer.send(encode(*parts[0]))
    assert writer.backlog
    while reader.take() is None:
        writer.flush()
        try:
            if reader.read():
                break
        except BlockingIOError:
            continue
    frame = reader.take()
    assert frame is not None
    assert plain(frame) == parts[0]
    assert not writer.backlog
    with pytest.raises(BlockingIOError):
        reader.read()


def test_a_reader_that_is_gone_is_an_error_and_no_signal(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    theirs.close()
    told: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: told.append(number))
    try:
        with pytest.raises(BrokenPipeError):
            FrameWriter(ours).send(encode(b"x", []))
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert told == []
