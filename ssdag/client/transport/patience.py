# SPDX-License-Identifier: BSD-3-Clause
"""How long a connection waits for a silent server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NoReturn

from ssdag.client.transport.resp import ConnectionLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.client.transport.address import Address

#: How long a server may be silent before we ask whether it still counts.
_LOOK_S = 1.0
#: The least that it is waited for.
_LEAST_S = 0.02


class Patience:
    """The time limit of one connection.

    Parameters
    ----------
    address : Address
        The server.
    timeout_s : float or None
        How long it may be silent; None for ever.
    counts : callable or None
        ``counts(address)`` is asked each second of silence whether it is still worth
        waiting for.
    """

    __slots__ = ("_address", "_counts", "_look_s", "_timeout_s", "look_s", "until_s")

    def __init__(
        self,
        address: Address,
        timeout_s: float | None,
        counts: Callable[[Address], bool] | None,
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._counts = counts
        self._look_s = timeout_s
        if counts is not None:
            self._look_s = _LOOK_S if timeout_s is None else min(timeout_s, _LOOK_S)
        #: After so long without a byte it wants to be asked; None for never.
        self.look_s = self._look_s
        #: When the call that uses the connection gives a silent server up; None for never.
        self.until_s: float | None = None

    def heed(self, until_s: float | None) -> None:
        """Set when the call gives up, and by that how soon it wants to be asked."""
        self.until_s = until_s
        self.look_s = self._look_s
        if until_s is not None:
            left_s = max(min(until_s - time.monotonic(), _LOOK_S), _LEAST_S)
            self.look_s = left_s if self._look_s is None else min(left_s, self._look_s)

    def waited(self, error: OSError, looks: int) -> None:
        """Return if the call is to be made again: it was silence, the `looks`-th in a row.

        Raises
        ------
        ConnectionLostError
            The connection broke, the time is over, or nobody counts on the server.
        """
        if not isinstance(error, BlockingIOError):  # what a kernel time limit looks like
            self.lost(error)
        limit_s, look_s = self._timeout_s, self.look_s or 0.0
        if limit_s is not None and looks * look_s >= limit_s:
            raise ConnectionLostError(
                f"the server at {self._address} was silent for {limit_s} s", timed_out=True
            ) from error
        if self.until_s is not None and time.monotonic() >= self.until_s:
            raise ConnectionLostError(
                f"the server at {self._address} did not answer in time: it hangs, or its machine",
                timed_out=True,
                late=True,
            ) from error
        if self._counts is not None and not self._counts(self._address):
            raise ConnectionLostError(
                f"lost the server at {self._address}: it is silent, and the others of its "
                "cluster have given it up"
            ) from error

    def lost(self, error: OSError | None) -> NoReturn:
        """Say that the connection has ended; None if the server hung up."""
        why = "it hung up" if error is None else error.strerror or str(error)
        raise ConnectionLostError(f"lost the server at {self._address}: {why}") from error
