# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints: what all ranks of a simulation have of one step, for who goes on from there."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ssdag.client.steering.handle import Handle, check_count, script
from ssdag.client.streams.records import WireSource, pack, unpack
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import command
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase
    from ssdag.client.transport.connection import Connection

#: How long bytes of a rank stay that was killed before it could say that it has saved them.
_HOLD_MS = 600_000

#: Complete checkpoints may go while they are read: then there is a newer one.
_TRIES = 100

_SHARED = """
local function free(at)
  local freed = redis.pcall('UNLINK', at)
  return type(freed) == 'table' and redis.error_reply('TRYAGAIN a key has moved') or nil
end
"""

#: Keys: complete steps, state, bytes. Values: step, rank, ranks, how many to keep, layout.
#: The state is a hash with what each rank has saved, ``p:<step>:<rank>`` until the step is
#: complete and ``c:<step>:<rank>`` then: the key of its bytes, a line end, the layout.
#: Returns 1 if the step is complete now, 0 if not, -1 if the bytes are gone, and as text how
#: many ranks there are if that is another number.
_SAVE = (
    _SHARED
    + """
local ranks = redis.call('HGET', KEYS[2], 'ranks')
if ranks and ranks ~= ARGV[3] then return ranks end
local field = 'p:' .. ARGV[1] .. ':' .. ARGV[2]
local done = 'c:' .. ARGV[1] .. ':' .. ARGV[2]
local value = KEYS[3] .. '\\n' .. ARGV[5]
local complete = redis.call('HGET', KEYS[2], done)
if complete == value then
  redis.call('PERSIST', KEYS[3])
  return 1
end
if redis.call('EXISTS', KEYS[3]) == 0 then return -1 end
local function drop(kind, step)
  for rank = 0, tonumber(ARGV[3]) - 1 do
    local name = string.format('%s:%s:%.0f', kind, step, rank)
    local old = redis.call('HGET', KEYS[2], name)
    if old then
      local failed = free(string.match(old, '^[^\\n]*'))
      if failed then return failed end
      redis.call('HDEL', KEYS[2], name)
    end
  end
end
local before = redis.call('HGET', KEYS[2], field)
if before and before ~= value then
  local failed = free(string.match(before, '^[^\\n]*'))
  if failed then return failed end
end
redis.call('HSET', KEYS[2], 'ranks', ARGV[3])
redis.call('PERSIST', KEYS[3])
redis.call('HSET', KEYS[2], field, value)
for rank = 0, tonumber(ARGV[3]) - 1 do
  if redis.call('HEXISTS', KEYS[2], string.format('p:%s:%.0f', ARGV[1], rank)) == 0 then
    return 0
  end
end
local failed = drop('c', ARGV[1])
if failed then return failed end
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  if entry[2][2] == ARGV[1] then redis.call('XDEL', KEYS[1], entry[1]) end
end
local entries = redis.call('XRANGE', KEYS[1], '-', '+')
for i = 1, #entries - tonumber(ARGV[4]) + 1 do
  failed = drop('c', entries[i][2][2])
  if failed then return failed end
  redis.call('XDEL', KEYS[1], entries[i][1])
end
for rank = 0, tonumber(ARGV[3]) - 1 do
  local end_of = string.format(':%s:%.0f', ARGV[1], rank)
  redis.call('HSET', KEYS[2], 'c' .. end_of, redis.call('HGET', KEYS[2], 'p' .. end_of))
  redis.call('HDEL', KEYS[2], 'p' .. end_of)
end
redis.call('XADD', KEYS[1], '*', 'step', ARGV[1])
local older = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
  local step = string.match(name, '^p:(%d+):')
  if step and tonumber(step) < tonumber(ARGV[1]) then older[step] = true end
end
for step in pairs(older) do
  failed = drop('p', step)
  if failed then break end
end
return 1
"""
)

#: Keys: complete steps, state. Values: step or '', rank. Returns the step, the last entry,
#: and where the bytes are and how they lie; nothing if there is no such checkpoint.
_FIND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local step = ARGV[1]
if step == '' then
  if not last[1] then return false end
  step = last[1][2][2]
end
local found = redis.call('HGET', KEYS[2], 'c:' .. step .. ':' .. ARGV[2])
if not found then return false end
local at, layout = string.match(found, '^([^\\n]*)\\n(.*)$')
return {tonumber(step), at, layout}
"""

_DELETE = (
    _SHARED
    + """
local there = redis.call('EXISTS', KEYS[1], KEYS[2])
local flat = redis.call('HGETALL', KEYS[2])
for i = 1, #flat, 2 do
  if string.match(flat[i], '^[pc]:') then
    local failed = free(string.match(flat[i + 1], '^[^\\n]*'))
    if failed then return failed end
  end
