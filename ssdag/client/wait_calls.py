# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that waits for data."""

from __future__ import annotations

from ssdag.client.tensor_calls import TensorCalls
from ssdag.errors import DataTimeoutError


class WaitCalls(TensorCalls):
    """Blocking until data are there; see :class:`ssdag.Client`."""

    def wait_tensor(self, name: str, timeout_s: float | None = None) -> None:
        """Block until a tensor of this name is there; at once if it is.

        The server tells when somebody writes it; nothing is polled.

        Parameters
        ----------
        name : str
            The tensor.
        timeout_s : float, optional
            How long to wait at most; None for ever.

        Raises
        ------
        DataTimeoutError
            It did not come in time.
        StoreError
            The server was lost, or sends no notifications.
        """
        if self.tensor_exists(name):
            return
        from ssdag.client.watch import watcher_for

        future = watcher_for(self).watch(self.prefixes.read("tensor", name))
        try:
            error = future.exception(timeout_s)
        except TimeoutError:
            raise DataTimeoutError(f"tensor {name!r} did not come within {timeout_s} s") from None
        finally:
            future.cancel()
        if error is not None:
            raise error
