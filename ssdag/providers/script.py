# SPDX-License-Identifier: BSD-3-Clause
"""The script of a job: what is the same for all schedulers.

Around the commands of a :class:`~ssdag.providers.base.JobSpec` it makes sure that

* a scheduler which starts a job again by itself (a lost node, a restarted server) does not
  run it twice, unless the job is ``rerunnable``: the second run refuses, with exit code 75,
* the job fails, with the line and its exit code, if a line of ``worker_init`` fails,
* the exit code is that of the last command; it is also kept in a file, for schedulers that
  forget a job as soon as it has ended.
"""

from __future__ import annotations

import os
import re
from shlex import quote
from typing import TYPE_CHECKING

from ssdag.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ssdag.providers.base import JobSpec

#: What a job ends with that was started a second time and must not be (EX_TEMPFAIL).
SECOND_RUN_EXIT_CODE = 75

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# A failing line is one for which `set -e` would leave; lines of sourced files and functions
# may fail as they like, since many an activate script has some that do.
_CHECK_INIT = """\
trap 'ssdag_code=$?; [ "${#BASH_SOURCE[@]}" -gt 1 ] || {
    echo "ssdag: worker_init failed with exit code $ssdag_code at: $BASH_COMMAND" >&2
    exit "$ssdag_code"
}' ERR"""

_FIND_MODULE = """\
if ! type module >/dev/null 2>&1; then
    for ssdag_init in "${MODULESHOME:-}/init/bash" "${LMOD_PKG:-}/init/bash" \\
        /etc/profile.d/lmod.sh /etc/profile.d/modules.sh; do
        if [ -r "$ssdag_init" ]; then source "$ssdag_init"; break; fi
    done
fi"""


def one_line(what: str, text: str) -> str:
    """Return `text`, which goes into a directive or an argument, if it is one line.

    Raises
    ------
    UnsupportedError
        It holds a line break or another control character.
    """
    if _CONTROL.search(text):
        raise UnsupportedError(
            f"{what} {text!r} holds a control character, which no scheduler's script can express"
        )
    return text


def base_path(job: JobSpec) -> str:
    """Return the path that all files of a job begin with: its folder and its name.

    Raises
    ------
    UnsupportedError
        Folder or name hold a line break or another control character.
    """
    name = re.sub(r"[/\\]", "_", one_line("the job name", job.name))
    return os.path.join(one_line("the folder", job.folder), name)


def output_paths(job: JobSpec, index: int | None = None) -> tuple[str, str]:
    """Return the paths of stdout and stderr; `index` is that of an array's task."""
    base = base_path(job) if index is None else f"{base_path(job)}.{index}"
    return f"{base}.out", f"{base}.err"


def exit_path(job: JobSpec, job_id: str) -> str:
    """Return the path of the file with the exit code; `job_id` is the script's own id."""
    return f"{base_path(job)}.{job_id.replace('/', '_')}.exit"


def build(
    job: JobSpec,
    directives: Iterable[str],
    *,
    own_id: str,
    index: str = "",
    redirect: bool = False,
    first: Iterable[str] = (),
    at_exit: str = "",
) -> str:
    """Return the text of a script; pure.

    Parameters
    ----------
    job : JobSpec
    directives : iterable of str
        Whole lines, with the scheduler's mark, in their order.
    own_id : str
        Shell text (for double quotes) of the id that :meth:`Provider.poll` knows the job,
        or the array's task, by.
    index : str
        Shell text (for double quotes) of an array task's index, from 0.
    redirect : bool
        True if the script itself sends stdout and stderr into the job's files, because
        the scheduler cannot, or does so only at the end.
    first : iterable of str
        Shell lines that run before everything of the job's own.
    at_exit : str
        Shell text, without single quotes, that runs last; ``$ssdag_code`` is the exit code.

    Raises
    ------
    UnsupportedError
        Something that is asked for cannot be written in a script.
    """
    if job.array is not None and (job.array < 1 or not index):
        raise UnsupportedError(f"array={job.array}: not possible on this scheduler")
    lines = ["#!/bin/bash", *directives, ""]
    lines.append(f"cd {quote(one_line('the folder', job.folder))} || exit")
    if job.array is not None:
        lines.append(f'export SSDAG_ARRAY_INDEX="{index}"')
    if redirect:
        out, err = (_indexed(job, path) for path in output_paths(job))
        lines.append(f"exec >{out} 2>{err}")
    lines.append(f'ssdag_file={quote(base_path(job))}."{own_id.replace("/", "_")}"')
    if not job.rerunnable:
        lines += _refuse_second_run()
    keep = '[ "${ssdag_ended:-}$ssdag_code" = 0 ] || echo "$ssdag_code" >"$ssdag_file.exit"'
    lines.append(f"trap 'ssdag_code=$?; {keep}{'; ' if at_exit else ''}{at_exit}' EXIT")
    lines += first
    lines += [f"export {name}={quote(value)}" for name, value in sorted(job.env.items())]
    if job.modules or job.worker_init.strip():
        lines.append(_CHECK_INIT)
        if job.modules:
            lines += [_FIND_MODULE, *(f"module load {quote(name)}" for name in job.modules)]
        if job.worker_init.strip():
            lines.append(job.worker_init.rstrip("\n"))
        lines.append("trap - ERR")
    lines += ["", *job.commands, "ssdag_code=$? ssdag_ended=1", 'exit "$ssdag_code"']
    text = "\n".join(lines) + "\n"
    if "\0" in text:
        raise UnsupportedError(f"the script of job {job.name!r} holds a NUL character")
    return text


def _indexed(job: JobSpec, path: str) -> str:
    if job.array is None:
        return quote(path)
    stem, suffix = os.path.splitext(path)
    return f'{quote(stem)}."$SSDAG_ARRAY_INDEX"{suffix}'


def _refuse_second_run() -> list[str]:
    return [
        'if [ -e "$ssdag_file.began" ]; then',
        '    echo "ssdag: started again by the scheduler, but it must not run twice" >&2',
        '    echo "ssdag: it began first on $(cat "$ssdag_file.began")" >&2',
        f"    exit {SECOND_RUN_EXIT_CODE}",
        "fi",
        'echo "${HOSTNAME:-?} at $(date)" >"$ssdag_file.began" || exit',
    ]