end
redis.call('DEL', KEYS[1], KEYS[2])
return there > 0 and 1 or 0
"""
)


class Saved(NamedTuple):
    """What a rank had saved.

    Attributes
    ----------
    step : int
        The step.
    value : numpy.ndarray, dict or Dataset
        As it was given to :meth:`Checkpoint.save`.
    """

    step: int
    value: Any


class Checkpoint(Handle):
    """A checkpoint of a simulation in the server's memory: complete, or not there.

    Each rank saves its part of a step. When all have saved the step it is complete, and
    older ones go. A rank that is killed in between leaves the last complete one as it was::

        checkpoint = client.checkpoint("run", ranks=size)
        checkpoint.save(step, {"u": u, "t": t}, rank=rank)
        ...
        step, state = client.checkpoint("run").load(rank=rank)   # the next stage

    Parameters
    ----------
    client : Client
        Of the server.
    name : str
        Its name; ensemble prefixes do not apply.
    ranks : int
        How many save; who loads need not know.
    keep : int
        How many complete ones stay.
    """

    kind = "checkpoint"

    def __init__(self, client: ClientBase, name: str, ranks: int = 1, keep: int = 1) -> None:
        super().__init__(client, name)
        self.ranks = check_count("ranks", ranks)
        self.keep = check_count("keep", keep)
        self._keys = self._key, self._also("state")

    def _options(self) -> tuple[Any, ...]:
        return self.ranks, self.keep

    def save(self, step: int, value: Any, rank: int = 0) -> bool:
        """Save what a rank has of a step; return whether all ranks have saved it now.

        Blocks until the server has it. While a checkpoint is being saved the server holds
        one more than `keep`.

        Parameters
        ----------
        step : int
            The step, 0 or more. A step that is complete may be saved again: it is replaced
            when all ranks have done so.
        value : array_like, dict or Dataset
            What :meth:`ssdag.client.streams.stream.Stream.append` takes.
        rank : int
            Whose part it is.

        Raises
        ------
        ConfigError
            There is no such rank, or others say another number of ranks.
        DataFormatError
            The value cannot be stored.
        StoreError
            The server cannot be reached or refuses.
        """
        check_count("step", step, 0)
        if check_count("rank", rank, 0) >= self.ranks:
            raise ConfigError(f"rank={rank!r}: checkpoint {self.name!r} is of {self.ranks} ranks")
        record = pack(value)
        at = b"%b:%d:%d:%b" % (self._key, step, rank, secrets.token_hex(8).encode())
        keys = (*self._keys, at)
        line = script(_SAVE, keys, int(step), int(rank), self.ranks, self.keep, record.layout)
        head = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(at), at, record.nbytes)
        hold = b"%d" % _HOLD_MS
        tail = b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n%b" % (len(hold), hold, line)

        def work(connection: Connection) -> Any:
            connection.send(head, *record.parts, tail, replies=2)
            connection.reply()
            return connection.reply()

        answer = -1
        while answer == -1:
            answer = self._client._run(f"save of {self.name!r}", work, key=self._key)
        if isinstance(answer, bytes):
            self._run("save of", command(b"UNLINK", at))
            raise ConfigError(
                f"checkpoint {self.name!r} is of {answer.decode()} ranks, not of {self.ranks}; "
                "delete() it before another run"
            )
        return bool(answer)

    def load(self, rank: int = 0, step: int | None = None) -> Saved:
        """Return what a rank has saved, in the newest complete checkpoint or of one step.

        Raises
        ------
        MissingDataError
            There is none.
        StoreError
            The server cannot be reached.
        """
        check_count("rank", rank, 0)
        asked = "" if step is None else str(check_count("step", step, 0))
        for _ in range(_TRIES):
            found = self._run("load of", script(_FIND, self._keys, asked, int(rank)))
            if found is None:
                break
            number, at, layout = found
            saved = self._client._run(f"load of {self.name!r}", partial(_fetch, at, layout), key=at)
            if saved is not None:
                return Saved(int(number), saved[0])
        which = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
        raise MissingDataError(
            f"{self.name!r} has no {which} with rank {rank}; wait() waits for the first one"
        )

    @property
    def steps(self) -> list[int]:
        """The steps of the complete ones that are there, the newest last."""
        entries = self._run("look at", command(b"XRANGE", self._key, b"-", b"+"))
        return [int(flat[1]) for _, flat in entries]

    def wait(self, after: int = -1, timeout_s: float | None = None) -> int:
        """Block until there is a complete one of a later step than `after`; return its step.

        Raises
        ------
        DataTimeoutError
            None came in time.
        StoreError
            The server cannot be reached.
        """
        with Deadline(timeout_s) as deadline:
            look = command(b"XREVRANGE", self._key, b"+", b"-", b"COUNT", b"1")
            while True:
                last = self._run("look at", look)
                if last and int(last[0][1][1]) > after:
                    return int(last[0][1][1])
                if deadline.passed:
                    raise DataTimeoutError(
                        f"{self.name!r} got no complete checkpoint later than step {after} within "
                        f"{timeout_s} s"
                    )
                seen = last[0][0] if last else b"0-0"
                wait = deadline.wait_ms(self._client)
                line = command(b"XREAD", b"BLOCK", wait, b"STREAMS", self._key, seen)
                self._run("wait for", line)

    def delete(self) -> bool:
        """Delete all of it; return whether there was something."""
        return bool(self._run("delete", script(_DELETE, self._keys)))


def _fetch(at: bytes, layout: bytes, connection: Connection) -> tuple[Any] | None:
    """Return the value in a tuple; None if its bytes are gone."""
    connection.send(command(b"GET", at))
    total = connection.bulk_length()
    if total is None:
        connection.owed -= 1
        return None
    source = WireSource(connection, total)
    value = unpack(layout, source)
    source.end()
    connection.owed -= 1
    return (value,)
