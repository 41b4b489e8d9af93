# SPDX-License-Identifier: BSD-3-Clause
"""Messages of managers: who comes, what they have done, who goes."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import sys
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import BlockError, SerializationError, SsdagError
from ssdag.executors.local.link import absolute
from ssdag.executors.local.messages import ERROR, PLAIN, SKIPPED
from ssdag.executors.pilot import losses
from ssdag.executors.pilot.peers import Peer
from ssdag.executors.pilot.protocol import CANCELLED, Channel, Kind, clock_of, plain
from ssdag.executors.pilot.session import versions
from ssdag.states import TaskState
from ssdag.tasks import Outcome
from ssdag.wire.serialize import load_error, loads

if TYPE_CHECKING:
    from ssdag.executors.pilot.hub import PilotHub
    from ssdag.tasks import Task

#: From the start of a job to that of its managers: modules, worker_init, launcher.
_LONGEST_START_S = 600.0

_log = logging.getLogger("ssdag.executors")


def greet(hub: PilotHub, identity: bytes, body: Any) -> None:
    """Take a manager in, or refuse it."""
    if identity in hub.peers:  # the answer was lost
        _welcome(hub, identity)
        return
    hello = json.loads(bytes(body))
    differs = [
        f"{name} {hello.get(name)} there, {ours} here"
        for name, ours in versions().items()
        if hello.get(name) != ours
    ]
    node = f"{hello.get('node')}"
    if differs:
        reason = f"versions must be the same: {'; '.join(differs)}"
        hub.refuse(identity, reason)
        hub.give_up(BlockError(
            f"the manager on {node} of executor {hub.label!r} was refused: {reason}. "
            "worker_init and python= say which Python the blocks use"
        ))  # fmt: skip
        return
    block = int(hello["block"])
    deadline = hub.block_deadline(block)
    if deadline is None:
        hub.refuse(identity, f"block {block} is not, or no longer, one of ours")
        return
    name = node if hello["rank"] == "0" else f"{node} (process {hello['rank']})"
    for other in tuple(hub.peers.values()):
        if other.block == block and other.name == name:
            if time.monotonic() - other.heard < 2 * hub.beat_s:
                hub.refuse(identity, f"block {block} has a manager on {name} that lives")
                return
            # The scheduler has started the job a second time.
            losses.lost(hub, other, "its job was started again", cut=False)
            hub.refuse(other.identity, "another manager has taken its place")
    channel = Channel(hub.sender(identity), hub.keys.hub_token)
    peer = Peer(identity, block, name, int(hello["workers"]), channel)
    now = time.monotonic()
    if hello.get("ends_in_s") is not None:
        peer.ends = now + float(hello["ends_in_s"])
    else:
        # Should nobody have been able to say that the job waited: it began not long
        # before its manager.
        began = now - float(hello.get("age_s", 0.0)) - _LONGEST_START_S
        peer.ends = max(deadline, began + hub.block_walltime_s())
    peer.life_s = peer.ends - now
    hub.peers[identity] = peer
    hub.roomy.add(peer)
    _welcome(hub, identity)
    hub.arrived(peer)


def _welcome(hub: PilotHub, identity: bytes) -> None:
    peer = hub.peers[identity]
    about = {
        "path": absolute(peer.path),
        "argv": sys.argv,
        "cwd": hub.cwd,
        "window_s": hub.window_s(),
    }
    hub.sender(identity)(plain(hub.keys.hub_token, Kind.WELCOME, pickle.dumps(about, 5)))


def take(hub: PilotHub, peer: Peer, kind: Kind, parts: list[Any]) -> None:
    """Take a message of a manager that is known."""
    if kind == Kind.RESULTS:
        _results(hub, peer, parts)
    elif kind == Kind.QUESTION:
        number, what, name = pickle.loads(parts[0])
        hub.answers.put(functools.partial(_answer, hub, peer, number, str(what), str(name)))
    elif kind == Kind.BYE:
        why, cut = pickle.loads(parts[0])
        losses.lost(hub, peer, str(why), cut=cut)


def _answer(hub: PilotHub, peer: Peer, number: int, what: str, name: str) -> None:
    """Answer a worker's question; in a thread of its own, as it may take a while."""
    said: dict[str, Any]
    try:
        said = {"answer": hub.answer(what, name)}
    except (SsdagError, OSError) as error:
        said = {"error": str(error)}
    body = pickle.dumps((number, said), 5)

    def send() -> None:
        if peer.identity in hub.peers:
            peer.channel.post(Kind.ANSWER, body)

    hub.call(send)


def see_clock(peer: Peer, sent_ns: int) -> None:
    """Learn how the manager's clock differs from ours; the quickest message knows best."""
    if sent_ns:
        peer.offset_ns = min(peer.offset_ns, time.monotonic_ns() - sent_ns)


def _results(hub: PilotHub, peer: Peer, parts: list[Any]) -> None:
    sent, begun, running, results = pickle.loads(parts[0])
    see_clock(peer, clock_of(sent))
    offset_s = peer.offset_ns / 1e9
    held, outcomes = peer.held, hub.outcomes
    for seq in begun:
        if seq > 0:
            if seq in held:
                peer.begun.add(seq)
        else:
            peer.begun.discard(-seq)
    again: list[Task] = []
    at = 1
    ran, total_s = 0, 0.0
    for seq, code, value, count, started, ended in results:
        buffers = parts[at : at + count]
        at += count
        task = held.pop(seq, None)
        if hub.confirms and (confirm := hub.confirms.pop(seq, None)) is not None:
            confirm.set()
        if task is None:
            continue
        if code == SKIPPED:
            again.append(task)
            continue
        if code == CANCELLED:
            continue
        error: BaseException | None = None
        if code != PLAIN:
            value, error = _load(code, value, buffers)
        if started:
            ran += 1
            total_s += ended - started
            started += offset_s
            ended += offset_s
        outcomes.append(Outcome(task, value, error, started, ended))
    if peer.begun:
        peer.begun.difference_update([result[0] for result in results])
    if hub.cuts:
        for outcome in outcomes:
            hub.cuts.pop(outcome.task, None)
    now = time.monotonic()
    if ran:
        peer.learn(ran, total_s)
        hub.proved(peer)
    if results:
        peer.answered = now
        if not held:
            peer.idle_since = now
    if again:
        hub.requeue(again)
    if running:
        live = [t for t in map(held.get, running) if t is not None]
        hub.sink.running([task for task in live if task.state == TaskState.LAUNCHED])


def _load(code: int, payload: Any, buffers: list[Any]) -> tuple[Any, BaseException | None]:
    if code == ERROR:
        return None, load_error(payload)
    try:
        return loads(payload, buffers), None
    except BaseException as error:  # the classes of user values load themselves
        wrapped = SerializationError(
            f"a task's result cannot be loaded here: {type(error).__name__}: {error}"
        )
        wrapped.__cause__ = error
        return None, wrapped
