# SPDX-License-Identifier: BSD-3-Clause
"""Parts of the pilot: lossy connections, worker counts, bindings, secrets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.errors import ConfigError
from ssdag.executors.pilot import protocol
from ssdag.executors.pilot.contact import RunFolder, where
from ssdag.executors.pilot.node import checked, granted
from ssdag.executors.pilot.protocol import Channel, ForeignMessageError, Kind, kind_of, plain
from ssdag.executors.pilot.security import Keys, read_private, write_private

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOKENS = b"a" * 16, b"b" * 16


class Line:
    """Two channels and a connection between them that loses what it is told to."""

    def __init__(self, losses: Sequence[bool]) -> None:
        self._losses = deque(losses)
        self._way: tuple[deque[list[bytes]], deque[list[bytes]]] = (deque(), deque())
        self.ends = tuple(Channel(self._sender(side), TOKENS[side]) for side in (0, 1))
        self.got: tuple[list[bytes], list[bytes]] = ([], [])

    def _sender(self, side: int) -> Any:
        def send(parts: Sequence[Any]) -> None:
            if not (self._losses and self._losses.popleft()):
                self._way[side].append([bytes(part) for part in parts])

        return send

    def deliver(self) -> None:
        """Bring all that is under way to the other side, and what follows from it."""
        while self._way[0] or self._way[1]:
            for side in (0, 1):
                while self._way[side]:
                    parts = self._way[side].popleft()
                    assert kind_of(parts[0], TOKENS[side])
                    kind = self.ends[1 - side].take(parts[0], sum(map(len, parts[1:])))
                    if kind == Kind.RESULTS:
                        self.got[1 - side].append(parts[1])


@settings(deadline=None)
@given(
    st.lists(st.booleans(), max_size=60),
    st.lists(st.tuples(st.sampled_from([0, 1]), st.booleans()), max_size=40),
)
def test_what_is_sent_arrives_once_and_in_order(
    losses: list[bool], moves: list[tuple[int, bool]]
) -> None:
    line = Line(losses)
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    for number, (side, deliver) in enumerate(moves):
        body = b"%d" % number
        sent[side].append(body)
        line.ends[side].post(Kind.RESULTS, body)
        if deliver:
            line.deliver()
    line._losses.clear()  # the connection is whole again
    for _ in range(3):
        for end in line.ends:
            end._asked_at = 0.0  # time has passed
            end.beat()
        line.deliver()
    assert line.got[1] == sent[0]
    assert line.got[0] == sent[1]
    assert [end.unacked_bytes for end in line.ends] == [0, 0]


def test_large_messages_are_acknowledged_at_once() -> None:
    line = Line([])
    line.ends[0].post(Kind.RESULTS, b"x", [bytes(9 << 20)])
    assert line.ends[0].unacked_bytes > 9 << 20
    line.deliver()
    assert line.ends[0].unacked_bytes == 0


@pytest.mark.parametrize("header", [b"", b"x", plain(TOKENS[1], Kind.HELLO)[0], b"a" * 33])
def test_messages_of_others_are_told(header: bytes) -> None:
    with pytest.raises(ForeignMessageError):
        kind_of(header, TOKENS[0])


def test_clocks() -> None:
    assert protocol.clock_of(protocol.clock()) > 0
    assert protocol.clock_of(b"") == 0


# -- nodes -------------------------------------------------------------------------------


def wishes(**options: Any) -> Any:
    defaults: dict[str, Any] = {
        "workers_per_node": None, "cores_per_worker": 1, "memory_per_worker_bytes": None,
        "affinity": "none", "accelerators": None, "env": None,
    }  # fmt: skip
    return checked(**{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 8),
        ({"cores_per_worker": 3}, 2),
        ({"cores_per_worker": 0.1}, 80),
        ({"workers_per_node": 3}, 3),
        ({"workers_per_node": 30}, 8),
        ({"memory_per_worker_bytes": 300}, 3),
        ({"memory_per_worker_bytes": 2000}, 0),
        ({"accelerators": 2}, 2),
        ({"accelerators": ["0.0", "0.1", "1.0"], "cores_per_worker": 4}, 2),
        ({"cores_per_worker": 9}, 0),
    ],
)
def test_the_number_of_workers(options: dict[str, Any], count: int) -> None:
    assert wishes(**options).count(8, 1000) == count


@pytest.mark.parametrize(
    ("affinity", "cores"),
    [
        ("none", [(), ()]),
        ("block", [(0, 1), (2, 3)]),
        ("alternating", [(0, 2), (1, 3)]),
        ([[3], [1, 2]], [(3,), (1, 2)]),
    ],
)
def test_bindings(affinity: Any, cores: list[tuple[int, ...]]) -> None:
    wish = wishes(affinity=affinity)
    assert [wish.cores_of(rank, 2, [0, 1, 2, 3]) for rank in (0, 1)] == cores


def test_more_workers_than_cores_share_them() -> None:
    wish = wishes(affinity="block")
    assert [wish.cores_of(rank, 3, [4, 7]) for rank in range(3)] == [(4,), (7,), (4,)]


def test_the_environment_of_a_worker() -> None:
    wish = wishes(accelerators=["0.0", "0.1"], env={"X": 1})
    assert wish.environment(1, (2, 3)) == {
        "X": "1",
        "OMP_NUM_THREADS": "2",
        "GOMP_CPU_AFFINITY": "2 3",
        "KMP_AFFINITY": "explicit,proclist=[2,3]",
        "CUDA_VISIBLE_DEVICES": "0.1",
        "ROCR_VISIBLE_DEVICES": "0.1",
        "ZE_AFFINITY_MASK": "0.1",
        "ZE_ENABLE_PCI_ID_DEVICE_ORDER": "1",
    }
    assert wishes().environment(0, ()) == {}
    assert wishes(accelerators=2).environment(1, ())["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("wish", "env", "ids"),
    [
        (2, {}, 2),
        (2, {"CUDA_VISIBLE_DEVICES": "4,5,6"}, ["4", "5"]),
        (4, {"ROCR_VISIBLE_DEVICES": "1"}, ["1"]),
        (["0.0", "0.1"], {"ZE_AFFINITY_MASK": "0"}, ["0.0", "0.1"]),
        (None, {"CUDA_VISIBLE_DEVICES": ""}, None),
        (0, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
    ],
)
def test_a_number_of_accelerators_is_taken_from_what_the_job_has(
    wish: Any, env: dict[str, str], ids: Any
) -> None:
    assert granted(wish, env) == ids


def test_a_job_without_the_gpus_that_are_wanted() -> None:
    with pytest.raises(ConfigError, match="granted no GPU"):
        granted(2, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"})


@pytest.mark.parametrize(
    "options",
    [
        {"workers_per_node": 0}, {"workers_per_node": True}, {"cores_per_worker": 0},
        {"cores_per_worker": "2"}, {"memory_per_worker_bytes": 1.5}, {"affinity": "blocks"},
        {"affinity": []}, {"affinity": [[0], []]}, {"affinity": [[-1]]}, {"affinity": 3},
        {"accelerators": -1}, {"accelerators": "0,1"}, {"accelerators": True},
    ],
)  # fmt: skip
def test_what_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        wishes(**options)


# -- secrets, addresses ------------------------------------------------------------------


def test_keys_travel_by_a_private_file(tmp_path: Path) -> None:
    keys = Keys.make(encrypt=True)
    folder = RunFolder(tmp_path / "a" / "b", "my run/1", keys)
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    assert os.path.basename(folder.path).startswith("pilot-my_run_1-")
    folder.write({"port": 7})
    assert stat.S_IMODE(os.stat(folder.contact).st_mode) == 0o600
    content = read_private(folder.contact)
    there = Keys.of(content["keys"])
    assert there.client_secret == keys.client_secret
    assert there.server_secret is None, "the hub's own secret stays with it"
    assert content["port"] == 7
    shown = repr(keys)
    for secret in (keys.client_secret, keys.hub_token, keys.server_secret):
        assert secret is not None
        assert repr(secret) not in shown
    folder.remove(everything=False)
    assert not os.path.exists(folder.contact)
    assert os.path.exists(folder.path)
    folder.remove(everything=True)
    assert not os.path.exists(folder.path)
    assert Keys.of(Keys.make(encrypt=False).for_managers()).server_public is None


def test_a_contact_file_that_others_can_read(tmp_path: Path) -> None:
    path = str(tmp_path / "contact.json")
    write_private(path, {})
    assert read_private(path) == {}
    os.chmod(path, 0o640)
    with pytest.raises(ConfigError, match="others than the user"):
        read_private(path)
    with pytest.raises(FileExistsError):
        write_private(path, {})
    damaged = tmp_path / "damaged"
    damaged.write_text("{")
    damaged.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        read_private(str(damaged))


def test_addresses() -> None:
    assert where(None, local=True) == ("127.0.0.1", ["127.0.0.1"])
    assert where("127.0.0.3", local=False) == ("127.0.0.3", ["127.0.0.3"])
    bind, addresses = where(None, local=False)
    assert bind == "0.0.0.0"
    assert addresses[-1] == "127.0.0.1", "last, for blocks on this machine"
    with pytest.raises(ConfigError, match="no-such-host"):
        where("no-such-host.invalid", local=False)


def test_zmq_is_loaded_on_demand() -> None:
    code = "import sys, ssdag.executors.pilot.executor; sys.exit('zmq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
