# SPDX-License-Identifier: BSD-3-Clause
"""A step counter: which step all ranks of a simulation have finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.steering.handle import Handle, check_count, script
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import command
from ssdag.errors import ConfigError, DataTimeoutError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

#: Keys: finished steps, step of each rank, state. Values: ranks, rank, step. Steps of ranks
#: only grow. Returns the step that all have, or as text how many ranks there are if that is
#: another number. `behind` counts the ranks whose step is that of the slowest, so that all are
#: looked at once per step and not once per rank.
_DONE = """
local old = tonumber(redis.call('HGET', KEYS[2], ARGV[2]))
local ranks = redis.call('HGET', KEYS[3], 'ranks')
if ranks and ranks ~= ARGV[1] then return ranks end
if not ranks then redis.call('HSET', KEYS[3], 'ranks', ARGV[1]) end
local new = tonumber(ARGV[3])
local all = tonumber(redis.call('HGET', KEYS[3], 'all') or '-1')
if old and old >= new then return all end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
if redis.call('HLEN', KEYS[2]) < tonumber(ARGV[1]) then return all end
local behind = tonumber(redis.call('HGET', KEYS[3], 'behind') or '0')
if behind > 0 then
  if old ~= all then return all end
  behind = redis.call('HINCRBY', KEYS[3], 'behind', -1)
  if behind > 0 then return all end
end
local least, count = nil, 0
for _, text in ipairs(redis.call('HVALS', KEYS[2])) do
  local step = tonumber(text)
  if not least or step < least then
    least, count = step, 1
  elseif step == least then
    count = count + 1
  end
end
local text = string.format('%.0f', least)
redis.call('HSET', KEYS[3], 'all', text, 'behind', count)
redis.call('XADD', KEYS[1], 'MAXLEN', '1', '*', 'step', text)
return least
"""

#: Keys: finished steps, step of each rank, state. Returns the step and the last entry.
_LOOK = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {tonumber(redis.call('HGET', KEYS[3], 'all') or '-1'), last[1] and last[1][1] or '0-0'}
"""


class StepCounter(Handle):
    """Counts the steps that all ranks of a simulation have finished.

    Each rank says :meth:`done` when the data of a step are stored; who reads them waits for
    the step. It costs a rank one short exchange with the server, and no barrier.

    Parameters
    ----------
    client : Client
        Of the server.
    name : str
        Its name; ensemble prefixes do not apply.
    ranks : int
        How many take part; readers need not know.
    """

    kind = "steps"

    def __init__(self, client: ClientBase, name: str, ranks: int = 1) -> None:
        super().__init__(client, name)
        self.ranks = check_count("ranks", ranks)
        self._keys = self._key, self._also("ranks"), self._also("state")

    def _options(self) -> tuple[Any, ...]:
        return (self.ranks,)

    def done(self, step: int, rank: int = 0) -> int:
        """Say that a rank has finished a step; return the last step that all have finished.

        A rank that was started anew may say a step again. Ranks may be any number of steps
        apart.

        Raises
        ------
        ConfigError
            There is no such rank, or others say another number of ranks.
        StoreError
            The server cannot be reached.
        """
        check_count("step", step, 0)
        if check_count("rank", rank, 0) >= self.ranks:
            raise ConfigError(f"rank={rank!r}: the counter {self.name!r} has {self.ranks} ranks")
        line = script(_DONE, self._keys, self.ranks, int(rank), int(step))
        answer = self._run("step of", line)
        if isinstance(answer, bytes):
            raise ConfigError(
                f"the counter {self.name!r} has {answer.decode()} ranks, not {self.ranks}; "
                "clear() it before another run"
            )
        return int(answer)

    @property
    def step(self) -> int:
        """The last step that all ranks have finished; -1 before the first."""
        return int(self._look()[0])

    def _look(self) -> Any:
        return self._run("look at steps of", script(_LOOK, self._keys))

    def wait(self, step: int, timeout_s: float | None = None) -> int:
        """Block until all ranks have finished a step; return the last one they have.

        Raises
        ------
        DataTimeoutError
            They did not in time.
        StoreError
            The server cannot be reached.
        """
        check_count("step", step, 0)
        with Deadline(timeout_s) as deadline:
            while True:
                now, last = self._look()
                if now >= step:
                    return int(now)
                if deadline.passed:
                    raise DataTimeoutError(
                        f"step {step} of {self.name!r} was not finished within {timeout_s} s: the "
                        f"last one that all ranks have is {now}"
                    )
                wait = deadline.wait_ms(self._client)
                line = command(b"XREAD", b"BLOCK", wait, b"STREAMS", self._key, last)
                self._run("wait for a step of", line)

    def clear(self) -> None:
        """Forget all steps, before the same simulation is started again."""
        self._run("clear steps of", command(b"DEL", *self._keys))
