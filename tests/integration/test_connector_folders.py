# SPDX-License-Identifier: BSD-3-Clause
"""Folders as connectors: full disks, killed writers, folders that go, memory used again."""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ssdag.connectors import DirectoryConnector, SharedMemoryConnector, inotify, segments
from ssdag.connectors import directory as directory_module
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError, StoreError
from tests.conftest import wait_until
from tests.contract import connector_bodies as bodies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryConnector:
    return DirectoryConnector(tmp_path / "store")


@pytest.fixture
def memory() -> Iterator[SharedMemoryConnector]:
    with SharedMemoryConnector(keep_bytes=8 * BIG) as made:
        yield made


def inode(connector: DirectoryConnector, key: str) -> int:
    return os.stat(os.path.join(connector.path, key)).st_ino


def is_locked(path: str) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Have the kernel refuse to write larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- what may go wrong -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_no_room(kind: str, request: pytest.FixtureRequest) -> None:
    connector: DirectoryConnector = request.getfixturevalue(kind)
    connector.write("x", [b"old"])
    with files_at_most(1000), pytest.raises(StoreError, match=r"'x'.*delete values"):
        connector.write("x", [bytes(BIG)])
    with files_at_most(1000), pytest.raises(StoreError):
        connector.add("y", [bytes(BIG)])
    assert bytes(connector.read("x")) == b"old"
    assert connector.keys() == ["x"]
    assert os.listdir(os.path.join(connector.path, ".parts")) == []


def test_what_a_killed_writer_has_begun_is_swept_away(folder: DirectoryConnector) -> None:
    parts = os.path.join(folder.path, ".parts")
    writer = bodies.start(folder, bodies.write_for_ever)
    folder.wait("x", 60)
    while True:
        os.kill(writer.pid, signal.SIGSTOP)
        os.waitpid(writer.pid, os.WUNTRACED)
        if any(is_locked(os.path.join(parts, name)) for name in os.listdir(parts)):
            break
        os.kill(writer.pid, signal.SIGCONT)  # it was between two values
    DirectoryConnector(folder.path)
    assert os.listdir(parts), "it is alive, and will go on"
    writer.kill()
    writer.wait(30)
    DirectoryConnector(folder.path)
    assert os.listdir(parts) == []
    assert folder.keys() == ["x"]


def test_a_file_that_was_swept_too_early_is_written_again(
    folder: DirectoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename
    swept: list[str] = []

    def rename(source: str, target: str) -> None:
        if not swept:
            swept.append(source)
            os.unlink(source)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    folder.write("x", [b"data"])
    assert swept
    assert bytes(folder.read("x")) == b"data"


def test_the_folder_goes_away(folder: DirectoryConnector) -> None:
    pickled = pickle.dumps(folder)
    folder.write("x", [b""])
    errors: list[Exception] = []

    def wait() -> None:
        try:
            folder.wait("never", 60)
        except StoreError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    os.rename(folder.path, folder.path + ".gone")
    waiting.join(60)
    assert "the folder is gone" in str(errors[0])
    for call in (folder.read, folder.exists, folder.delete, folder.take, folder.size):
        with pytest.raises(StoreError, match="folder is gone"):
            call("x")
    with pytest.raises(StoreError, match="folder is gone"):
        folder.write("x", [b""])
    with pytest.raises(StoreError, match="folder is gone"):
        folder.keys()
    directory_module._reopen.cache_clear()
    with pytest.raises(StoreError, match="is gone"):
        pickle.loads(pickled)


def test_on_another_machine(folder: DirectoryConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pickle.dumps(folder)
    shared = pickle.dumps(DirectoryConnector(folder.path, scope="shared"))
    directory_module._reopen.cache_clear()
    monkeypatch.setattr(directory_module, "machine", lambda: "another")
    with pytest.raises(StoreError, match="another machine") as caught:
        pickle.loads(own)
    assert not caught.value.transient
    again = pickle.loads(shared)
    assert again.scope == "shared"
    assert not again.local
    directory_module._reopen.cache_clear()


def test_folders_that_are_not_to_be_trusted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="no folder"):
        DirectoryConnector(tmp_path / "file")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write"):
        DirectoryConnector(tmp_path / "open")
    DirectoryConnector(tmp_path / "open", trusted=True).write("x", [b""])
    if os.geteuid() == 0:
        os.chown(tmp_path / "open", 12345, 12345)
        (tmp_path / "open").chmod(0o755)
        with pytest.raises(ConfigError, match="belongs to user 12345"):
            DirectoryConnector(tmp_path / "open")
    with pytest.raises(ConfigError, match="scope="):
        DirectoryConnector(tmp_path / "x", scope="network")  # type: ignore[arg-type]
    made = DirectoryConnector(tmp_path / "x" / "y")
    made.write("k", [b""])
    assert os.stat(made.path).st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "x" / "y" / "k").st_mode & 0o777 == 0o600


