# SPDX-License-Identifier: BSD-3-Clause
"""Futures of data: what a service of data gives to tasks that wait for data."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from ssdag.client.datasets.dataset import check_name
from ssdag.client.datasets.keys import check_base, meta_key
from ssdag.client.shared import TensorReference
from ssdag.client.stored import StoredReference
from ssdag.client.streams.keys import Keys, Options
from ssdag.client.transport.resp import key_bytes
from ssdag.client.waiting import conditions
from ssdag.client.waiting.conditions import Condition
from ssdag.client.waiting.watchers import close_watcher, watcher_for
from ssdag.errors import ServiceError, SsdagError, StoreError
from ssdag.futures import DataFuture
from ssdag.services.node import ServiceNode
from ssdag.services.stream_future import StreamFuture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from ssdag.client.client import Client
    from ssdag.client.datasets.dataset import Dataset
    from ssdag.client.streams.keys import Policy
    from ssdag.client.tensors.npy import Array
    from ssdag.futures import Future

    #: Named here, because inside the class `list` is a method.
    Datasets: TypeAlias = list[Dataset]

T = TypeVar("T")

#: How long a lost server is tried again. Its owner hears of its end and tells those who
#: wait, so this is for servers of others only.
_PATIENCE_S = 60.0


class DataFutures(ServiceNode):
    """A service whose ready future holds a reference to a client; see Orchestrator.

    None of the methods blocks; the server is started in the background if need be. A
    task that takes such a future runs when the data are there, and fetches them where
    it runs; ``result()`` fetches them here. A future fails with StoreError if the server
    is lost, with DataTimeoutError after `timeout_s`, and otherwise waits for ever if
    nobody writes the data (the writer failed, the name is misspelt): see
    :class:`~ssdag.DataFuture`.
    """

    def tensor(
        self, name: str, *, prefix: str = "", timeout_s: float | None = None
    ) -> DataFuture[Array]:
        """Return the future of a tensor: done when somebody has put it, wherever.

        Parameters
        ----------
        name : str
            The tensor; it may be there already.
        prefix : str
            What its writer has in ``SSKEYOUT``.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        full = _prefixed(prefix, name)
        condition = conditions.existence("tensor", full, key_bytes(full))

        def result(client: Client) -> object:
            return TensorReference(client.address, client.password_file, full)

        return self._future(condition, result, timeout_s)

    def dataset(
        self, name: str, *, prefix: str = "", timeout_s: float | None = None
    ) -> DataFuture[Dataset]:
        """Return the future of a dataset: done when somebody has put it as a whole.

        Parameters
        ----------
        name : str
            The dataset; it may be there already.
        prefix : str
            What its writer has in ``SSKEYOUT``.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        condition = conditions.complete_dataset(name, _base(name, prefix))
        return self._future(condition, _fetch("get_dataset", (name,), prefix), timeout_s)

    def list(
        self, name: str, *, length: int, prefix: str = "", timeout_s: float | None = None
    ) -> DataFuture[Datasets]:
        """Return the future of an aggregation list's first datasets.

        Done when the list is long enough; it stands for a list of that length.

        Parameters
        ----------
        name : str
            The list.
        length : int
            Number of datasets, 1 or more.
        prefix : str
            What its writers have in ``SSKEYOUT``.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        ConfigError
            The length is no number of datasets.
        """
        key_bytes(name)
        key = key_bytes(_prefixed(prefix, name))
        condition = conditions.list_length(name, key, length, least=1)
        fetch = _fetch("get_dataset_list_range", (name, 0, length - 1), prefix)
        return self._future(condition, fetch, timeout_s)

    def key(self, name: str, *, timeout_s: float | None = None) -> DataFuture[bytes]:
        """Return the future of a key's bytes: done when there is such a key.

        Parameters
        ----------
        name : str
            The key, as the server has it.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        DataFormatError
            The name cannot be one.
        """
        condition = conditions.existence("key", name, key_bytes(name))
        return self._future(condition, _fetch("get_key", (name,), ""), timeout_s)

    def stream(
        self,
        name: str,
        *,
        capacity: int | None = None,
        policy: Policy | None = None,
        evict: bool | None = None,
        writers: int | None = None,
        records: int = 0,
        ended: bool = False,
        timeout_s: float | None = None,
    ) -> StreamFuture:
        """Return the future of a stream: a task that takes it gets it connected.

        In this process it is used as the stream itself, see
        :class:`~ssdag.services.stream_future.StreamFuture`. By default a task runs as soon
        as the server is there, as writers and readers do that run at the same time.

        Parameters
        ----------
        name : str
            The stream, with the prefix of its writer (``prefix.name``) if that has one.
        capacity, policy, evict, writers : optional
            See :meth:`ssdag.Client.stream`.
        records : int
            Let the task wait until so many records were appended.
        ended : bool
            Let the task wait until the stream has ended.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        ConfigError
            An option has no possible value.
        DataFormatError
            The name cannot be one.
        """
        options = Options(capacity, policy, evict, writers).checked()
        state = Keys.of(name).state
        condition = Condition("stream", name, (state,))
        if ended:
            condition = conditions.stream_end(name, state)
        elif records:
            condition = conditions.stream_records(name, state, records)
        given = {word: value for word, value in options._asdict().items() if value is not None}

        def result(client: Client) -> object:
            return StoredReference(client, "stream", (name,), "", given)

        future = StreamFuture(name, source=self)
        self._future(condition, result, timeout_s, future)
        return future

    def when(
        self,
        check: Callable[[Client], T],
        *,
        keys: Iterable[str] = (),
        tensors: Iterable[str] = (),
        datasets: Iterable[str] = (),
        lists: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> DataFuture[T]:
        """Return the future of a condition that is a function: done when that says so.

        The function is called in this process once at first, and again whenever one of
        the named data changes; other such functions wait meanwhile, so it should be
        quick. MissingDataError in it means "not yet", another error fails the future.

        Parameters
        ----------
        check : callable
            Gets a client. What it returns, if that is true, is the future's result.
        keys, tensors, datasets, lists : iterable of str
            What it depends on.
        timeout_s : float, optional
            The future fails with DataTimeoutError after this time.

        Raises
        ------
        ConfigError
            It depends on nothing, so it would never be asked again.

        Examples
        --------
        ::

            stop = db.when(lambda c: c.get_tensor("loss") < 1e-3, tensors=["loss"])
        """
        names = (
            *map(key_bytes, keys),
            *map(key_bytes, tensors),
            *(meta_key(_base(name)) for name in datasets),
            *map(key_bytes, lists),
        )
        title = getattr(check, "__name__", "check")
        condition = conditions.checked(title, names, lambda: check(self._ready.result()))
        return self._future(condition, lambda client: None, timeout_s)

    def _future(
        self,
        condition: Condition,
        result: Callable[[Client], object],
        timeout_s: float | None,
        future: DataFuture[Any] | None = None,
    ) -> DataFuture[Any]:
        """Return the future of a condition.

        Parameters
        ----------
        condition : Condition
            What is waited for; one without a command holds as soon as the server is there.
        result : callable
            Gets the client and returns what the future will hold.
        timeout_s : float or None
            The future fails with DataTimeoutError after this time.
        future : DataFuture, optional
            Complete this one instead of a new one.
        """
        if future is None:
            future = DataFuture(condition.name, condition.kind, source=self)
        until_s = None if timeout_s is None else time.monotonic() + timeout_s

        def watch(ready: Future[Any]) -> None:
            error = ready.exception() or self._lost()
            if error is not None:
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    future.set_exception(error)
                return
            client: Client = ready.result()
            if not condition.look and condition.check is None:
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    future.set_result(result(client))
                return
            watcher = watcher_for(client)
            watcher.patience_s = max(watcher.patience_s, _PATIENCE_S)
            left_s = None if until_s is None else max(until_s - time.monotonic(), 0.0)
            watcher.watch(condition, result(client), future=future, timeout_s=left_s)

        self._when_ready(watch)
        return future

    def _lost(self) -> SsdagError | None:
        """Return why the server is gone, None while it is not."""
        if not self._state.final:
            return None
        return self._error or ServiceError(f"{self.name} was stopped")

    def _fail_futures(self, client: Client, error: SsdagError) -> None:
        """Fail what still waits for data, because the server has ended or is given up."""
        failure = error
        if not isinstance(error, StoreError):
            failure = StoreError(f"{self.name!r} was stopped while data were awaited")
            failure.transient = False
        close_watcher(client, failure)

    def _fail_slots(self, client: Client, first: int, last: int, error: SsdagError) -> None:
        """Fail what waits for data in the slots of a shard that is lost."""
        watcher_for(client).give_up(first, last, error)


def _prefixed(prefix: str, name: str) -> str:
    key_bytes(name)
    return f"{prefix}.{name}" if prefix else name


def _base(name: str, prefix: str = "") -> bytes:
    """Return what all keys of a dataset begin with."""
    return check_base(key_bytes(_prefixed(prefix, f"{{{check_name(name)}}}")))


def _fetch(call: str, args: tuple[Any, ...], prefix: str) -> Callable[[Client], object]:
    return lambda client: StoredReference(client, call, args, prefix)
