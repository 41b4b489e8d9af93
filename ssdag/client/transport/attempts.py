# SPDX-License-Identifier: BSD-3-Clause
"""What a call to a cluster does when something is in its way: where next, and how long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ssdag.client.transport.deadline import silence_ends
from ssdag.client.transport.resp import ConnectionLostError, ReplyError, explain
from ssdag.client.transport.route import told
from ssdag.client.transport.slots import parse_redirection
from ssdag.errors import DataTimeoutError, StoreError

if TYPE_CHECKING:
    from ssdag.client.transport.address import Address
    from ssdag.client.transport.slotmap import SlotMap

#: How long a call waits for a cluster to come right, if it has no time limit itself: for
#: a replica that takes over, a slot that is being moved, a node that loads its data.
_PATIENCE_S = 30.0

_FIRST_DELAY_S = 0.01
_LONGEST_DELAY_S = 0.2

#: More answers of MOVED or ASK in a row mean that the nodes do not agree.
_REDIRECTIONS = 16


class Attempt:
    """What went wrong in one call so far, and how long it may still go on.

    Parameters
    ----------
    slots : SlotMap
        Who has which slots.
    limit_s : float or None
        How long it may go on; by default 30 s.
    what : str
        What was tried.
    """

    def __init__(self, slots: SlotMap, limit_s: float | None, what: str) -> None:
        self._map = slots
        self._what = what
        self._patience_s = _PATIENCE_S if limit_s is None else limit_s
        self._deadline_s = time.monotonic() + self._patience_s
        self._delay_s = _FIRST_DELAY_S
        self._redirections = 0
        self._losses = 0
        #: Nodes that cannot be reached, where any node would do.
        self.tried: dict[Address, StoreError] = {}

    def sent_away(self, address: Address, error: ReplyError) -> Address | None:
        """A node did nothing and said why: return whom to ask instead, None for the owner.

        Raises
        ------
        StoreError
            It has gone on for too long, or there is no hope.
        """
        if error.code in ("MOVED", "ASK"):
            to = parse_redirection(str(error), address)
            self._redirections += 1
            if to is not None and self._redirections <= _REDIRECTIONS:
                if error.code == "ASK":
                    return to.address
                self._map.moved(to)
                return None
        elif error.code == "CLUSTERDOWN":
            self._refresh(address)
            gone = self._map.hopeless()
            if gone is not None:
                raise StoreError(f"{self._what}: {gone}")
        self._pause(explain(error, str(address), self._what))
        self._refresh(None)
        return None

    def _refresh(self, avoid: Address | None) -> None:
        try:
            self._map.refresh(avoid)
        except StoreError as error:
            raise told(error, self._what) from error

    def lost(self, address: Address, error: ConnectionLostError) -> None:
        """The connection broke under an idempotent command."""
        self._losses += 1
        if self._losses > 1:
            self._go_on(address, StoreError(f"{error}, for the second time"))

    def unreachable(self, address: Address | None, error: StoreError, anyone: bool) -> None:
        """Nobody listens at a node (None: at any node), so nothing was sent.

        With `anyone`, all that can be done is to try another one.
        """
        if anyone and address is not None:
            self.tried[address] = error
            return
        self._go_on(address, error)

    def _go_on(self, address: Address | None, error: StoreError) -> None:
        """Look for a new owner: return if there may be one, soon."""
        failure = StoreError(f"{self._what}: {error}")
        failure.__cause__ = error
        if address is None:
            raise failure  # no node at all answers
        try:
            self._map.refresh(avoid=address)
        except StoreError:
            raise failure from error
        if not self._map.has(address):
            return
        gone = self._map.orphaned(address)
        if gone is not None:
            raise StoreError(f"{self._what}: {gone} ({error})") from error
        self._pause(failure)

    def _pause(self, failure: Exception) -> None:
        """Wait a moment, longer each time: no event tells when a cluster comes right."""
        until_s = silence_ends()
        if until_s is not None and time.monotonic() > until_s:
            raise DataTimeoutError(f"{failure}; the time of the call is over") from failure
        if time.monotonic() > self._deadline_s:
            raise StoreError(
                f"{failure}; the cluster did not come right within {self._patience_s:g} s"
            ) from failure
        time.sleep(self._delay_s)
        self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
