# SPDX-License-Identifier: BSD-3-Clause
"""What every staging must do, on real servers; and what each does when things go wrong."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING

import pytest

import ssdag
from ssdag import File, bash_app, python_app
from ssdag.apps import staging
from ssdag.apps.staging import RemoteStaging, finding, places
from ssdag.apps.staging.base import shown
from ssdag.apps.staging.http import HttpStaging
from ssdag.apps.staging.ssh import SshStaging
from ssdag.errors import ConfigError, MissingDataError, MissingOutputError, StagingError
from ssdag.executors import LocalExecutor
from tests.clusters.sshd import LoopbackSshd
from tests.contract.stagings import Counting, Place, ssh_place, web_place, web_server, zip_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.stagings import WebServer

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["http", "ssh", "rsync", "zip"]
NAMES = ["it's a.txt", "deep/er/-ü [x]*? #1%.bin"]


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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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


every = pytest.mark.parametrize("place", KINDS, indirect=True)
writable = pytest.mark.parametrize("place", KINDS[1:], indirect=True)


# -- the contract --------------------------------------------------------------------------


@every
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_brought_here(place: Place, name: str, tmp_path: Path) -> None:
    file = place.put(name, b"\0content\n" * 1000)
    assert place.staging.can_stage_in(file)
    here = place.staging.stage_in(file, None)
    assert here.url == file.url
    assert Path(here).read_bytes() == b"\0content\n" * 1000
    assert Path(here).name == Path(name).name
    assert stat.S_IMODE(Path(here).stat().st_mode) == 0o400
    inside = place.staging.stage_in(file, str(tmp_path / "work"))
    assert Path(inside) == tmp_path / "work" / Path(name).name
    assert Path(inside).read_bytes() == b"\0content\n" * 1000


@every
def test_a_file_is_fetched_once_until_it_changes(place: Place) -> None:
    file = place.put("x", b"one")
    counting = Counting(place.staging)
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: str(place.staging.stage_in(file, None)), range(8)))
    assert len(found) == counting.count == 1
    place.put("x", b"two!")
    new = place.staging.stage_in(file, None)
    assert Path(new).read_bytes() == b"two!"
    assert Path(found.pop()).read_bytes() == b"one"  # for who still reads it
    assert counting.count == 2


@every
def test_a_file_that_is_not_there(place: Place, cache: Path) -> None:
    place.put("x", b"")
    with pytest.raises(MissingDataError, match="there is no"):
        place.staging.stage_in(place.file("y"), None)
    assert not [name for name in os.listdir(cache) if ".part" in name] if cache.exists() else True


@every
def test_an_empty_file(place: Place) -> None:
    assert Path(place.staging.stage_in(place.put("empty", b""), None)).read_bytes() == b""


@every
def test_a_staging_goes_to_workers(place: Place) -> None:
    copy = pickle.loads(pickle.dumps(place.staging))
    assert Path(copy.stage_in(place.put("x", b"1"), None)).read_bytes() == b"1"


@every
def test_what_fails_on_the_way_leaves_nothing(
    place: Place, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.put("x", b"whole")
    fetch = place.staging.fetch

    def broken(file: File, target: str) -> None:
        Path(target).write_bytes(b"ha")
        raise StagingError("broke off")

    monkeypatch.setattr(place.staging, "fetch", broken)
    with pytest.raises(StagingError, match="broke off"):
        place.staging.stage_in(file, None)
    assert os.listdir(cache) == ["users"]
    monkeypatch.setattr(place.staging, "fetch", fetch)
    assert Path(place.staging.stage_in(file, None)).read_bytes() == b"whole"


@every
def test_a_full_disk(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        monkeypatch.setenv(places.VARIABLE, str(disk))
        small, large = place.put("small", b"x"), place.put("large", os.urandom(1 << 20))
        with pytest.raises(StagingError, match="No space left") as caught:
            place.staging.stage_in(large, None)
        assert not caught.value.transient
        assert Path(place.staging.stage_in(small, None)).read_bytes() == b"x"
    finally:
        places.leave()
        subprocess.run(["umount", str(disk)], check=True)


@writable
@pytest.mark.parametrize("name", NAMES)
def test_an_output_is_brought_to_its_place(place: Place, name: str, tmp_path: Path) -> None:
    assert place.get is not None
    assert place.staging.can_stage_out(place.file(name))
    source = tmp_path / Path(name).name
    source.write_bytes(b"first, and longer" * 9999)
    place.staging.stage_out(place.file(name), str(tmp_path))
    assert place.get(name) == b"first, and longer" * 9999
    source.write_bytes(b"second")
    place.staging.stage_out(place.file(name).at(source), None)
    assert place.get(name) == b"second"
    assert Path(place.staging.stage_in(place.file(name), None)).read_bytes() == b"second"


@writable
def test_an_output_that_was_not_written(place: Place, tmp_path: Path) -> None:
    with pytest.raises(MissingOutputError) as caught:
        place.staging.stage_out(place.file("x"), str(tmp_path))
    assert caught.value.missing
    (tmp_path / "x").mkdir()
    with pytest.raises(StagingError, match="is no file"):
        place.staging.stage_out(place.file("x"), str(tmp_path))


@writable
def test_apps_take_and_make_files_elsewhere(place: Place) -> None:
    assert place.get is not None

    @python_app
    def double(inputs: list[File], outputs: list[File]) -> bool:
        Path(outputs[0]).write_text(Path(inputs[0]).read_text() * 2)
        return Path(outputs[0]).parent != Path(inputs[0]).parent

    @bash_app
    def count(inputs: list[File], outputs: list[File]) -> str:
        return f"wc -c <{inputs[0]} >{outputs[0]}"

    first = place.put("in", b"abc")
    config = ssdag.Config(executors=[LocalExecutor(max_workers=1)], staging=[place.staging])
    with ssdag.load(config):
        doubled = double(inputs=[first], outputs=[place.file("middle")])
        counted = count(inputs=[doubled.outputs[0]], outputs=[place.file("out")])
        assert counted.result(60) == 0
        assert doubled.result(60)
        assert counted.outputs[0].result() == place.file("out")
        missing = count(inputs=[place.file("nope")], outputs=[place.file("never")])
        with pytest.raises(MissingDataError):
            missing.result(60)
    assert place.get("middle") == b"abcabc"
    assert place.get("out") == b"6\n"
    assert place.get("never") is None


# -- the node's folder ---------------------------------------------------------------------


_STAGE = """
import sys
from ssdag.apps.files import File
from ssdag.apps.staging.http import HttpStaging
print("ready", flush=True)
sys.stdin.readline()
print(HttpStaging().stage_in(File(sys.argv[1]), None), flush=True)
sys.stdin.read()
"""


def test_processes_of_a_node_fetch_a_file_once(web: WebServer) -> None:
    file = web_place(web).put("x", b"content")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", _STAGE, file.url]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, text=True, bufsize=1, env=env)
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
        found = {process.stdout.readline().strip() for process in processes if process.stdout}
        assert len(found) == 1
        assert Path(found.pop()).read_bytes() == b"content"
    assert web.gets == ["/x"]


def test_what_killed_processes_left_is_removed(cache: Path, web: WebServer) -> None:
    cache.mkdir(parents=True)
    (cache / "0123.part-x").mkdir()
    (cache / "0123.lock").touch()
    assert places.folder() == str(cache)
    assert os.listdir(cache) == ["users"]


def test_a_folder_that_is_not_ours(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir()
    cache.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not a folder of ours"):
        places.folder()
    cache.unlink()


# -- web servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_that_fails_for_a_moment(web: WebServer, code: int) -> None:
    place = web_place(web)
    place.staging.first_pause_s = 0.01
    file = place.put("x", b"content")
    web.codes = [code, code]
    assert Path(place.staging.stage_in(file, None)).read_bytes() == b"content"


@pytest.mark.parametrize(("code", "asked"), [(500, 4), (403, 1), (401, 1)])
def test_a_server_that_refuses(web: WebServer, code: int, asked: int, cache: Path) -> None:
    place = web_place(web)
    place.staging.first_pause_s = 0.01
    file = place.put("x", b"content")
    web.codes = [code] * 20
    with pytest.raises(StagingError, match=f"answered {code}") as caught:
        place.staging.stage_in(file, None)
    assert caught.value.transient == (code == 500)
    assert len(web.gets) <= 1
    assert (f"tried {asked} times" in str(caught.value)) == (asked > 1)


def test_half_a_body(web: WebServer, cache: Path) -> None:
    place = web_place(web)
    place.staging.first_pause_s = 0.01
    file = place.put("x", b"content" * 1000)
    web.cut = 2
    assert Path(place.staging.stage_in(file, None)).read_bytes() == b"content" * 1000
    assert len(web.gets) == 3
    other = place.put("y", b"content" * 1000)
    web.cut = 99
    with pytest.raises(StagingError, match="ended after 3500 of 7000 bytes"):
        place.staging.stage_in(other, None)


def test_a_server_that_tells_no_versions(web: WebServer) -> None:
    place = web_place(web)
    web.plain = True
    for content in (b"1", b"2"):
        assert Path(place.staging.stage_in(place.put("x", content), None)).read_bytes() == content


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = HttpStaging()
    one.first_pause_s = 0.01
    with pytest.raises(StagingError, match="not reached") as caught:
        one.stage_in(File("http://me:secret@127.0.0.1:1/x?token=secret"), None)
    assert caught.value.transient
    assert "secret" not in str(caught.value)


# -- ssh -----------------------------------------------------------------------------------


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    one = SshStaging(["-F", "none", "-p", "1"])
    one.first_pause_s = 0.01
    with pytest.raises(StagingError, match="not reached") as caught:
        one.stage_in(File("ssh://127.0.0.1/etc/hostname"), None)
    assert caught.value.transient


def test_a_folder_is_no_file(sshd: LoopbackSshd, tmp_path: Path) -> None:
    place = ssh_place(sshd, tmp_path, rsync=True)
    place.put("d/x", b"")
    with pytest.raises(StagingError, match="is a folder"):
        place.staging.stage_in(place.file("d"), None)


def test_a_host_without_rsync(
    sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "rsync"
    fake.parent.mkdir()
    real = shutil.which("rsync") or pytest.skip("no rsync")
    fake.write_text(f'#!/bin/sh\nexec {real} --rsync-path=/no/rsync "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    place = ssh_place(sshd, tmp_path, rsync=True)
    assert Path(place.staging.stage_in(place.put("x", b"1"), None)).read_bytes() == b"1"


@pytest.mark.parametrize("url", ["ssh://-oProxyCommand=x/a", "ssh://me:word@host/a", "ssh:///a"])
def test_hosts_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        SshStaging().stage_in(File(url), None)


# -- archives ------------------------------------------------------------------------------


def test_writers_of_one_archive_wait_for_one_another(tmp_path: Path) -> None:
    place = zip_place(tmp_path)
    assert place.get is not None

    def write(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"m{number}").write_bytes(b"%d" % number)
        place.staging.stage_out(place.file(f"m{number}"), str(tmp_path / str(number)))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(16)))
    assert [place.get(f"m{n}") for n in range(16)] == [b"%d" % n for n in range(16)]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_a_damaged_archive(tmp_path: Path) -> None:
    place = zip_place(tmp_path)
    file = place.put("x", b"content" * 1000)
    archive = tmp_path / "an archive.zip"
    whole = archive.read_bytes()
    archive.write_bytes(whole.replace(b"content", b"cOntent", 1))
    with pytest.raises(StagingError, match="damaged"):
        place.staging.stage_in(file, None)
    (tmp_path / "y").write_bytes(b"new")
    for broken in (whole[: len(whole) // 2], b"no archive at all", b""):
        archive.write_bytes(broken)
        with pytest.raises(StagingError, match="damaged") as caught:
            place.staging.stage_in(file, None)
        assert not caught.value.transient
        with pytest.raises(StagingError, match="damaged"):
            place.staging.stage_out(place.file("y"), str(tmp_path))
        assert archive.read_bytes() == broken


def test_members_that_lead_out(tmp_path: Path) -> None:
    archive = tmp_path / "an archive.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("../out", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        members.writestr(link, "/etc/passwd")
    place = zip_place(tmp_path)
    with pytest.raises(StagingError, match="is a link"):
        place.staging.stage_in(place.file("link"), None)
    for name in ("../out", "a/../../out", "a//b", "."):
        with pytest.raises(ConfigError):
            place.staging.stage_in(place.file(name), None)
        (tmp_path / "out").write_text("x")
        with pytest.raises(ConfigError):
            place.staging.stage_out(place.file(name).at(tmp_path / "out"), None)


@pytest.mark.parametrize("url", ["zip:/a.zip", "zip:/a/b", "zip:/a.zip/", "zip:/.zip/a"])
def test_names_of_no_member(url: str) -> None:
    with pytest.raises(ConfigError, match=r"names no member|name of a file"):
        staging.find(File(url)).stage_in(File(url), None)


# -- finding -------------------------------------------------------------------------------


def test_stagings_of_the_configuration_come_first() -> None:
    mine = HttpStaging(timeout_s=1)
    assert staging.find(File("http://a/b"), stagings=[mine]) is mine
    assert staging.find(File("ssh://a/b"), stagings=[mine]) is staging.find(File("ssh://a/b"))
    with pytest.raises(ConfigError, match="not a Staging"):
        ssdag.Config(staging=[HttpStaging])
    assert shown(File("ssh://me@h/x?y")) == "ssh://me@h/x?..."


class _Upper(RemoteStaging):
    """Files that are made from their names."""

    schemes = ("upper",)

    def version(self, file: File) -> str:
        return "1"

    def fetch(self, file: File, target: str) -> None:
        Path(target).write_text(file.filename.upper())


class _Point:
    def __init__(self, name: str, what: object) -> None:
        self.name = name
        self.what = what

    def load(self) -> object:
        if self.what is None:
            raise ImportError("no such module")
        return self.what


def test_stagings_of_packages_are_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [_Point("broken", None), _Point("upper", _Upper)]
    monkeypatch.setattr(
        finding, "entry_points", lambda group: points if group == "ssdag.staging" else []
    )
    finding._installed.cache_clear()
    try:
        file = File("upper://x/abc")
        assert Path(staging.find(file).stage_in(file, None)).read_text() == "ABC"
        with pytest.raises(ConfigError, match="known: file, http, https, rsync, ssh, upper, zip"):
            staging.find(File("lower://x/abc"))
        assert any("'broken' cannot be loaded" in text for text in caplog.messages)
    finally:
        finding._installed.cache_clear()
