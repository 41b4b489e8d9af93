# SPDX-License-Identifier: BSD-3-Clause
"""Keys as file names and as keys on a server, and what kind of file system a folder is on."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdag.client.transport.slots import slot_of
from ssdag.connectors import filesystem
from ssdag.connectors.base import LONGEST_KEY, literal_start
from ssdag.connectors.naming import file_name, key_of
from ssdag.connectors.places import key_of as key_at
from ssdag.connectors.places import matching, place_of

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=LONGEST_KEY).filter(
    lambda key: len(key.encode()) <= LONGEST_KEY
)
#: Texts that are more likely to look like something else than themselves.
TRICKY = st.text("%{}:=.4a*", min_size=1, max_size=20)


@given(KEYS | TRICKY)
def test_file_names_come_back(key: str) -> None:
    name = file_name(key)
    assert key_of(name) == key
    assert len(name.encode()) <= 255
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")


@given(KEYS | TRICKY)
def test_places_on_a_server_come_back(key: str) -> None:
    place = place_of("store", key)
    assert key_at("store", place) == key
    assert key_at("stor", place) is None
    assert key_at("store2", place) is None
    assert key_at("store", place + b":claim") is None


@given(TRICKY, TRICKY)
def test_a_pattern_on_the_server_finds_all_that_match(pattern: str, key: str) -> None:
    # The server's own patterns: what is not behind a backslash.
    start = matching("store", pattern)[:-1].replace(b"\\", b"")
    if fnmatchcase(key, pattern):
        assert key.startswith(literal_start(pattern))
        assert place_of("store", key).startswith(start)


def test_what_is_behind_the_first_colon_decides_the_shard() -> None:
    slots = {slot_of(place_of("store", f"{space}:a:b")) for space in ("x", "yy", "z@1.5")}
    assert slots == {slot_of(b"a:b")}


@pytest.mark.parametrize("name", [".parts", "%", "%4", "%41", "%2f", "%=?", "%=", "a%"])
def test_files_that_are_not_ours(name: str) -> None:
    assert key_of(name) is None


def test_names_are_readable() -> None:
    assert file_name("u.3") == "u.3"
    assert file_name("a/b") == "a%2Fb"
    assert place_of("store", "u.3") == b"store:{u.3}"
    assert place_of("store", "dict:u.3") == b"store:dict:{u.3}"


MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:25 / /dev/shm rw - tmpfs tmpfs rw
31 22 0:26 / /scratch rw,relatime shared:3 - lustre 10.0.0.1@tcp:/fs rw
32 31 0:27 / /scratch/with\\040space rw - nfs4 server:/x rw
33 22 0:28 / /scratchy rw - fuse.unheard x rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "own", "shared"),
    [
        ("/home/me", "ext4", True, False),
        ("/dev/shm/x", "tmpfs", True, False),
        ("/scratch", "lustre", False, True),
        ("/scratch/run/1", "lustre", False, True),
        ("/scratch/with space/x", "nfs4", False, True),
        ("/scratchy/x", "fuse.unheard", False, False),
    ],
)
def test_kinds_of_file_systems(
    path: str, kind: str, own: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins
    import io

    monkeypatch.setattr("os.path.realpath", lambda path: path)
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(MOUNTS))
    found = filesystem.kind_of(path), filesystem.is_of_this_machine(path)
    found_shared = filesystem.is_shared(path)
    monkeypatch.undo()
    assert found == (kind, own)
    assert found_shared == shared


def test_this_machine() -> None:
    assert filesystem.kind_of("/dev/shm") == "tmpfs"
    assert filesystem.kind_of("/proc/self") == "proc"
    assert filesystem.machine() == filesystem.machine() != ""
