# SPDX-License-Identifier: BSD-3-Clause
"""The part of a client that waits for data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.base import call
from ssdag.client.datasets.calls import DatasetCalls
from ssdag.client.datasets.keys import meta_key
from ssdag.client.tensors.calls import TensorCalls
from ssdag.client.transport.deadline import Deadline
from ssdag.client.transport.resp import command, key_bytes
from ssdag.client.waiting import conditions
from ssdag.errors import DataError, DataTimeoutError, MissingDataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from ssdag.client.datasets.dataset import Dataset
    from ssdag.client.tensors.npy import Array
    from ssdag.client.waiting.conditions import Comparison, Condition
    from ssdag.client.waiting.waiter import Waiters
    from ssdag.futures import DataFuture

T = TypeVar("T")


class WaitCalls(DatasetCalls, TensorCalls):
    """Blocking until data are there, and futures of data; see :class:`ssdag.Client`.

    The server tells when something changes; nothing is polled. All futures of a process
    share one thread and one connection per server; a call that blocks has a connection
    of its own, which the next one uses again. A lost connection is made anew; a server
    that stays away fails those who wait with StoreError.
    """

    # -- blocking --------------------------------------------------------------------

    def wait_tensor(self, name: str, timeout_s: float | None = None) -> None:
        """Block until a tensor of this name is there; at once if it is.

        Parameters
        ----------
        name : str
            The tensor.
        timeout_s : float, optional
            How long to wait at most; None for ever.

        Raises
        ------
        DataTimeoutError
            It did not come in time, or the server did not answer.
        StoreError
            The server was lost, or sends no notifications.
        """
        self.wait(self._tensor_condition(name), timeout_s)

    def wait_key(self, key: str, timeout_s: float | None = None) -> None:
        """Block until there is a key, with any kind of value; keys never get a prefix.

        Parameters and errors are those of :meth:`wait_tensor`.
        """
        self.wait(conditions.existence("key", key, key_bytes(key)), timeout_s)

    def wait_dataset(self, name: str, timeout_s: float | None = None) -> None:
        """Block until a complete dataset of this name is there; at once if it is.

        Parameters and errors are those of :meth:`wait_tensor`.
        """
        self.wait(conditions.complete_dataset(name, self._read_base(name)), timeout_s)

    def wait_list(
        self,
        name: str,
        length: int,
        timeout_s: float | None = None,
        *,
        compare: Comparison = ">=",
    ) -> None:
        """Block until an aggregation list has a length; a missing list has length 0.

        Parameters
        ----------
        name : str
            The list.
        length : int
            Number of datasets.
        timeout_s : float, optional
            How long to wait at most; None for ever.
        compare : {">=", "==", "<="}
            How the list's length shall compare with `length`. A length that the list
            has for a moment only may be missed; so is the end of all lists by
            :meth:`flush_db`, of which the server tells nobody.

        Raises
        ------
        DataTimeoutError
            It did not come in time.
        DataError
            Under this name is something else than a list.
        StoreError
            The server was lost, or sends no notifications.
        """
        key = self._read("list", name)
        self.wait(conditions.list_length(name, key, length, compare), timeout_s)

    def wait(self, condition: Condition, timeout_s: float | None = None) -> None:
        """Block until a condition holds; at once if it does.

        Raises
        ------
        DataTimeoutError
            It did not come in time, or the server did not answer.
        StoreError
            The server was lost, or sends no notifications.
        """
        if condition.check is None:
            line = command(*condition.look)
            what = f"wait for {condition}"
            with Deadline(timeout_s) as deadline:
                if condition.holds(self._run(what, lambda c: call(c, line), key=condition.keys[0])):
                    return
                self._waiters().wait(self, condition, deadline)
            return
        future = self.future(condition)
        try:
            error = future.exception(timeout_s)
        except TimeoutError:
            raise DataTimeoutError(f"{condition} did not come within {timeout_s} s") from None
        finally:
            future.cancel()
        if error is not None:
            raise error

    def _waiters(self) -> Waiters:
        """Return what waits in the thread that calls; made when first used."""
        made: Waiters | None = vars(self).get("_idle_waiters")
        if made is None:
            from ssdag.client.waiting.waiter import Waiters

            made = vars(self).setdefault("_idle_waiters", Waiters())
        return made

    def release(self) -> None:
        """Close the idle connections; the next call connects anew."""
        super().release()
        waiters: Waiters | None = vars(self).get("_idle_waiters")
        if waiters is not None:
            waiters.close()

    # -- futures ---------------------------------------------------------------------

    def tensor_future(self, name: str, *, timeout_s: float | None = None) -> DataFuture[Array]:
        """Return the future of a tensor: done when somebody has put it, wherever.

        Does not block. ``result()`` fetches the tensor, ``await`` does it without
        blocking the event loop, ``cancel()`` ends the waiting.

        Parameters
        ----------
        name : str
            The tensor; it may be there already.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.
        """
        return self._stored(self._tensor_condition(name), "get_tensor", (name,), timeout_s)

    def dataset_future(self, name: str, *, timeout_s: float | None = None) -> DataFuture[Dataset]:
        """Return the future of a dataset: done when it is there as a whole.

        Otherwise as :meth:`tensor_future`.
        """
        condition = conditions.complete_dataset(name, self._read_base(name))
        return self._stored(condition, "get_dataset", (name,), timeout_s)

    def key_future(self, key: str, *, timeout_s: float | None = None) -> DataFuture[bytes]:
        """Return the future of a key's bytes; otherwise as :meth:`tensor_future`."""
        condition = conditions.existence("key", key, key_bytes(key))
        return self._stored(condition, "get_key", (key,), timeout_s)

    def list_future(
        self, name: str, length: int, *, timeout_s: float | None = None
    ) -> DataFuture[list[Dataset]]:
        """Return the future of a list's first `length` datasets: done when it is as long.

        Otherwise as :meth:`tensor_future`.
        """
        condition = conditions.list_length(name, self._read("list", name), length, least=1)
        return self._stored(condition, "get_dataset_list_range", (name, 0, length - 1), timeout_s)

    def when(
        self,
        check: Callable[[Self], T],
        *,
        keys: Iterable[str] = (),
        tensors: Iterable[str] = (),
        datasets: Iterable[str] = (),
        lists: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> DataFuture[T]:
        """Return the future of a condition that is a function: done when that says so.

        The function is called once at first, and again whenever one of the named data
        changes, in a thread of this process that other such functions share: it should
        be quick. MissingDataError in it means "not yet"; any other error fails the
        future.

        Parameters
        ----------
        check : callable
            Gets this client. What it returns, if that is true, is the future's result.
        keys, tensors, datasets, lists : iterable of str
            What the function depends on, by name; names get the prefixes of what is
            read, keys none.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Examples
        --------
        ::

            done = client.when(lambda c: c.get_tensor("loss") < 1e-3, tensors=["loss"])
        """
        names = (
            *(key_bytes(key) for key in keys),
            *(self._read("tensor", name) for name in tensors),
            *(meta_key(self._read_base(name)) for name in datasets),
            *(self._read("list", name) for name in lists),
        )
        title = getattr(check, "__name__", "check")
        return self.future(
            conditions.checked(title, names, lambda: check(self)), timeout_s=timeout_s
        )

    def future(
        self, condition: Condition, result: object = None, *, timeout_s: float | None = None
    ) -> DataFuture[Any]:
        """Return the future of any condition; for those who add kinds of data.

        Parameters
        ----------
        condition : Condition
            What is waited for.
        result : object
            What the future will hold; a Reference is resolved where it is used.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.
        """
        from ssdag.client.waiting.watchers import watcher_for

        return watcher_for(self).watch(condition, result, timeout_s=timeout_s)

    # -- keys ------------------------------------------------------------------------

    def get_key(self, key: str) -> bytes:
        """Return the bytes of a string value; keys never get a prefix.

        Raises
        ------
        MissingDataError
            There is no such key.
        DataError
            Its value is no string.
        StoreError
            The server cannot be reached.
        """
        name = key_bytes(key)
        line = command(b"GET", name)
        value = self._run(f"get of key {key!r}", lambda c: call(c, line), key=name)
        if value is None:
            raise MissingDataError(f"there is no key {key!r}")
        if not isinstance(value, bytes):
            raise DataError(f"key {key!r} holds no bytes but {value!r:.80}")
        return value

    # -- inside ----------------------------------------------------------------------

    def _tensor_condition(self, name: str) -> Condition:
        return conditions.existence("tensor", name, self._read("tensor", name))

    def _stored(
        self, condition: Condition, get: str, args: tuple[Any, ...], timeout_s: float | None
    ) -> DataFuture[Any]:
        from ssdag.client.stored import StoredReference

        return self.future(condition, StoredReference(self, get, args), timeout_s=timeout_s)
