# SPDX-License-Identifier: BSD-3-Clause
"""Steering, step counters and checkpoints of a service of data, for its driver."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ssdag.services.node import ServiceNode

if TYPE_CHECKING:
    from ssdag.client.client import Client
    from ssdag.client.steering.checkpoints import Checkpoint
    from ssdag.client.steering.steering import Steering
    from ssdag.client.steering.steps import StepCounter


class DataSteering(ServiceNode):
    """Calls of this process's client that a driver makes; see :class:`ssdag.Orchestrator`.

    They start the server if need be. A colocated one is that of the driver's own node.
    """

    @abstractmethod
    def client(self) -> Client:
        """Return this process's client of the servers; starts them if need be."""

    def steering(self, channel: str = "run") -> Steering:
        """Return a channel of commands; see :meth:`ssdag.Client.steering`.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        return self.client().steering(channel)

    def steer(self, command: str, value: Any = None, *, channel: str = "run") -> int:
        """Send a command to a running simulation; return the step from which it counts.

        See :meth:`ssdag.Client.steer`. Blocks until the server has it.

        Raises
        ------
        DataFormatError
            The value cannot be stored, or is larger than 1 MiB.
        StoreError
            The server cannot be reached or refuses.
        """
        return self.client().steer(command, value, channel=channel)

    def step_counter(self, name: str = "run", ranks: int = 1) -> StepCounter:
        """Return a counter of the steps that all ranks have finished.

        See :meth:`ssdag.Client.step_counter`.

        Raises
        ------
        ConfigError
            `ranks` is no number of ranks.
        DataFormatError
            The name cannot be one.
        """
        return self.client().step_counter(name, ranks)

    def checkpoint(self, name: str = "run", ranks: int = 1, keep: int = 1) -> Checkpoint:
        """Return a checkpoint of a simulation; see :meth:`ssdag.Client.checkpoint`.

        Not to be confused with :attr:`checkpoint_file`, by which servers are found again.

        Raises
        ------
        ConfigError
            `ranks` or `keep` is no number of them.
        DataFormatError
            The name cannot be one.
        """
        return self.client().checkpoint(name, ranks, keep)
