# SPDX-License-Identifier: BSD-3-Clause
"""Whatever stands in a job's texts: its scheduler reads it back as it is, or it is refused."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdag.errors import UnsupportedError
from ssdag.providers.auto import named
from ssdag.providers.script import base_path
from tests.golden.provider_jobs import JOBS, READERS

if TYPE_CHECKING:
    from ssdag.providers.base import JobSpec

# Letters that mean something to some scheduler or shell, and some that mean nothing.
_LETTERS = st.sampled_from("aZ09 '\"\\$`%{}[]()<>|&;#!*?~^=:,+-_./@üλ")
_TEXT = st.one_of(
    st.text(_LETTERS, min_size=1, max_size=8),
    st.text("aZ09 '%#,:=-_./", min_size=1, max_size=8),
    st.sampled_from(["a\nb", "a\tb", "a\0b", "%j", "{{id}}", "^array_index^", "$PBS_JOBID"]),
)


@st.composite
def jobs(draw: st.DrawFn) -> JobSpec:
    job = replace(
        JOBS["plain"],
        name=draw(_TEXT),
        folder="/" + draw(_TEXT),
        cores_per_node=draw(st.sampled_from([None, 4])),
    )
    field = draw(st.sampled_from(["account", "queue", "env", "none"]))
    if field == "env":
        value = draw(st.text(_LETTERS, max_size=12))
        return replace(job, env={"VALUE": value})
    changes: dict[str, Any] = {} if field == "none" else {field: draw(_TEXT)}
    return replace(job, **changes)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(job=jobs())
def test_texts_are_read_back_or_refused(name: str, job: JobSpec) -> None:
    provider = named(name, **({"parallel_environment": "mpi"} if name == "gridengine" else {}))
    try:
        script = provider.script(job)
        path = f"{base_path(job)}.sh"
        line = provider.submit_command(job, path)
    except UnsupportedError:
        return
    assert path in line
    found = READERS[name](script, line)
    for key in ("account", "queue", "name", "folder"):
        if key in found:
            assert found[key] == getattr(job, key), key
    if "queue or reservation" in found:
        assert found["queue or reservation"] == job.queue
    if "output" in found:
        path = found["output"].replace("%%", "%") if name == "slurm" else found["output"]
        assert path == f"{base_path(job)}.out"
    if "log" in found:
        assert found["log"] in (f"{base_path(job)}.log", os.devnull)


@pytest.mark.parametrize("name", ["lsf", "gridengine"])
def test_what_a_scheduler_would_take_for_a_directive_is_refused(name: str) -> None:
    provider = named(name)
    line = f"{provider.mark} -q other"  # type: ignore[attr-defined]
    for changes in ({"commands": (line,)}, {"worker_init": f"a\n{line}"}):
        with pytest.raises(UnsupportedError, match=r"directive|#BSUB"):
            provider.script(replace(JOBS["plain"], **changes))
    assert line in provider.script(replace(JOBS["plain"], directives=(line,)))


@pytest.mark.parametrize("value", ["a'b\"c\\d$x`id`!", "two\nlines", "ü λ", "", " "])
@pytest.mark.parametrize("name", READERS)
def test_values_of_variables_are_what_the_shell_sees(name: str, value: str) -> None:
    provider = named(name)
    script = provider.script(replace(JOBS["plain"], env={"VALUE": value}))
    exports = script[script.index("export VALUE=") : script.index("\n\nsrun")]
    assert shlex.split(exports) == ["export", f"VALUE={value}"]
    seen = subprocess.run(
        ["bash", "-c", f'{exports}\nprintf %s "$VALUE"'],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert seen.stdout == value
