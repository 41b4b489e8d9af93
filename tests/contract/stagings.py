# SPDX-License-Identifier: BSD-3-Clause
"""Places that stagings reach, for their contract tests: what is there, and what fails there."""

from __future__ import annotations

import email.utils
import functools
import http.server
import os
import shutil
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from ssdag.apps.files import File
from ssdag.apps.staging import places
from ssdag.apps.staging.archive import ZipStaging
from ssdag.apps.staging.http import HttpStaging
from ssdag.apps.staging.ssh import SshStaging
from tests.clusters.sshd import LoopbackSshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ssdag.apps.staging import RemoteStaging


@dataclass
class Place:
    """Where files of a kind lie.

    Parameters
    ----------
    staging : RemoteStaging
    put : callable
        ``put(name, content) -> File``: has a file there, as its owner would.
    get : callable, optional
        ``get(name) -> bytes or None``; None where nothing can be written.
    file : callable
        The File of a name.
    """

    staging: RemoteStaging
    put: Callable[[str, bytes], File]
    file: Callable[[str], File]
    get: Callable[[str], bytes | None] | None = None


class WebServer(http.server.ThreadingHTTPServer):
    """Serves a dictionary; answers can be made to go wrong.

    Attributes
    ----------
    gets : list of str
        Paths that were asked for by GET.
    codes : list of int
        Codes of the next answers, before things go well again.
    cut : int
        So many of the next answers end before their time.
    plain : bool
        Say nothing of versions, and answer to GET only.
    gate : threading.Event
        Answers to GET wait for it in the middle.
    """

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write nothing: clients that are killed are part of the tests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, tuple[bytes, float]] = {}
        self.gets: list[str] = []
        self.codes: list[int] = []
        self.cut = 0
        self.plain = False
        self.gate = threading.Event()
        self.gate.set()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{quote(name)}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def do_HEAD(self) -> None:
        if self.server.plain:
            self.send_error(405)
        elif not self._failed():
            self._head()

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        if self._failed():
            return
        content = self._head()
        if content is not None and self.server.cut:
            self.server.cut -= 1
            content = content[: len(content) // 2]
        content = content or b""
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.gate.wait(60)
        self.wfile.write(content[len(content) // 2 :])

    def _failed(self) -> bool:
        if not self.server.codes:
            return False
        self.send_error(self.server.codes.pop(0))
        return True

    def _head(self) -> bytes | None:
        if self.path not in self.server.files:
            self.send_error(404)
            return None
        content, time_s = self.server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if not self.server.plain:
            self.send_header("Last-Modified", email.utils.formatdate(time_s, usegmt=True))
        self.end_headers()
        return content


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A web server on loopback."""
    with WebServer() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def web_place(server: WebServer) -> Place:
    times = iter(range(1_000_000_000, 2_000_000_000))

    def put(name: str, content: bytes) -> File:
        server.files[f"/{quote(name)}"] = (content, float(next(times)))
        return File(server.url(name))

    return Place(HttpStaging(timeout_s=20), put, lambda name: File(server.url(name)))


def ssh_place(sshd: LoopbackSshd, folder: Path, *, rsync: bool) -> Place:
    options = [word for word in sshd.options if word not in ("-p", str(sshd.port))]

    def file(name: str) -> File:
        return File(f"ssh://{sshd.host}:{sshd.port}{quote(str(folder / 'far' / name))}")

    def put(name: str, content: bytes) -> File:
        path = folder / "far" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return file(name)

    def get(name: str) -> bytes | None:
        path = folder / "far" / name
        return path.read_bytes() if path.exists() else None

    return Place(SshStaging(options, rsync=rsync), put, file, get)


def zip_place(folder: Path) -> Place:
    archive = folder / "an archive.zip"

    def file(name: str) -> File:
        return File(f"zip:{quote(str(archive))}/{quote(name)}")

    def put(name: str, content: bytes) -> File:
        old = {}
        if archive.exists():
            with zipfile.ZipFile(archive) as members:
                old = {n: members.read(n) for n in members.namelist()}
        with zipfile.ZipFile(archive, "w") as members:
            for each, data in {**old, name: content}.items():
                members.writestr(each, data)
        return file(name)

    def get(name: str) -> bytes | None:
        if not archive.exists():
            return None
        with zipfile.ZipFile(archive) as members:
            return members.read(name) if name in members.namelist() else None

    return Place(ZipStaging(), put, file, get)


@dataclass
class Counting:
    """Counts the fetches of a staging."""

    staging: RemoteStaging
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        fetch = self.staging.fetch

        def counted(file: File, target: str) -> None:
            with self.lock:
                self.count += 1
            fetch(file, target)

        self.staging.fetch = counted  # type: ignore[method-assign]


# -- fixtures, which conftest.py makes known ---------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackSshd]:
    made = LoopbackSshd()
    made.stop()
    yield made
    made.close()


@pytest.fixture
def sshd(server: LoopbackSshd) -> Iterator[LoopbackSshd]:
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web_server() as server:
        yield server


@pytest.fixture
def staging_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The node's folder, for this test alone; empty afterwards."""
    parent = tmp_path / "cache"
    monkeypatch.setenv(places.VARIABLE, str(parent))
    made = parent / f"ssdag-staging-{os.getuid()}"
    yield made
    places.leave()
    assert not made.exists() or os.listdir(made) == ["users"]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = request.param
    if kind == "http":
        made = web_place(request.getfixturevalue("web"))
    elif kind == "zip":
        made = zip_place(tmp_path)
    else:
        if kind == "rsync" and shutil.which("rsync") is None:
            pytest.skip("no rsync")
        made = ssh_place(request.getfixturevalue("sshd"), tmp_path, rsync=kind == "rsync")
    made.staging.first_pause_s = 0.01
    return made
