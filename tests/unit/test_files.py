# SPDX-License-Identifier: BSD-3-Clause
"""Files: names, fingerprints, staging."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ssdag.apps import files, staging
from ssdag.apps.files import File
from ssdag.apps.staging import LocalStaging
from ssdag.errors import ConfigError, MissingDataError, MissingOutputError


@pytest.mark.parametrize(
    ("url", "scheme", "netloc", "path", "name"),
    [
        ("a/b.txt", "file", "", "a/b.txt", "b.txt"),
        ("/a/b c#?%20.txt", "file", "", "/a/b c#?%20.txt", "b c#?%20.txt"),
        ("file:///a/b%20c", "file", "", "/a/b c", "b c"),
        ("file://localhost/a", "file", "localhost", "/a", "a"),
        ("file:a", "file", "", "a", "a"),
        ("run:3.txt", "file", "", "run:3.txt", "run:3.txt"),
        ("d/x:1", "file", "", "d/x:1", "x:1"),
        ("https://host:80/p/q.zip", "https", "host:80", "/p/q.zip", "q.zip"),
        ("s3://bucket/k", "s3", "bucket", "/k", "k"),
    ],
)
def test_parts(url: str, scheme: str, netloc: str, path: str, name: str) -> None:
    file = File(url)
    assert (file.url, file.scheme, file.netloc, file.path) == (url, scheme, netloc, path)
    assert file.filename == name
    assert file.local_path is None
    if scheme == "file":
        assert os.fspath(file) == str(file) == file.filepath == path
    else:
        with pytest.raises(ConfigError, match="not staged"):
            os.fspath(file)
        assert os.fspath(file.at("/x")) == "/x"


@pytest.mark.parametrize("url", ["", b"a", 3, None, "file://host/a", "file://", "file:///a?b"])
def test_names_that_are_wrong(url: object) -> None:
    with pytest.raises(ConfigError):
        File(url)  # type: ignore[arg-type]


def test_never_changes_and_compares_by_value() -> None:
    file = File(Path("a"))
    with pytest.raises(AttributeError, match="never changes"):
        file.url = "b"
    with pytest.raises(AttributeError, match="never changes"):
        del file.url
    assert file == File("a")
    assert file != File("b")
    assert file != file.at("/x")
    assert file.at("/x").cleancopy() == file
    assert file != "a"
    assert len({file, File("a"), file.at("/x")}) == 2
    assert pickle.loads(pickle.dumps(file.at("/x"))) == file.at("/x")
    assert repr(file.at("/x")) == "File('a', local_path='/x')"


def set_age(path: Path, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file look `seconds` old, also its inode."""
    now = path.stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: now + seconds)


def test_fingerprint_follows_the_content_not_the_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = File(path)
    absent = file.fingerprint()
    path.write_text("one")
    one = file.fingerprint()
    os.utime(path, (1, 1))
    assert file.fingerprint() == one
    path.write_text("two")
    assert len({absent, one, file.fingerprint()}) == 3
    path.write_text("one")
    assert file.fingerprint() == one
    assert len(one) == 32
    (tmp_path / "y").write_text("one")
    assert File(tmp_path / "y").fingerprint() != one
    assert File("http://a/b").fingerprint() != File("http://a/c").fingerprint()
    assert File(os.devnull).fingerprint() == File(os.devnull).fingerprint()


def test_content_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    digest = hashlib.file_digest

    def count(file: Any, name: Any) -> Any:
        reads.append(file)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    monkeypatch.setattr(files, "_CACHE_SIZE", 1)
    path = tmp_path / "x"
    path.write_text("one")
    set_age(path, 0, monkeypatch)
    assert File(path).fingerprint() == File(path).fingerprint()
    assert len(reads) == 2  # so young that it could change without a new time
    set_age(path, 10, monkeypatch)
    assert File(path).fingerprint() == File(path).fingerprint()
    assert len(reads) == 3
    (tmp_path / "y").write_text("two")
    File(tmp_path / "y").fingerprint()
    File(path).fingerprint()
    assert len(reads) == 5  # the cache is bounded


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / "e").mkdir(parents=True)
    (folder / "e" / "x").write_text("1")
    (folder / "loop").symlink_to(folder)
    seen = {File(folder).fingerprint()}
    assert File(folder).fingerprint() in seen
    (folder / "e" / "x").write_text("22")
    seen.add(File(folder).fingerprint())
    (folder / "e" / "x").rename(folder / "x")
    seen.add(File(folder).fingerprint())
    (folder / "e").rmdir()
    seen.add(File(folder).fingerprint())
    assert len(seen) == 4


def test_staging_in_checks_existence(tmp_path: Path) -> None:
    local = LocalStaging()
    with pytest.raises(MissingDataError, match=r"does not exist.*future"):
        local.stage_in(File(tmp_path / "x"), None)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(MissingDataError, match="broken link"):
        local.stage_in(File(tmp_path / "link"), None)
    (tmp_path / "x").write_text("1")
    assert local.stage_in(File(tmp_path / "x"), None) == File(tmp_path / "x")


@pytest.mark.parametrize("copy", [False, True])
def test_staging_in_to_a_folder(copy: bool, tmp_path: Path) -> None:
    local, folder = LocalStaging(copy=copy), tmp_path / "new" / "work"
    source = tmp_path / "x"
    for text in ("1", "2"):  # a retry stages again
        source.write_text(text)
        staged = local.stage_in(File(source), str(folder))
        assert staged.local_path == str(folder / "x")
        assert Path(staged).read_text() == text
        assert Path(staged).is_symlink() is not copy
    assert os.listdir(folder) == ["x"]
    again = local.stage_in(File(source), str(tmp_path))  # it lies there already
    assert Path(again).read_text() == "2"
    assert not source.is_symlink()


@pytest.mark.parametrize("copy", [False, True])
def test_staging_a_folder_in(copy: bool, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("1")
    for _ in range(2):
        staged = LocalStaging(copy=copy).stage_in(File(tmp_path / "d"), str(tmp_path / "work"))
        assert (Path(staged) / "x").read_text() == "1"
    assert os.listdir(tmp_path / "work") == ["d"]


def test_staging_out(tmp_path: Path) -> None:
    local, target = LocalStaging(), tmp_path / "out" / "x"
    with pytest.raises(MissingOutputError) as caught:
        local.stage_out(File(target), str(tmp_path))
    assert caught.value.missing == (str(target),)
    (tmp_path / "x").write_text("1")
    local.stage_out(File(target), str(tmp_path))
    local.stage_out(File(target), str(tmp_path))
    local.stage_out(File(target), None)
    assert target.read_text() == "1"
    assert os.listdir(target.parent) == ["x"]


def test_a_failed_move_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, target: str) -> None:
        Path(target).write_text("half")
        raise OSError("disk full")

    (tmp_path / "x").write_text("1")
    monkeypatch.setattr(shutil, "copy2", fail)
    with pytest.raises(OSError, match="disk full"):
        LocalStaging(copy=True).stage_in(File(tmp_path / "x"), str(tmp_path / "work"))
    assert os.listdir(tmp_path / "work") == []


def test_find_by_scheme() -> None:
    assert isinstance(staging.find(File("a")), LocalStaging)
    assert isinstance(staging.find(File("file:///a"), out=True), LocalStaging)
    with pytest.raises(ConfigError, match=r"read File.*'gopher' is not known.*known: file, http"):
        staging.find(File("gopher://a/b"))
    with pytest.raises(ConfigError, match=r"write.*'http' can only be read"):
        staging.find(File("http://a/b"), out=True)
