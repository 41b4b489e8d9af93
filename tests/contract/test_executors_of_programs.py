# SPDX-License-Identifier: BSD-3-Clause
"""The contract on executors that start a program for each task.

The same tests as for executors with workers, but for those that call thousands of times:
an interpreter for each call takes 0.1 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import ssdag
from ssdag.executors import AllocationExecutor, BatchExecutor
from ssdag.providers.base import Node
from ssdag.providers.local import LocalProvider
from tests.contract.test_executor_apps import (  # noqa: F401
    test_a_command_gives_its_exit_code,
    test_a_command_that_fails_tells_all,
    test_automatic_names_and_labels,
    test_outputs_are_futures_of_files,
    test_outputs_of_tasks_that_do_not_run,
    test_outputs_that_are_missing,
    test_the_streams_of_commands,
    test_the_streams_of_python_bodies,
    test_the_walltime_of_a_command,
    test_what_is_no_command,
)
from tests.contract.test_executor_contract import (  # noqa: F401
    test_a_result_may_be_changed_by_who_gets_it,
    test_an_app_called_in_a_worker_process,
    test_an_error_arrives_whole,
    test_arguments_by_place_and_by_name,
    test_coroutine_functions_run,
    test_long_strings_and_bytes,
    test_odd_names,
    test_sys_exit_in_a_body_is_an_error_and_the_worker_lives,
    test_what_cannot_be_loaded,
    test_what_cannot_be_sent,
    test_where_bodies_run,
    test_wrong_arguments_are_the_tasks_error,
)
from tests.contract.test_executor_control import (  # noqa: F401
    test_backoff_and_handler,
    test_cancel_a_join_cancels_what_its_body_made,
    test_cancel_a_running_task,
    test_cancel_pending_and_queued,
    test_cancel_while_a_retry_waits,
    test_priority,
    test_retries_per_app_and_global,
    test_walltime,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ssdag.dataflow.engine import Engine
    from ssdag.executors import Executor

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=["allocation", "batch"])
def kind(request: pytest.FixtureRequest) -> str:
    """The executor's kind."""
    return str(request.param)


@pytest.fixture
def start(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    """Start engines, as the fixture of the same name does for executors with workers."""
    engines: list[Engine] = []
    folder: Path = tmp_path_factory.mktemp("runs")

    def make(workers: int = 2, **config: Any) -> Engine:
        executor: Executor
        if kind == "allocation":
            nodes = [Node("localhost", workers)]
            executor = AllocationExecutor("local", nodes=nodes, grace_s=0.5)
        else:
            executor = BatchExecutor(
                LocalProvider(), slots=workers, folder=folder, coalesce_s=0.02, max_jobs=1000
            )
        engines.append(ssdag.load(ssdag.Config(executors=[executor], **config)))
        return engines[-1]

    yield make
    for engine in reversed(engines):
        engine.close()
