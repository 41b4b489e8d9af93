# SPDX-License-Identifier: BSD-3-Clause
"""What every staging must do, on real servers; and what each does when things go wrong."""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
import subprocess
import sys
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
from ssdag.errors import ConfigError, MissingDataError, MissingOutputError, StagingError
from ssdag.executors import LocalExecutor
from tests.contract.stagings import Counting, Place, web_place

if TYPE_CHECKING:
    from tests.contract.stagings import WebServer

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["http", "ssh", "rsync", "zip"]
NAMES = ["it's a.txt", "deep/er/-ü [x]*? #1%.bin"]


pytestmark = pytest.mark.usefixtures("staging_cache")
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
def test_a_file_that_is_not_there(place: Place, staging_cache: Path) -> None:
    place.put("x", b"")
    with pytest.raises(MissingDataError, match="there is no"):
        place.staging.stage_in(place.file("y"), None)
    left = os.listdir(staging_cache) if staging_cache.exists() else []
    assert not [name for name in left if ".part" in name]


@every
def test_an_empty_file(place: Place) -> None:
    assert Path(place.staging.stage_in(place.put("empty", b""), None)).read_bytes() == b""


@every
def test_a_staging_goes_to_workers(place: Place) -> None:
    copy = pickle.loads(pickle.dumps(place.staging))
    assert Path(copy.stage_in(place.put("x", b"1"), None)).read_bytes() == b"1"


@every
def test_what_fails_on_the_way_leaves_nothing(
    place: Place, staging_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = place.put("x", b"whole")
    fetch = place.staging.fetch

    def broken(file: File, target: str) -> None:
        Path(target).write_bytes(b"ha")
        raise StagingError("broke off")

    monkeypatch.setattr(place.staging, "fetch", broken)
    with pytest.raises(StagingError, match="broke off"):
        place.staging.stage_in(file, None)
    assert os.listdir(staging_cache) == ["users"]
    monkeypatch.setattr(place.staging, "fetch", fetch)
    assert Path(place.staging.stage_in(file, None)).read_bytes() == b"whole"


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


def test_what_killed_processes_left_is_removed(staging_cache: Path, web: WebServer) -> None:
    staging_cache.mkdir(parents=True)
    (staging_cache / "0123.part-x").mkdir()
    (staging_cache / "0123.lock").touch()
    assert places.folder() == str(staging_cache)
    assert os.listdir(staging_cache) == ["users"]


def test_a_folder_that_is_not_ours(staging_cache: Path, tmp_path: Path) -> None:
    staging_cache.parent.mkdir()
    staging_cache.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not a folder of ours"):
        places.folder()
    staging_cache.unlink()


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
