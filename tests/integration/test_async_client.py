# SPDX-License-Identifier: BSD-3-Clause
"""The client for coroutines: the same calls, and an event loop that never stands still."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ssdag import AsyncClient, Client, Dataset, Orchestrator
from ssdag.errors import ConfigError, DataTimeoutError, MissingDataError, StoreError
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator


@pytest.fixture(scope="module")
def db() -> Iterator[Orchestrator]:
    with Orchestrator() as service:
        yield service


@pytest.fixture
def client(db: Orchestrator) -> Iterator[Client]:
    with Client(db.address, password_file=db.password_file) as made:
        made.flush_db()
        yield made


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


#: What a coroutine calls on ``.client``, as it does not block, or gives its own counterpart.
SYNCHRONOUS = {
    "address", "aio", "clone", "closed", "clustered", "connect", "future", "given_password",
    "node_of", "redis", "topology_version", "when", "dataset_future", "key_future", "list_future",
    "set_data_source", "use_dataset_ensemble_prefix", "use_list_ensemble_prefix",
    "use_model_ensemble_prefix", "use_tensor_ensemble_prefix",
}  # fmt: skip


def test_nothing_is_left_out() -> None:
    names = {name for name in dir(Client) if not name.startswith("_")}
    calls = {n for n in names if "Does not block" not in (getattr(Client, n).__doc__ or "")}
    assert calls - SYNCHRONOUS <= set(dir(AsyncClient))
    for name in names & set(dir(AsyncClient)):
        ours, theirs = getattr(AsyncClient, name), getattr(Client, name)
        assert ours.__doc__, name
        assert callable(theirs), name


def test_calls(client: Client) -> None:
    async def main() -> None:
        aio = client.aio
        assert aio is client.aio
        await aio.put_tensor("a", [1, 2, 3])
        assert (await aio.get_tensor("a", slab=slice(1, 3))).tolist() == [2, 3]
        await aio.put_tensors({f"t{i}": np.full(3, i) for i in range(20)})
        found = await asyncio.gather(*(aio.get_tensor(f"t{i}") for i in range(20)))
        assert [int(array[0]) for array in found] == list(range(20))
        with pytest.raises(MissingDataError):
            await aio.get_tensor("none")
        dataset = Dataset("d")
        dataset.add_tensor("x", np.arange(3))
        await aio.put_dataset(dataset)
        await aio.append_to_list("list", dataset)
        assert [d.name async for d in aio.iter_datasets_from_list("list")] == ["d"]
        await aio.wait_dataset("d", 5)
        await aio.wait_list("list", 1, 5)
        await aio.flush_db()
        assert await aio.list_keys() == []

    run(main())


def test_waiting_takes_no_thread(client: Client) -> None:
    async def main() -> None:
        async with AsyncClient(client.address, password_file=client.password_file) as aio:
            waits = [asyncio.create_task(aio.wait_tensor(f"t{i}", 30)) for i in range(200)]
            waits.append(asyncio.create_task(aio.wait_key("t7", 30)))
            await aio.ping()
            before = threading.active_count()
            assert before < 20
            client.put_tensors({f"t{i}": np.zeros(1) for i in range(200)})
            await asyncio.gather(*waits)
            assert (await aio.client.tensor_future("t3")).shape == (1,)
            with pytest.raises(DataTimeoutError):
                await aio.wait_tensor("none", 0.01)
            cancelled = asyncio.create_task(aio.wait_tensor("never"))
            await aio.ping()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        with pytest.raises(StoreError, match="closed"):
            await aio.ping()
        aio.release()

    run(main())


def test_the_loop_goes_on_while_the_server_is_silent(client: Client, db: Orchestrator) -> None:
    assert db.pid is not None

    async def main() -> None:
        aio = client.aio
        await aio.ping()
        os.kill(db.pid or 0, signal.SIGSTOP)
        try:
            call = asyncio.create_task(aio.put_tensor("a", np.zeros(1 << 22)))
            end = time.monotonic() + 0.2
            turns = 0
            while time.monotonic() < end:
                await asyncio.sleep(0)
                turns += 1
            assert not call.done()
            assert turns > 100
        finally:
            os.kill(db.pid or 0, signal.SIGCONT)
        await call

    run(main())
    assert client.get_tensor("a").size == 1 << 22


def test_life(client: Client) -> None:
    aio = AsyncClient(client, threads=1)
    run(aio.ping())
    back = pickle.loads(pickle.dumps(aio))
    assert back.client.address == client.address
    aio.release()
    run(aio.ping())  # threads come again
    run(aio.close())
    assert client.closed
    wait_until(lambda: not _threads(), what="threads have gone")
    with pytest.raises(ConfigError, match="threads"):
        AsyncClient("h:1", threads=0)
    with pytest.raises(ConfigError, match="timeout_s"):
        AsyncClient(client, timeout_s=1.0)


def _threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("ssdag-aio")]


def test_closing_the_client_lets_the_threads_go(client: Client) -> None:
    run(client.aio.ping())
    assert _threads()
    client.close()
    wait_until(lambda: not _threads(), what="threads have gone")
