# SPDX-License-Identifier: BSD-3-Clause
"""What stagings do when a server, a host, an archive or a disk fails."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ssdag import File
from ssdag.apps import staging
from ssdag.apps.staging import places
from ssdag.apps.staging.http import HttpStaging
from ssdag.apps.staging.ssh import SshStaging
from ssdag.errors import ConfigError, StagingError
from tests.conftest import wait_until
from tests.contract.stagings import Place, ssh_place, web_place, zip_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.clusters.sshd import LoopbackSshd
    from tests.contract.stagings import WebServer

KINDS = ["http", "ssh", "rsync", "zip"]

pytestmark = pytest.mark.usefixtures("staging_cache")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield disk
    finally:
        places.leave()
        umount = ["umount", str(disk)]  # a far rsync may still be about to end
        wait_until(lambda: subprocess.run(umount, check=False).returncode == 0, 20, "unmounted")


@pytest.mark.parametrize("size", [300_000, 1 << 20])  # a little too large: ssh ends with 0
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_node_s_disk_that_is_full(
    place: Place, size: int, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(places.VARIABLE, str(small_disk))
    small, large = place.put("small", b"x"), place.put("large", os.urandom(size))
    with pytest.raises(StagingError, match="No space left") as caught:
        place.staging.stage_in(large, None)
    assert not caught.value.transient
    assert Path(place.staging.stage_in(small, None)).read_bytes() == b"x"


@pytest.mark.parametrize("kind", ["ssh", "rsync", "zip"])
def test_a_disk_there_that_is_full(
    kind: str, small_disk: Path, tmp_path: Path, sshd: LoopbackSshd
) -> None:
    place = (
        zip_place(small_disk)
        if kind == "zip"
        else ssh_place(sshd, small_disk, rsync=kind == "rsync")
    )
    assert place.get is not None
    place.put("old", b"x" * 1000)
    (tmp_path / "old").write_bytes(os.urandom(1 << 20))
    with pytest.raises(StagingError, match="No space left") as caught:
        place.staging.stage_out(place.file("old"), str(tmp_path))
    assert not caught.value.transient
    assert place.get("old") == b"x" * 1000  # readers see what was there before
    (tmp_path / "old").write_bytes(b"little")
    place.staging.stage_out(place.file("old"), str(tmp_path))
    assert place.get("old") == b"little"


def test_a_process_that_is_killed_while_it_fetches(web: WebServer, staging_cache: Path) -> None:
    """Others wait for it, and then fetch the file themselves."""
    place = web_place(web)
    file = place.put("x", b"content")
    web.gate.clear()
    places.folder()
    script = (
        "import sys; from ssdag.apps.files import File\n"
        "from ssdag.apps.staging.http import HttpStaging\n"
        "HttpStaging().stage_in(File(sys.argv[1]), None)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    child = subprocess.Popen([sys.executable, "-c", script, file.url], env=env)
    with ThreadPoolExecutor(1) as thread:
        try:
            wait_until(lambda: web.gets, 20, "it fetches")
            other = thread.submit(place.staging.stage_in, file, None)
            with pytest.raises(TimeoutError):
                other.result(0.3)
        finally:
            child.kill()
            child.wait()
            web.gate.set()
        assert Path(other.result(20)).read_bytes() == b"content"
    assert len(web.gets) == 2


# -- web servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_that_fails_for_a_moment(web: WebServer, code: int) -> None:
    place = web_place(web)
    place.staging.first_pause_s = 0.01
    file = place.put("x", b"content")
    web.codes = [code, code]
    assert Path(place.staging.stage_in(file, None)).read_bytes() == b"content"


@pytest.mark.parametrize(("code", "asked"), [(500, 4), (403, 1), (401, 1)])
def test_a_server_that_refuses(web: WebServer, code: int, asked: int) -> None:
    place = web_place(web)
    place.staging.first_pause_s = 0.01
    file = place.put("x", b"content")
    web.codes = [code] * 20
    with pytest.raises(StagingError, match=f"answered {code}") as caught:
        place.staging.stage_in(file, None)
    assert caught.value.transient == (code == 500)
    assert len(web.gets) <= 1
    assert (f"tried {asked} times" in str(caught.value)) == (asked > 1)


def test_half_a_body(web: WebServer) -> None:
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


@pytest.mark.parametrize("instead", ['exec {real} --rsync-path=/no/rsync "$@"', "exit 11"])
def test_ssh_alone_where_rsync_fails(
    instead: str, sshd: LoopbackSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not there, or it ends without a word, as it does now and then on a full disk."""
    fake = tmp_path / "bin" / "rsync"
    fake.parent.mkdir()
    real = shutil.which("rsync") or pytest.skip("no rsync")
    fake.write_text(f"#!/bin/sh\n{instead.format(real=real)}\n")
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
