# SPDX-License-Identifier: BSD-3-Clause
"""Steering: commands to a running simulation, which all its ranks take in the same step."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client.steering.handle import Handle, check_count, script
from ssdag.client.streams.records import BytesSource, pack, unpack
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import command, key_bytes
from ssdag.errors import DataFormatError, DataTimeoutError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

#: Commands beyond this are forgotten, the oldest first.
_KEPT = 10_000

#: What a command may carry at most, in bytes: it is read by every rank.
_LARGEST = 1 << 20

#: Keys: commands, state. Values: token, name, layout, bytes, how many to keep. A command
#: counts from the step after the last one that anybody has asked about: who has asked about
#: that one, and who will, see it alike. Returns that step.
_POST = """
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 100)) do
  if entry[2][2] == ARGV[1] then return tonumber(entry[2][4]) end
end
local from = string.format('%.0f', tonumber(redis.call('HGET', KEYS[2], 'asked') or '-1') + 1)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'token', ARGV[1], 'from', from,
  'name', ARGV[2], 'layout', ARGV[3], 'bytes', ARGV[4])
return tonumber(from)
"""

#: Keys: commands, state. Values: the last command that the caller has, its step or ''.
#: Returns the commands behind that one.
_CHECK = """
if ARGV[2] ~= '' then
  local asked = tonumber(redis.call('HGET', KEYS[2], 'asked') or '-1')
  if tonumber(ARGV[2]) > asked then redis.call('HSET', KEYS[2], 'asked', ARGV[2]) end
end
return redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+')
"""


class Command(NamedTuple):
    """Something that a simulation is told.

    Attributes
    ----------
    name : str
        What to do, such as ``"stop"``.
    value : object
        What it needs for that: a number, a text, an array, ...; often None.
    step : int
        From which step on it counts.
    """

    name: str
    value: Any
    step: int


class Steering(Handle):
    """A channel of commands; each rank of a simulation has one and asks it in every step.

    ::

        steering = client.steering("run")           # in each rank
        for step in range(steps):
            for command in steering.check(step):
                if command.name == "dt":
                    dt = command.value
            if steering.stopped:
                break

        client.steer("stop", channel="run")         # from anywhere

    All ranks get a command in the same step, without talking to each other: it counts from
    the step after the last one that any of them has asked about.
    """

    kind = "steer"

    def __init__(self, client: ClientBase, name: str) -> None:
        super().__init__(client, name)
        self._keys = self._key, self._also("state")
        self._seen = b"0-0"
        #: Whether ``"stop"`` was among the commands that :meth:`check` has returned.
        self.stopped = False

    def post(self, command: str, value: Any = None) -> int:
        """Send a command to all who ask here; return the step from which it counts.

        It is kept: who asks for the first time gets all commands so far, until
        :meth:`clear`. It is there once, also if the connection breaks meanwhile.

        Parameters
        ----------
        command : str
            What to do.
        value : object, optional
            A number, text, array, bytes, None, or lists and dictionaries of those but
            arrays; 1 MiB at most.

        Raises
        ------
        DataFormatError
            The value cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        record = pack({"value": value})
        if record.nbytes > _LARGEST:
            raise DataFormatError(
                f"command {command!r} carries {record.nbytes} bytes, and each rank would read "
                f"them ({_LARGEST} at most): put a tensor, and send its name"
            )
        words = (secrets.token_hex(8), key_bytes(command), record.layout, b"".join(record.parts))
        return int(self._run("steer", script(_POST, self._keys, *words, _KEPT)))

    def check(self, step: int | None = None) -> list[Command]:
        """Return the commands that are new here; one short exchange with the server.

        Parameters
        ----------
        step : int, optional
            The caller's step, 0 or more; never less than in the last call. All who ask
            about this step get the same. Without it they get what has come so far.

        Raises
        ------
        StoreError
            The server cannot be reached.
        """
        at = "" if step is None else str(check_count("step", step, 0))
        return self._take(self._run("check of", script(_CHECK, self._keys, self._seen, at)), step)

    def wait(self, timeout_s: float | None = None) -> list[Command]:
        """Block until there is a command that is new here, whatever its step; return all.

        Raises
        ------
        DataTimeoutError
            None came in time.
        StoreError
            The server cannot be reached.
        """
        with Deadline(timeout_s) as deadline:
            while True:
                line = command(
                    b"XREAD",
                    b"BLOCK",
                    deadline.wait_ms(self._client),
                    b"STREAMS",
                    self._key,
                    self._seen,
                )
                found = self._run("wait for", line)
                if found:
                    return self._take(found[0][1], None)
                if deadline.passed:
                    raise DataTimeoutError(f"no command came in {self.name!r} within {timeout_s} s")

    def _take(self, entries: list[Any], step: int | None) -> list[Command]:
        taken = []
        for entry_id, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            begins = int(fields[b"from"])
            if step is not None and begins > step:
                break
            value = unpack(fields[b"layout"], BytesSource(fields[b"bytes"]))["value"]
            taken.append(Command(fields[b"name"].decode("utf-8", "surrogateescape"), value, begins))
            self._seen = entry_id
        self.stopped = self.stopped or any(one.name == "stop" for one in taken)
        return taken

    def clear(self) -> None:
        """Forget all commands and steps, before the same simulation is started again."""
        self._run("clear", command(b"DEL", *self._keys))
        self._seen = b"0-0"
        self.stopped = False
