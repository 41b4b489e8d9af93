# SPDX-License-Identifier: BSD-3-Clause
"""Options of providers: checked, with the near match, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ssdag.errors import ConfigError
from ssdag.providers import GridEngineProvider, LocalProvider, SlurmProvider
from ssdag.providers.options import (
    BlockOptions,
    clock_of,
    megabytes_of,
    minutes_of,
    seconds_of,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nodes_per_bloc": 2}, "did you mean 'nodes_per_block'"),
        ({"wall_time": 2}, "did you mean 'walltime"),
        ({"walltime": "1:00:00", "walltime_s": 5}, "the same option"),
        ({"partition": "a", "queue": "b"}, "the same option"),
        ({"walltime": "soon"}, "HH:MM:SS"),
        ({"walltime_s": 0}, "walltime_s"),
        ({"walltime_s": float("nan")}, "walltime_s"),
        ({"walltime_s": float("inf")}, "walltime_s"),
        ({"nodes_per_block": 0}, "nodes_per_block"),
        ({"nodes_per_block": True}, "nodes_per_block"),
        ({"nodes_per_block": None}, "nodes_per_block"),
        ({"max_blocks": 0}, "max_blocks"),
        ({"init_blocks": 2}, "must not exceed max_blocks"),
        ({"min_blocks": 3, "max_blocks": 2}, "must not exceed max_blocks"),
        ({"parallelism": 2}, "parallelism"),
        ({"queue": "a\nb"}, "not one line"),
        ({"account": ""}, "not one line"),
        ({"directives": "--x"}, "a list of str"),
        ({"directives": ["a\nb"]}, "not one line"),
        ({"modules": [1]}, "not one line"),
        ({"worker_init": 3}, "shell text"),
        ({"env": {"A-B": "x"}}, "A-B"),
        ({"env": {"A": 5}}, "value of A"),
        ({"env": ["A"]}, "a mapping"),
        ({"exclusive": "yes"}, "True or False"),
        ({"memory_per_node_bytes": "4G"}, "memory_per_node_bytes"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        SlurmProvider(**options)
    assert "slurm" in str(caught.value)


def test_a_secret_of_the_wrong_type_is_not_told() -> None:
    with pytest.raises(ConfigError) as caught:
        SlurmProvider(env={"TOKEN": b"hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_schedulers_own_words_are_taken(tmp_path: Path) -> None:
    provider = SlurmProvider(partition="gpu", walltime="02:00:00", nodes_per_block=4)
    assert (provider.options.queue, provider.options.walltime_s) == ("gpu", 7200)
    job = provider.job("a", iter(["x", "y"]), tmp_path)
    assert (job.queue, job.nodes, job.commands, job.folder) == ("gpu", 4, ("x", "y"), str(tmp_path))
    with pytest.raises(ConfigError, match="partition"):
        GridEngineProvider(partition="gpu")


def test_options_that_this_machine_cannot_have_are_refused() -> None:
    for options in ({"queue": "x"}, {"nodes_per_block": 2}, {"directives": ["-x"]}):
        with pytest.raises(ConfigError, match="local"):
            LocalProvider(**options)


def test_units() -> None:
    assert [seconds_of(t) for t in ("1:00", "01:00:00", "1-00:00:00", 7)] == [60, 3600, 86400, 7]
    assert [clock_of(t) for t in (0.1, 59.2, 3600, 360000)] == [
        "00:00:01",
        "00:01:00",
        "01:00:00",
        "100:00:00",
    ]
    assert [minutes_of(t) for t in (1, 60, 60.5, 3600)] == [1, 1, 2, 60]
    assert [megabytes_of(b) for b in (1, 1 << 20, (1 << 20) + 1)] == [1, 1, 2]


def test_options_hide_the_environment() -> None:
    assert "hunter2" not in repr(BlockOptions(env={"TOKEN": "hunter2"}))
