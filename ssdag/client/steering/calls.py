# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that steers, counts steps and keeps checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssdag.client.base import ClientBase

if TYPE_CHECKING:
    from ssdag.client.steering.checkpoints import Checkpoint
    from ssdag.client.steering.steering import Steering
    from ssdag.client.steering.steps import StepCounter


class SteeringCalls(ClientBase):
    """What coupled codes need beside data; see :class:`ssdag.Client`.

    Names have no ensemble prefixes here: members and drivers give the same ones.
    """

    def steering(self, channel: str = "run") -> Steering:
        """Return a channel of commands, for each rank one, to ask in every step.

        Does not block. See :class:`~ssdag.client.steering.steering.Steering`.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        from ssdag.client.steering.steering import Steering

        return Steering(self, channel)

    def steer(self, command: str, value: Any = None, *, channel: str = "run") -> int:
        """Send a command to a running simulation; return the step from which it counts.

        See :meth:`~ssdag.client.steering.steering.Steering.post` for what may go wrong.

        Parameters
        ----------
        command : str
            What to do; ``"stop"`` sets ``stopped`` of those who ask.
        value : object, optional
            A number, text, array or the like; 1 MiB at most.
        channel : str
            The channel on which the simulation asks.
        """
        return self.steering(channel).post(command, value)

    def step_counter(self, name: str = "run", ranks: int = 1) -> StepCounter:
        """Return a counter of the steps that all ranks have finished.

        Does not block. See :class:`~ssdag.client.steering.steps.StepCounter`.

        Raises
        ------
        ConfigError
            `ranks` is no number of ranks.
        DataFormatError
            The name cannot be one.
        """
        from ssdag.client.steering.steps import StepCounter

        return StepCounter(self, name, ranks)

    def checkpoint(self, name: str = "run", ranks: int = 1, keep: int = 1) -> Checkpoint:
        """Return a checkpoint of a simulation, to save to and to load from.

        Does not block. See :class:`~ssdag.client.steering.checkpoints.Checkpoint`.

        Raises
        ------
        ConfigError
            `ranks` or `keep` is no number of them.
        DataFormatError
            The name cannot be one.
        """
        from ssdag.client.steering.checkpoints import Checkpoint

        return Checkpoint(self, name, ranks, keep)
