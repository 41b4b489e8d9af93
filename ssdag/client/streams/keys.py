# SPDX-License-Identifier: BSD-3-Clause
"""Which keys a stream has, what was chosen for it, and how its programs are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from ssdag.client.base import call
from ssdag.client.steering.handle import check_count
from ssdag.client.transport.resp import key_bytes
from ssdag.errors import ConfigError, DataFormatError

if TYPE_CHECKING:
    from ssdag.client.base import ClientBase

#: What a writer does when the stream is full: wait, drop the oldest, or keep the newest only.
Policy: TypeAlias = Literal["block", "drop_oldest", "latest"]

DEFAULT_CAPACITY = 16


class Keys(NamedTuple):
    """The keys of a stream; see :mod:`ssdag.client.streams.scripts`."""

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
            if value is not None:
                check_count(name, value)
        return self._replace(capacity=capacity)

    def words(self) -> dict[str, bytes]:
        """Return each option as the server has it; empty for None."""
        return {
            name: b"" if value is None else (b"%d" % value if name != "policy" else value.encode())
            for name, value in self._asdict().items()
        }


def run(client: ClientBase, what: str, keys: Keys, line: bytes) -> Any:
    """Run a program that may be run again, and return what it answers."""
    return client._run(what, lambda connection: call(connection, line), key=keys.stream)