def test_folders_that_people_share(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        made = DirectoryConnector(tmp_path, trusted=True)
        made.write("k", [b""])
    finally:
        os.umask(before)
    assert os.stat(tmp_path / "k").st_mode & 0o777 == 0o660
    assert os.stat(tmp_path / ".parts").st_mode & 0o777 == 0o770


def test_hidden_folders_are_made_again(folder: DirectoryConnector) -> None:
    os.rmdir(os.path.join(folder.path, ".parts"))
    folder.write("x", [b"data"])
    assert bytes(folder.take("x")) == b"data"


def test_other_peoples_files_are_no_keys(folder: DirectoryConnector) -> None:
    os.mkdir(os.path.join(folder.path, "subfolder"))
    for name in (".hidden", "%zz"):
        with open(os.path.join(folder.path, name), "w"):
            pass
    assert folder.keys() == []
    assert not folder.exists("subfolder")
    with pytest.raises(StoreError, match="directory"):
        folder.read("subfolder")
    with pytest.raises(StoreError, match="directory"):
        folder.write("subfolder", [b""])


def test_where_the_system_has_no_more_watches(
    folder: DirectoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: str) -> None:
        raise OSError(24, "no inotify instance is left")

    monkeypatch.setattr(inotify, "FolderWatch", none_left)
    timer = threading.Timer(0.05, folder.write, ("x", [b""]))
    timer.start()
    folder.wait("x", 60)
    timer.join()


def test_watches_are_used_again(tmp_path: Path) -> None:
    """Also for another folder, and after one is gone; what is left of before is not heard."""
    first, second = DirectoryConnector(tmp_path / "a"), DirectoryConnector(tmp_path / "b")
    held = len(inotify._idle)
    for connector in (first, second, first):
        timer = threading.Timer(0.02, connector.write, ("x", [b""]))
        timer.start()
        connector.wait("x", 60)
        timer.join()
        connector.delete("x")
        assert 1 <= len(inotify._idle) <= max(held, 1)
        with pytest.raises(DataTimeoutError):
            connector.wait("x", 0.001)
    timer = threading.Timer(0.02, os.rename, (first.path, tmp_path / "gone"))
    timer.start()
    with pytest.raises(StoreError, match="folder is gone"):
        first.wait("x", 60)
    timer.join()
    with pytest.raises(DataTimeoutError):
        second.wait("x", 0.02)
    threads = [threading.Thread(target=second.wait, args=("y", 60)) for _ in range(8)]
    for thread in threads:
        thread.start()
    second.write("y", [b""])
    for thread in threads:
        thread.join(60)
    assert len(inotify._idle) <= inotify._KEEP


def test_where_there_are_no_links(
    folder: DirectoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    folder.write("a", [b"data"])
    monkeypatch.setattr(os, "link", no_links)
    folder.copy("a", "b")
    assert bytes(folder.read("b")) == b"data"


def test_thousands_of_mapped_values_keep_no_file_open(folder: DirectoryConnector) -> None:
    folder.write("x", [bytes(BIG)])
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    held = [folder.read("x") for _ in range(500)]
    assert len(os.listdir("/proc/self/fd")) <= before
    del held


# -- shared memory ---------------------------------------------------------------------


def test_memory_of_deleted_values_is_used_again(memory: SharedMemoryConnector) -> None:
    data = [os.urandom(BIG + i) for i in range(6)]
    memory.write("x", [data[0]])
    first = inode(memory, "x")
    memory.delete("x")
    memory.write("y", [data[1]])
    assert inode(memory, "y") == first
    memory.write("y", [data[2]])  # the new one is beside the old until it is whole
    second = inode(memory, "y")
    memory.write("y", [data[3]])
    memory.write("y", [data[4]])
    assert inode(memory, "y") == second
    assert bytes(memory.take("y")) == data[4]
    gc.collect()
    memory.write("z", [data[5]])
    assert inode(memory, "z") in (first, second)
    assert bytes(memory.read("z")) == data[5]
    for size in (BIG // 2, BIG, 2 * BIG, 3 * BIG, BIG - 1):
        memory.write("z", [data[0][:7] * (size // 7 + 1)])
        assert bytes(memory.read("z")) == data[0][:7] * (size // 7 + 1)


@pytest.mark.parametrize("size", [BIG, 5 * BIG])
def test_what_is_read_is_not_written_over(memory: SharedMemoryConnector, size: int) -> None:
    data = os.urandom(size)
    memory.write("x", [data])
    held = memory.read("x")
    memory.copy("x", "copy")
    for i in range(8):
        memory.write("x", [bytes([i]) * size])
        memory.delete("x")
    assert bytes(held) == data
    assert bytes(memory.read("copy")) == data
    memory.delete("copy")
    memory.write("y", [bytes(size)])
    assert bytes(held) == data


def test_another_process_reads_while_it_is_deleted(memory: SharedMemoryConnector) -> None:
    data = os.urandom(BIG)
    memory.write("x", [data])
    reader = bodies.start(memory, bodies.hold)
    memory.wait("held", 60)
    memory.delete("x")
    for _ in range(3):
        memory.write("y", [bytes(BIG)])
    memory.write("go", [b""])
    memory.wait("found", 60)
    assert bytes(memory.read("found")) == data
    assert reader.wait(60) == 0


def test_beyond_so_many_leases_values_are_copied(
    memory: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    before = len(segments._leases)
    monkeypatch.setattr(segments, "_MOST_LEASES", before + 2)
    data = os.urandom(BIG)
    memory.write("x", [data])
    held = [memory.read("x") for _ in range(5)]
    assert len(segments._leases) == before + 2
    memory.delete("x")
    memory.write("y", [bytes(BIG)])
    assert all(bytes(view) == data for view in held)
    del held
    gc.collect()
    assert len(segments._leases) == before


def test_only_so_much_memory_is_kept(memory: SharedMemoryConnector) -> None:
    for i in range(20):
        memory.write(f"k{i}", [bytes(BIG)])
    memory.delete_many(memory.keys())
    free = os.path.join(memory.path, ".free")
    assert 0 < sum(os.stat(os.path.join(free, n)).st_size for n in os.listdir(free)) <= 8 * BIG
    with SharedMemoryConnector(keep_bytes=0) as none:
        none.write("x", [bytes(BIG)])
        none.delete("x")
        assert os.listdir(os.path.join(none.path, ".free")) == []


def test_kept_memory_is_given_up_where_it_is_needed(
    memory: SharedMemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write("x", [bytes(4 * BIG)])
    memory.delete("x")
    real, full = os.writev, [True]

    def writev(fd: int, views: list[memoryview]) -> int:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        return real(fd, views)

    monkeypatch.setattr(os, "writev", writev)
    memory.write("y", [bytes(BIG)])
    assert os.listdir(os.path.join(memory.path, ".free")) == []
    full.append(True)
    with pytest.raises(StoreError, match="No space"):
        memory.write("z", [bytes(BIG)])
    assert memory.keys() == ["y"]


def test_reserve(memory: SharedMemoryConnector) -> None:
    size = 4 * BIG
    memory.reserve(size, 2)
    free = os.path.join(memory.path, ".free")
    reserved = {os.stat(os.path.join(free, n)).st_ino for n in os.listdir(free)}
    assert len(reserved) == 2
    data = os.urandom(size)
    memory.write("x", [data[:5], data[5:]])
    assert inode(memory, "x") in reserved
    assert bytes(memory.read("x")) == data
    for wrong in ((0, 1), (1, 0), (size, 3)):
        with pytest.raises(ConfigError, match="reserve"):
            memory.reserve(*wrong)
    with files_at_most(1000), pytest.raises(StoreError, match="reserve"):
        memory.reserve(size)
    assert os.listdir(os.path.join(memory.path, ".parts")) == []


def test_values_outlive_the_connector_where_they_are_used() -> None:
    data = os.urandom(BIG)
    connector = SharedMemoryConnector()
    connector.write("x", [data])
    array = np.frombuffer(connector.read("x"), np.uint8)
    connector.close()
    connector.close()
    assert not os.path.exists(connector.path)
    assert array.tobytes() == data
    with pytest.raises(StoreError, match="folder is gone"):
        connector.read("x")


DRIVER = """
import os, sys
from ssdag.connectors import SharedMemoryConnector
made = SharedMemoryConnector()
made.write("x", [bytes(1 << 20)])
sys.stdout.write(made.path)
sys.stdout.flush()
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_nothing_is_left_of_a_process_that_ends(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as driver:
        assert driver.stdout is not None
        path = driver.stdout.read1().decode()  # type: ignore[attr-defined]
        assert os.path.isdir(path)
        if end == "kill":
            driver.kill()
    wait_until(lambda: not os.path.exists(path), what="the folder is removed")


def test_a_value_is_deleted_while_it_is_opened(memory: SharedMemoryConnector) -> None:
    """Readers, a writer and a deleter of one key: whole values or none."""
    stop = threading.Event()
    wrong: list[bytes] = []

    def write() -> None:
        while not stop.is_set():
            for i in range(10):
                memory.write("x", [bytes([i]) * BIG])
                memory.delete("x")

    def read() -> None:
        for _ in range(150):
            try:
                found = bytes(memory.read("x"))
            except MissingDataError:
                continue
            if found != found[:1] * BIG:
                wrong.append(found)

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join(60)
    stop.set()
    writer.join(60)
    assert not wrong
