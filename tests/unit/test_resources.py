# SPDX-License-Identifier: BSD-3-Clause
"""What a task may ask for, and how an executor refuses what it cannot give."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from typing import Any

import pytest

import ssdag
from ssdag import AppDefinitionError, Config, ConfigError, Resources, UnsupportedError, python_app
from ssdag.executors import LocalExecutor, ThreadExecutor
from ssdag.resources import check_walltime
from ssdag.tasks import Options
from tests.contract import bodies

DEADLINE_S = 30.0


def test_it_is_a_frozen_value() -> None:
    needs = Resources(cores=2, memory_bytes=1 << 30, walltime_s=1.5, priority=-3)
    assert needs == Resources(cores=2, memory_bytes=1 << 30, walltime_s=1.5, priority=-3)
    assert hash(needs) == hash(dataclasses.replace(needs))
    assert pickle.loads(pickle.dumps(needs)) == needs
    with pytest.raises(dataclasses.FrozenInstanceError):
        needs.cores = 3  # type: ignore[misc]
    assert all(value is None for value in dataclasses.astuple(Resources()))


@pytest.mark.parametrize("name", ["gpus", "gpus_per_rank", "priority"])
def test_zero_may_be_asked_for(name: str) -> None:
    assert getattr(Resources(**{name: 0}), name) == 0


AT_LEAST_ONE = ("nodes", "ranks", "ranks_per_node", "cores_per_rank", "cores", "memory_bytes")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *((name, 0, "must be at least 1") for name in AT_LEAST_ONE),
        ("gpus", -1, "must be at least 0"),
        ("gpus_per_rank", -1, "must be at least 0"),
        ("cores", 1.0, "an int is needed"),
        ("cores", True, "an int is needed"),
        ("priority", "high", "an int is needed"),
        ("memory_bytes", "4GB", "an int is needed"),
        ("walltime_s", 0, "a positive number"),
        ("walltime_s", -1.0, "a positive number"),
        ("walltime_s", math.nan, "a positive number"),
        ("walltime_s", True, "a positive number"),
        ("walltime_s", "00:10:00", "a positive number"),
    ],
)
def test_wrong_values_are_told_with_their_name(name: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}.*{text}"):
        Resources(**{name: value})


def test_check_walltime() -> None:
    assert check_walltime(None) is None
    seconds = check_walltime(3)
    assert isinstance(seconds, float)
    assert seconds == 3.0


# -- what executors say to it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"cores": 2}, None),
        ({"nodes": 1, "ranks": 1, "cores": 1, "priority": 5}, None),
        ({"cores": 3}, r"has 2 cores \(cores=3\)"),
        ({"nodes": 2}, r"one node and one rank \(nodes=2\)"),
        ({"ranks": 2}, r"one node and one rank \(ranks=2\)"),
        ({"gpus": 1}, r"does not manage gpus \(gpus=1 was asked\)"),
        ({"memory_bytes": 10}, "does not manage memory_bytes"),
        ({"ranks_per_node": 1}, "does not manage ranks_per_node"),
    ],
)
def test_executors_say_why_not(asked: dict[str, int], reason: str | None) -> None:
    for executor in (ThreadExecutor(2), LocalExecutor(2)):
        said = executor.check(Options(resources=Resources(**asked)), "python")
        if reason is None:
            assert said is None
        else:
            assert said is not None
            assert re.search(reason, said)
            assert executor.label in said


def test_threads_cannot_kill_a_python_body_but_a_command() -> None:
    options = Options(walltime_s=1.0)
    said = ThreadExecutor(1).check(options, "python")
    assert said is not None
    assert "cannot kill a Python body" in said
    assert ThreadExecutor(1).check(options, "bash") is None
    assert LocalExecutor(1).check(options, "python") is None


def test_resources_of_an_app() -> None:
    with ssdag.load(Config(executors=[ThreadExecutor(2)])) as engine:
        small = python_app(resources=Resources(cores=1, priority=4))(bodies.inc)
        future = small(1)
        assert future.result(DEADLINE_S) == 2
        assert future._task.options.priority == 4
        own = python_app(resources=Resources(priority=4), priority=-1)(bodies.inc)
        assert own(1)._task.options.priority == -1, "the nearer word counts"
        with pytest.raises(UnsupportedError, match="cores=9"):
            python_app(resources=Resources(cores=9))(bodies.inc)(1)
        with pytest.raises(UnsupportedError, match="walltime_s"):
            python_app(resources=Resources(walltime_s=3.0))(bodies.inc)(1)
        assert len(engine.graph()) == 2, "what was refused is no task"
    with pytest.raises(AppDefinitionError, match=r"a Resources\(\.\.\.\) is needed"):
        python_app(resources={"cores": 1})(bodies.inc)
