# SPDX-License-Identifier: BSD-3-Clause
"""Short questions to one or many servers at once, with a limit of time for all.

What starts, forms and watches servers must not hang with one of them, so it does not
use a client: the question goes to all servers, then the answers are taken as they come.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdag.client.transport.connection import Connection
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, command, commands, explain
from ssdag.errors import SsdagError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssdag.client.transport.address import Address
    from ssdag.client.transport.resp import Reply


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks; no password: the server asks for none."""

    password: str = field(default="", repr=False)
    user: str = "default"

    def lines(self) -> list[list[bytes]]:
        """Return the commands that log in."""
        if not self.password:
            return []
        who = [] if self.user == "default" else [self.user.encode()]
        return [[b"AUTH", *who, self.password.encode()]]


def ask(
    addresses: Sequence[Address],
    lines: Sequence[Sequence[bytes]],
    login: Login,
    timeout_s: float,
) -> list[list[Reply] | SsdagError]:
    """Send the same commands to all servers and return each one's replies.

    Parameters
    ----------
    addresses : sequence of Address
        The servers.
    lines : sequence of sequence of bytes
        The commands.
    login : Login
        Who asks.
    timeout_s : float
        For all of them together.

    Returns
    -------
    list
        For each server its replies, among which a :class:`ReplyError` is a value; or a
        StoreError if it cannot be reached, lets us not in, or said nothing in time.
    """
    return ask_each([(address, lines) for address in addresses], login, timeout_s)


def ask_each(
    questions: Sequence[tuple[Address, Sequence[Sequence[bytes]]]],
    login: Login,
    timeout_s: float,
) -> list[list[Reply] | SsdagError]:
    """Send each server its own commands; else as :func:`ask`."""
    deadline = time.monotonic() + timeout_s
    answers: list[list[Reply] | SsdagError | None] = [None] * len(questions)
    open_: dict[int, tuple[int, Connection]] = {}
    poller = select.poll()
    try:
        for i, (address, lines) in enumerate(questions):
            try:
                # The limit is for a server that answers half: whole answers are waited
                # for by the poll below.
                connection = Connection(address, None, max(timeout_s, 0.001))
                open_[connection.fileno()] = i, connection
                connection.send(commands([*login.lines(), *lines]))
            except (StoreError, ConnectionLostError) as error:
                answers[i] = _failure(address, error)
            else:
                poller.register(connection, select.POLLIN)
        while any(answer is None for answer in answers):
            ready = poller.poll(max(deadline - time.monotonic(), 0) * 1000)
            if not ready:
                break
            for fd, _ in ready:
                i, connection = open_[fd]
                poller.unregister(fd)
                answers[i] = _replies(connection, login, len(questions[i][1]))
    finally:
        for _, connection in open_.values():
            connection.close()
    return [
        _failure(question[0], None, timeout_s) if answer is None else answer
        for question, answer in zip(questions, answers, strict=True)
    ]


def _replies(connection: Connection, login: Login, count: int) -> list[Reply] | SsdagError:
    try:
        if login.password:
            try:
                connection.reply()
            except ReplyError as error:
                return explain(error, str(connection.address), "log in")
        return [_reply(connection) for _ in range(count)]
    except ConnectionLostError as error:
        return _failure(connection.address, error)


def _reply(connection: Connection) -> Reply:
    try:
        return connection.reply()
    except ReplyError as error:
        return error


def _failure(address: Address, error: Exception | None, silent_s: float = 0.0) -> StoreError:
    if isinstance(error, StoreError):
        return error
    why = f"it was silent for {silent_s:g} s" if error is None else str(error)
    failure = StoreError(f"the server at {address} does not answer: {why}")
    failure.__cause__ = error
    return failure


def tell(address: Address, line: Sequence[bytes], login: Login, timeout_s: float) -> None:
    """Send one command whose answer nobody waits for, such as ``SHUTDOWN``.

    Raises
    ------
    StoreError
        The server cannot be reached or lets us not in.
    """
    connection = Connection(address, None, timeout_s)
    try:
        for each in login.lines():
            connection.send(command(*each))
            connection.reply()
        connection.send(command(*line))
    except (ReplyError, ConnectionLostError) as error:
        raise _failure(address, error) from error
    finally:
        connection.close()


def info(reply: Reply) -> dict[str, str]:
    """Return the answer of ``INFO`` or ``CLUSTER INFO`` as a dict."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
