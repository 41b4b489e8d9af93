# SPDX-License-Identifier: BSD-3-Clause
"""What every launcher promises: its lines hold what the steps say, and can be read back."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.errors import ConfigError, UnsupportedError
from ssdag.launchers import Launcher, Step, Wrapped, container
from tests.contract.steps_of_launchers import CASES, Case

SEVERAL = [case for case in CASES if case.several is not None]


def _name(case: Case) -> str:
    return case.launcher.name


def check(launcher: Launcher, steps: tuple[Step, ...]) -> None:
    line = launcher.command(*steps)
    assert all(isinstance(word, str) and "\0" not in word for word in line)
    files = launcher.files(*steps)
    assert launcher.parse(line, files) == steps
    assert launcher.parse(shlex.split(shlex.join(line)), files) == steps
    assert launcher.command(*launcher.parse(line, files)) == line
    moved = launcher.command(*steps, folder="/a b")
    assert launcher.parse(moved, files) == steps
    for name in files:
        assert "/" not in name
        assert any(word.endswith(f"/a b/{name}") for word in moved)


@pytest.mark.parametrize("case", CASES, ids=_name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_line_reads_back_to_its_step(case: Case, data: st.DataObject) -> None:
    check(case.launcher, (data.draw(st.composite(case.one)()),))


@pytest.mark.parametrize("case", SEVERAL, ids=_name)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_line_of_several_programs_reads_back_to_its_steps(
    case: Case, data: st.DataObject
) -> None:
    assert case.several is not None
    check(case.launcher, data.draw(st.composite(case.several)()))


@pytest.mark.parametrize("case", CASES, ids=_name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_container_stands_in_front_of_every_program(case: Case, data: st.DataObject) -> None:
    step = data.draw(st.composite(case.one)())
    image = container("/images/c f.sif", binds=["/scratch"], nvidia=True)
    launcher = Wrapped(case.launcher, image)
    line, files = launcher.command(step), launcher.files(step)
    assert launcher.parse(line, files) == (step,)
    inside = replace(step, argv=(*image, *step.argv))
    assert case.launcher.parse(line, files) == (inside,)
    assert line == case.launcher.command(inside)


@pytest.mark.parametrize("case", CASES, ids=_name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_prefix_is_the_line_without_the_program(case: Case, data: st.DataObject) -> None:
    step = data.draw(st.composite(case.one)())
    plain = replace(step, argv=("sim", "a b"))
    assert [*case.launcher.prefix(step), "sim", "a b"] == case.launcher.command(plain)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_it_is_found_by_its_name(case: Case) -> None:
    points = {point.name: point for point in entry_points(group="ssdag.launchers")}
    assert points[case.launcher.name].load() is type(case.launcher)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_what_it_cannot_express_it_names_with_advice(case: Case) -> None:
    beyond: dict[str, Any] = {
        "memory_per_node_bytes": 0,
        "walltime_s": 60.0,
        "het_group": 0,
        "gpus_per_rank": 0,
        "overlap": True,
        "options": ("-x",),
    }
    for option, advice in case.launcher.cannot.items():
        step = Step(argv=("sim",), **{option: beyond[option]})
        with pytest.raises(UnsupportedError) as caught:
            case.launcher.command(step)
        assert option in str(caught.value)
        assert str(caught.value).endswith(advice)
        assert case.launcher.name in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_no_step_is_no_launch(case: Case) -> None:
    with pytest.raises(ConfigError, match="at least one step"):
        case.launcher.command()


@pytest.mark.parametrize("case", [c for c in CASES if c.several is None], ids=_name)
def test_several_programs_are_refused_where_there_is_no_way(case: Case) -> None:
    with pytest.raises(UnsupportedError, match="2 programs"):
        case.launcher.command(Step(argv=("a",)), Step(argv=("b",)))


@pytest.mark.parametrize("case", CASES, ids=_name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_line_is_read_or_refused(case: Case, data: st.DataObject) -> None:
    step = data.draw(st.composite(case.one)())
    line, files = case.launcher.command(step), case.launcher.files(step)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        head, equals, _ = line[at].partition("=")
        other = data.draw(st.sampled_from(["", ":", "-1", "x", "1:x", "mask_cpu:z", "ppr:a:node"]))
        line[at : at + 1] = data.draw(
            st.sampled_from([[], [other], [head + equals + other], [line[at], line[at]]])
        )
        if not line:
            break
    try:
        steps = case.launcher.parse(line, files if data.draw(st.booleans()) else None)
    except ConfigError:
        return
    assert steps


@pytest.mark.parametrize("case", CASES[1:], ids=_name)
def test_a_foreign_line_is_refused(case: Case) -> None:
    for line in (
        [],
        ["elsewhere", "-n", "1", "a"],
        [*case.launcher.command(Step(argv=("a",)))[:1]],
    ):
        with pytest.raises(ConfigError):
            case.launcher.parse(line)
