# SPDX-License-Identifier: BSD-3-Clause
"""The checkpoint file: kill -9, cut at any byte, garbage, full disk, two at once."""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
from hashlib import blake2b
from pathlib import Path

import pytest

from ssdag.dataflow import checkpoint_file, salvage
from ssdag.dataflow.checkpoint import Checkpoint
from ssdag.errors import CheckpointError


def key(n: int) -> bytes:
    return blake2b(str(n).encode(), digest_size=20).digest()


def value(n: int, size: int) -> bytes:
    """Return bytes of which each block of 16 occurs in one place only."""
    blocks = (blake2b(f"{n} {i}".encode(), digest_size=16).digest() for i in range(size // 16 + 1))
    return b"".join(blocks)[:size]


def script(body: str, *args: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(body), *map(str, args)]


def kept(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if ".damaged-" in p.name)


def test_put_load_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "c.sqlite"
    with Checkpoint(path) as checkpoint:
        assert checkpoint.load(key(1)) is None
        assert checkpoint.put(key(1), b"one", "app", 1.5)
        assert checkpoint.load(key(1)) == b"one"  # also while it waits for the disk
        assert checkpoint.put(key(2), value(2, 100_000), "app")
        assert checkpoint.flush(10)
        assert checkpoint.load(key(2)) == value(2, 100_000)
        assert len(checkpoint) == 2
        assert checkpoint.put(key(1), b"another")
    assert not checkpoint.put(key(3), b"closed")
    assert checkpoint.load(key(1)) is None
    checkpoint.close()
    with Checkpoint(str(path)) as again:
        assert again.load(key(1)) == b"another"
        assert len(again) == 2
        assert again.failed is None
        assert again.saved is None
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.sqlite"]


def test_anybody_can_read_it(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        checkpoint.put(key(1), b"one", "simulate", 1.5)
    with sqlite3.connect(tmp_path / "c") as connection:
        row = connection.execute("SELECT app, run_time_s, value FROM results").fetchone()
    connection.close()
    assert row == ("simulate", 1.5, b"one")


def test_many_rows_are_committed_in_groups(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "c") as checkpoint:
        for n in range(5000):
            checkpoint.put(key(n), value(n, 50))
        assert checkpoint.flush(20)
        assert len(checkpoint) == 5000
        assert all(checkpoint.load(key(n)) == value(n, 50) for n in range(0, 5000, 50))


@pytest.mark.parametrize("network", [False, True])
def test_two_processes_and_two_engines_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    monkeypatch.setattr(checkpoint_file, "on_network", lambda folder: network)
    body = """
        import sys
        from ssdag.dataflow import checkpoint_file
        from ssdag.dataflow.checkpoint import Checkpoint
        network = sys.argv[3] == "True"
        checkpoint_file.on_network = lambda folder: network
        start = int(sys.argv[2])
        with Checkpoint(sys.argv[1]) as c:
            for n in range(start, start + 300):
                c.put(n.to_bytes(20, "big"), b"v%d" % n)
                if n % 50 == 0: c.flush()
            assert c.flush() and c.failed is None, c.failed
    """
    path = tmp_path / "c"
    processes = [
        subprocess.Popen(script(body, path, start, network)) for start in (1000, 2000, 3000)
    ]
    with Checkpoint(path) as one, Checkpoint(path) as two:
        for n in range(200):
            (one, two)[n % 2].put(n.to_bytes(20, "big"), b"v%d" % n)
        assert one.flush(30)
        assert two.flush(30)
        assert [p.wait(60) for p in processes] == [0, 0, 0]
        assert len(one) == 1100
        assert two.load((2299).to_bytes(20, "big")) == b"v2299"
    with sqlite3.connect(path) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    connection.close()
    assert (mode == "wal") is not network


# -- damage --------------------------------------------------------------------------

SIZES = [30] * 120 + [3_000, 20_000, 5_000, 9_000] + [30] * 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a file with tree levels, overflow pages and plain leaves."""
    path = tmp_path_factory.mktemp("whole") / "c"
    with Checkpoint(path) as checkpoint:
        for n, size in enumerate(SIZES):
            checkpoint.put(key(n), value(n, size), "simulate", 0.5)
    return path.read_bytes()


@pytest.fixture(scope="module")
def ends(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[int, int]:
    """Return where the last byte of each row lies, found without following the format."""
    path = tmp_path_factory.mktemp("ends") / "c"
    path.write_bytes(whole)
    with sqlite3.connect(path) as connection:
        created = dict(connection.execute("SELECT key, created FROM results").fetchall())
    connection.close()
    found = {}
    for n, size in enumerate(SIZES):
        content = value(n, size)
        times = struct.pack(">dd", created[key(n)], 0.5)
        content += b"simulate" + times + salvage.row_check(key(n), content)
        # Windows at every offset, so that one ends where the row leaves each page.
        windows = (content[i : i + 8] for i in range(len(content) - 7))
        found[n] = max(whole.find(w) for w in windows if w != b"simulate") + 8
    return found


def whole_rows(ends: dict[int, int], cut: int) -> tuple[set[int], set[int]]:
    """Return the rows that must be found, and those that may be.

    Behind the part of a large row that is in the leaf come four bytes more, which point
    to the rest; and what is cut off reads as zeros, with which a digest may well end.
    """
    must = {n for n, end in ends.items() if end + 4 * (SIZES[n] > 3500) <= cut}
    return must, {n for n, end in ends.items() if end <= cut + 2}


def test_every_whole_row_is_found_wherever_the_file_is_cut(
    tmp_path: Path, whole: bytes, ends: dict[int, int]
) -> None:
    assert len(whole) > 15 * 4096
    for cut in range(0, len(whole), 61):
        (tmp_path / "c").write_bytes(whole[:cut])
        found = {row.key: row.value for row in salvage.rows(tmp_path / "c")}
        must, may = whole_rows(ends, cut)
        assert {key(n) for n in must} <= found.keys() <= {key(n) for n in may}, cut
        assert all(found.get(key(n), b"") in (b"", value(n, SIZES[n])) for n in may), cut


@pytest.mark.slow
def test_a_cut_file_is_repaired_and_usable(
    tmp_path: Path, whole: bytes, ends: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    edges = {p * 4096 + d for p in range(len(whole) // 4096) for d in (-1, 0, 1, 9)}
    head = {*range(0, 120, 3), 15, 16, 17, 71, 72, 99, 100}
    cuts = edges | head | set(range(0, len(whole), 611))
    for cut in sorted(c for c in cuts if 0 <= c < len(whole)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        path = folder / "c"
        path.write_bytes(whole[:cut])
        caplog.clear()
        must, may = whole_rows(ends, cut)
        with Checkpoint(path) as checkpoint:
            assert checkpoint.failed is None, cut
            saved = len(checkpoint)
            assert len(must) <= saved <= len(may), cut
            for n in must:
                assert checkpoint.load(key(n)) == value(n, SIZES[n]), (cut, n)
            checkpoint.put(key(-1), b"new")
            assert checkpoint.flush(10)
        if cut > 1:  # else SQLite takes it for a new one
            assert kept(path) == ["c.damaged-1"]
            assert (folder / "c.damaged-1").read_bytes() == whole[:cut]
            assert f"{saved} rows were saved" in caplog.text
            assert checkpoint.saved == saved
        with Checkpoint(path) as again:
            assert again.saved is None
            assert again.load(key(-1)) == b"new"
            assert len(again) == saved + 1


def test_garbage_in_the_middle(tmp_path: Path, whole: bytes, ends: dict[int, int]) -> None:
    rng = random.Random(4)
    for trial in range(60):
        folder = tmp_path / str(trial)
        folder.mkdir()
        path = folder / "c"
        start = rng.randrange(100, len(whole) - 200)
        length = rng.choice([1, 16, 200])
        path.write_bytes(whole[:start] + rng.randbytes(length) + whole[start + length :])
        with Checkpoint(path) as checkpoint:
            assert checkpoint.failed is None
            good = 0
            for n in range(len(SIZES)):
                found = checkpoint.load(key(n))
                assert found in (None, value(n, SIZES[n])), (trial, n)
                good += found is not None
            # What the bytes hit is lost (a page at most, or one large row), never more.
            assert good >= len(SIZES) - 70, (trial, start)
            checkpoint.put(key(0), b"again")
            assert checkpoint.flush(10)
            assert checkpoint.load(key(0)) == b"again"


def test_a_row_changed_on_the_disk_is_absent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    with Checkpoint(path) as checkpoint:
        checkpoint.put(key(1), value(1, 500))
    data = bytearray(path.read_bytes())
    data[data.find(value(1, 500)) + 5] ^= 1
    path.write_bytes(data)
    with Checkpoint(path) as checkpoint:
        assert checkpoint.load(key(1)) is None
        assert "changed on the disk" in caplog.text
        checkpoint.put(key(1), b"again")
        checkpoint.flush()
        assert checkpoint.load(key(1)) == b"again"


def test_rows_in_the_log_of_a_damaged_file_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "c"
    body = """
        import os, sys
        from ssdag.dataflow.checkpoint import Checkpoint
        for start in (0, 50):
            c = Checkpoint(sys.argv[1])
            for n in range(start, start + 50): c.put(n.to_bytes(20, "big"), b"x" * 300)
            c.flush()
            if not start: c.close()
        os._exit(0)   # the log stays
    """
    assert subprocess.run(script(body, path), check=False).returncode == 0
    assert (tmp_path / "c-wal").stat().st_size > 0
    path.write_bytes(path.read_bytes()[:9000])
    with Checkpoint(path) as checkpoint:
        assert all(checkpoint.load(n.to_bytes(20, "big")) for n in range(52, 100))
        assert 50 < len(checkpoint) < 100
    assert "c.damaged-1" in kept(path)


def test_the_log_is_laid_over_the_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "c", tmp_path / "copy"
    with Checkpoint(path) as checkpoint:
        checkpoint.put(key(1), value(1, 9000))
        checkpoint.flush()
        copy.write_bytes(path.read_bytes()[:10])
        (tmp_path / "copy-wal").write_bytes((tmp_path / "c-wal").read_bytes())
    assert {row.key: row.value for row in salvage.rows(copy)} == {key(1): value(1, 9000)}
    kept_as = salvage.set_aside(copy)
    assert kept(copy) == [kept_as.name, kept_as.name + "-wal"]
    assert salvage.set_aside(copy).name == "copy.damaged-2"


@pytest.mark.parametrize("content", [b"x", b"hello", b"x" * 10_000, b"\0" * 5000, b"{}\n"])
def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a checkpoint file.*left as it is") as info:
        Checkpoint(path)
    assert info.value.path == str(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["c"]


def test_another_programs_database_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE results (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="SQLite file of another program"):
        Checkpoint(path)
    assert path.read_bytes() == before
    path.write_bytes(before[:2000])  # cut: still not ours to put aside
    with pytest.raises(CheckpointError, match="not a checkpoint file"):
        Checkpoint(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        Checkpoint(tmp_path)


def test_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c"
    Checkpoint(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(CheckpointError, match="newer version"):
        Checkpoint(path)


def test_damaged_while_another_process_has_it_open(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(whole)
    body = """
        import sys
        from ssdag.dataflow.checkpoint import Checkpoint
        with Checkpoint(sys.argv[1]) as c:
            c.load(b"")
            print("open", flush=True)
            sys.stdin.read()
    """
    command = script(body, path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        os.truncate(path, 30_000)
        with Checkpoint(path) as checkpoint:
            assert "another process uses it" in str(checkpoint.failed)
            assert not checkpoint.put(key(1), b"x")
        other.communicate(b"")
    assert kept(path) == []


# -- kill -9, full disk --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("network", [False, True])
def test_kill_9_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    monkeypatch.setattr(checkpoint_file, "on_network", lambda folder: network)
    body = """
        import sys
        from ssdag.dataflow import checkpoint_file
        from ssdag.dataflow.checkpoint import Checkpoint
        network = sys.argv[3] == "True"
        checkpoint_file.on_network = lambda folder: network
        n = int(sys.argv[2])
        c = Checkpoint(sys.argv[1])
        while True:
            for _ in range(20):
                c.put(n.to_bytes(20, "big"), b"%d " % n * (10 if n % 7 else 3000))
                n += 1
            assert c.flush()
            print(n, flush=True)   # all below n are on the disk
    """
    path, done, rng = tmp_path / "c", 0, random.Random(1)
    for _ in range(20):
        command = script(body, path, done, network)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(rng.randrange(1, 6)):
                done = int(process.stdout.readline())
            timer = threading.Timer(rng.random() * 0.02, process.send_signal, [signal.SIGKILL])
            timer.start()
            for line in process.stdout:
                if line.endswith(b"\n"):
                    done = int(line)
            timer.join()
        with Checkpoint(path) as checkpoint:
            assert checkpoint.failed is None
            assert checkpoint.saved is None
            assert len(checkpoint) >= done
            for n in range(0, done, 7):
                assert checkpoint.load(n.to_bytes(20, "big")) == b"%d " % n * 3000
    assert kept(path) == []


FILL = """
    import logging, os, sys, resource
    logging.basicConfig(format="%(levelname)s %(message)s")
    from ssdag.dataflow.checkpoint import Checkpoint
    if len(sys.argv) > 2: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)
    c = Checkpoint(sys.argv[1])
    for n in range(400):
        c.put(n.to_bytes(20, "big"), os.urandom(5000))
        if n % 20 == 0: c.flush()
    print(c.flush(), type(c.failed).__name__, c.dropped > 0, c.load(bytes(20)) is not None)
    c.close()
"""


@pytest.mark.parametrize("limit", [True, False], ids=["file size limit", "full disk"])
def test_full_disk_lets_the_run_go_on(tmp_path: Path, limit: bool) -> None:
    mounted = False
    if not limit:
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system needs root")
        mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this container may not mount a file system")
        mounted = True
    try:
        path = tmp_path / "c"
        command = script(FILL, path, *(["limit"] if limit else []))
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.split() == ["False", "OperationalError", "True", "True"]
        warnings = [line for line in run.stderr.splitlines() if line.startswith("WARNING")]
        assert len(warnings) == 1
        assert "the run goes on without it" in warnings[0]
        with Checkpoint(path) as checkpoint:  # what was committed is there
            assert checkpoint.saved is None
            assert len(checkpoint) > 10
    finally:
        if mounted:
            subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        checkpoint = Checkpoint("/proc/nowhere/c")  # not even by root
        assert not checkpoint.put(key(1), b"x")
        assert checkpoint.load(key(1)) is None
        assert len(checkpoint) == 0
        assert checkpoint.flush(1)
        checkpoint.close()
    assert isinstance(checkpoint.failed, OSError)
    assert len(caplog.records) == 1


def test_rows_of_a_file_that_cannot_be_written_still_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    with Checkpoint(path) as checkpoint:
        checkpoint.put(key(1), b"one")

    def refuse(path: Path) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("ssdag.dataflow.checkpoint.open_file", refuse)
    with Checkpoint(path) as checkpoint:
        assert checkpoint.load(key(1)) == b"one"
        assert not checkpoint.put(key(2), b"two")


def test_network_file_systems_are_known(tmp_path: Path) -> None:
    assert not checkpoint_file.on_network(Path("/proc"))
    assert not checkpoint_file.on_network(Path("/dev/shm"))
