# SPDX-License-Identifier: BSD-3-Clause
"""A job of members: its folder, what has become of them, and what that means."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from ssdag.errors import (
    JobError,
    TaskError,
    WalltimeExceededError,
    WorkerLostError,
)
from ssdag.executors.batch import runner
from ssdag.states import JobState
from ssdag.tasks import Outcome
from ssdag.wire import reaper
from ssdag.wire.streams import TAIL_BYTES, last_lines

if TYPE_CHECKING:
    from ssdag.executors.program import Program
    from ssdag.providers.base import JobStatus
    from ssdag.tasks import Task


class Member:
    """A task in a job.

    Parameters
    ----------
    task : Task
    program : Program
        What is executed.
    folders : list of str
        Of its own files.
    """

    def __init__(self, task: Task, program: Program, folders: list[str]) -> None:
        self.task = task
        self.program = program
        self.folders = folders
        self.stdout = self.stderr = ""
        self.began: float | None = None
        self.cancelled = False


class Job:
    """A job: the members that have not ended, and what its runner says.

    Parameters
    ----------
    folder : str
        Its folder, which exists.
    members : list of Member
    """

    def __init__(self, folder: str, members: list[Member]) -> None:
        self.folder = folder
        self.members = members
        self.open: dict[int, Member] = dict(enumerate(members))
        self.job_id = ""
        self.name = os.path.basename(folder)
        self.status: JobStatus | None = None
        #: Monotonic time at which it was learned that the job is over.
        self.over_at: float | None = None
        #: Members that ended because the job does: why will be known when it is over.
        self.cut: set[int] = set()
        self._offset = 0

    def write(
        self, *, slots: int | None, cores: int, nodes: int, alive: str, lost_after_s: float
    ) -> None:
        """Write what the runner reads, and the runner itself."""
        logs = os.path.join(self.folder, "logs")
        os.makedirs(logs, exist_ok=True)
        os.makedirs(os.path.join(self.folder, "cancel"), exist_ok=True)
        here = os.getcwd()
        entries = []
        for index, member in enumerate(self.members):
            program = member.program
            out = program.stdout or (os.path.join(logs, f"{index}.out"), "a")
            err = program.stderr or (os.path.join(logs, f"{index}.err"), "a")
            member.stdout, member.stderr = out[0], err[0]
            entries.append(
                {
                    "argv": list(program.argv),
                    "env": dict(program.env),
                    "cwd": here,
                    "stdout": out,
                    "stderr": err,
                    "walltime_s": member.program.walltime_s or member.task.options.walltime_s,
                }
            )
        content = {
            "members": entries,
            "slots": slots,
            "cores": cores,
            "nodes": nodes,
            "alive": alive,
            "lost_after_s": lost_after_s,
        }
        path = os.path.join(self.folder, "members.json")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file)
        shutil.copyfile(runner.__file__, os.path.join(self.folder, "runner.py"))
        shutil.copyfile(reaper.__file__, os.path.join(self.folder, "reaper.py"))

    def command(self) -> list[str]:
        """Return what the job's script executes."""
        # -I would hide reaper.py beside it.
        return [
            sys.executable,
            "-B",
            "-E",
            "-s",
            "-S",
            os.path.join(self.folder, "runner.py"),
            self.folder,
        ]

    def cancel(self, index: int) -> None:
        """Have the runner end a member, or pass it over."""
        with open(os.path.join(self.folder, "cancel", str(index)), "w"):
            pass

    def news(self) -> tuple[list[Task], list[tuple[Member, dict[str, Any]]]]:
        """Read what the runner has said since the last time.

        Returns
        -------
        tuple
            Tasks that began; members that ended, with what was said of that.
        """
        try:
            with open(os.path.join(self.folder, "progress"), "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return [], []
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        began: list[Task] = []
        ended: list[tuple[Member, dict[str, Any]]] = []
        for line in data[:whole].split(b"\n")[:-1]:
            said = json.loads(line)
            if (member := self.open.get(said.get("start", -1))) is not None:
                member.began = _monotonic(said["time"])
                began.append(member.task)
            elif "left" in said:
                self.cut.update(said["left"])
            elif said.get("why") == "cut":
                self.cut.add(said["end"])
            elif (member := self.open.pop(said.get("end", -1), None)) is not None:
                ended.append((member, said))
        return began, ended

    def outcome(self, member: Member, said: dict[str, Any]) -> Outcome:
        """Return how a member's task ended; runs code of users and plug-ins."""
        task, program = member.task, member.program
        what = f"task {task.task_id} ({task.app.name})"
        value: Any = None
        error: BaseException | None = None
        code, why = said["exit_code"], said.get("why", "")
        if why == "walltime":
            limit = program.walltime_s or task.options.walltime_s or 0.0
            error = WalltimeExceededError(
                f"{what} ran longer than its walltime of {limit:g} s and was killed: "
                f"{program.shown[:300]}",
                walltime_s=limit,
                task_id=task.task_id,
            )
        elif why == "lost":
            error = WorkerLostError(
                f"{what}: its job was started a second time by the scheduler; whether the task "
                "had ended is not known, so it was not run again",
                task_id=task.task_id,
            )
        elif why == "cancelled":
            error = self._failure(member)
        else:
            tail = file_tail(member.stderr)
            if why == "not started":
                tail = said.get("text", tail)
            try:
                value = program.finish(code, tail)
            except BaseException as raised:  # staging and values are user code
                error = raised
        began = member.began or 0.0
        return Outcome(task, value, error, began, _monotonic(said["time"]))

    def clean(self, member: Member) -> None:
        """Remove what only an open member needs."""
        for folder in member.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def failures(self) -> list[Outcome]:
        """Return the ends of the members of which the runner said nothing."""
        left, self.open = self.open, {}
        for member in left.values():
            self.clean(member)
        return [
            Outcome(m.task, error=self._failure(m), started=m.began or 0.0) for m in left.values()
        ]

    def _failure(self, member: Member) -> TaskError:
        task, status = member.task, self.status
        state = JobState.UNKNOWN if status is None else status.state
        reason = "" if status is None else status.reason
        tail = file_tail(os.path.join(self.folder, f"{self.name}.err"))
        when = "while it ran" if member.began is not None else "before it began"
        why = reason or (str(state) if status is not None else "")
        text = f"task {task.task_id} ({task.app.name}): job {self.job_id} ended {when}"
        text += f" ({why})" if why else ""
        text += f"; its files are in {self.folder}"
        if tail:
            text += f"\nlast lines of the job's stderr:\n{tail}"
        return JobError(
            text, job_id=self.job_id, state=state.name, reason=reason, stderr_tail=tail,
            task_id=task.task_id,
        )  # fmt: skip


def file_tail(path: str) -> str:
    """Return the last lines of a file; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return last_lines(file.read())
    except OSError:
        return ""


def _monotonic(wall_s: float) -> float:
    """Return a wall-clock time of another machine on our monotonic clock, about."""
    return min(time.monotonic(), time.monotonic() - (time.time() - wall_s))
