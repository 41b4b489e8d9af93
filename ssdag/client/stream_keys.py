# SPDX-License-Identifier: BSD-3-Clause
"""Which keys a stream has, what was chosen for it, and how its programs are sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from ssdag.client.base import call
from ssdag.client.resp import command, key_bytes
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

#: What a writer does when the stream is full: wait, drop the oldest, or keep the newest only.
Policy: TypeAlias = Literal["block", "drop_oldest", "latest"]

DEFAULT_CAPACITY = 16

#: Who waits looks again after this, in case that who should have woken it was killed.
_LOOK_AGAIN_S = 2.0


class Keys(NamedTuple):
    """The keys of a stream; see :mod:`ssdag.client.stream_scripts`."""

    stream: bytes
    state: bytes
    room: bytes

    @classmethod
    def of(cls, name: str) -> Keys:
        """Return the keys of a name that has its prefix.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        plain = key_bytes(name)
        if plain.startswith(b"}"):
            raise DataFormatError(f"a stream's name must not begin with a brace: {name!r}")
        stream = b"{%b}:stream" % plain
        return cls(stream, stream + b":state", stream + b":room")


class Options(NamedTuple):
    """What was asked for; None for what is left to others, or to the defaults."""

    capacity: int | None = None
    policy: Policy | None = None
    evict: bool | None = None
    writers: int | None = None

    def checked(self) -> Options:
        """Return the options with what follows from the policy.

        Raises
        ------
        ConfigError
            One of them has no possible value.
        """
        if self.policy is not None and self.policy not in get_args(Policy):
            known = ", ".join(map(repr, get_args(Policy)))
            raise ConfigError(f"policy={self.policy!r}: it is one of {known}")
        capacity = self.capacity
        if self.policy == "latest":
            if capacity not in (None, 1):
                raise ConfigError(
                    f"capacity={capacity!r} with policy='latest', which keeps 1: use 'drop_oldest'"
                )
            capacity = 1
        for name, value in (("capacity", capacity), ("writers", self.writers)):
            if value is not None and (isinstance(value, bool) or not _is_count(value)):
                raise ConfigError(f"{name}={value!r}: a number of 1 or more")
        return self._replace(capacity=capacity)

    def words(self) -> dict[str, bytes]:
        """Return each option as the server has it; empty for None."""
        return {
            name: b"" if value is None else (b"%d" % value if name != "policy" else value.encode())
            for name, value in self._asdict().items()
        }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def script(text: str, keys: tuple[bytes, ...], *words: bytes | str | int) -> bytes:
    """Return the command that runs a program at the server."""
    values = [w if isinstance(w, bytes) else str(w).encode() for w in words]
    return command(b"EVAL", text.encode(), b"%d" % len(keys), *keys, *values)


def run(client: ClientBase, what: str, keys: Keys, line: bytes) -> Any:
    """Run a program that may be run again, and return what it answers."""
    return client._run(what, lambda connection: call(connection, line), key=keys.stream)


class Deadline:
    """When waiting ends.

    Parameters
    ----------
    timeout_s : float or None
        From now; None for never.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self._at is not None and time.monotonic() >= self._at

    def wait_s(self, client: ClientBase) -> float:
        """Return how long one blocking command may take now: above 0, and not for ever."""
        wait_s = _LOOK_AGAIN_S
        if client._timeout_s is not None:
            wait_s = min(wait_s, client._timeout_s / 2)
        if self._at is not None:
            wait_s = min(wait_s, self._at - time.monotonic())
        return max(wait_s, 0.001)
