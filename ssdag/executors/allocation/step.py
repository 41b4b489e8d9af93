# SPDX-License-Identifier: BSD-3-Clause
"""A step: one launch in the allocation, from its start until none of its processes is left."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ssdag.errors import CommandError, WalltimeExceededError
from ssdag.executors.program import EXIT_CODES, Call
from ssdag.wire import guard, reaper
from ssdag.wire.process import Process, spawn
from ssdag.wire.pump import StderrPump
from ssdag.wire.streams import OutputFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssdag.executors.allocation.launching import Launch
    from ssdag.executors.allocation.request import Request
    from ssdag.executors.allocation.slots import Placement
    from ssdag.executors.program import Program
    from ssdag.tasks import Task


class Step:
    """A running step.

    Parameters
    ----------
    task : Task
        Whose it is.
    request : Request
        What it asked for.
    placement : Placement
        The slots that it has.
    """

    def __init__(self, task: Task, request: Request, placement: Placement) -> None:
        self.task = task
        self.request = request
        self.placement = placement
        self.program: Program | None = None
        self.process: Process | None = None
        self.pump: StderrPump | None = None
        #: Monotonic times: when it began, is to be ended, and is to be killed if it is not.
        self.started = 0.0
        self.deadline: float | None = None
        self.kill_at: float | None = None
        self.timed_out = False
        #: Nobody waits for how it ends.
        self.cancelled = False
        #: Private folders of its files.
        self.folders: list[str] = []
        self._out: OutputFile | None = None
        self._err: OutputFile | StderrPump | None = None
        self._files = ExitStack()

    def prepare(
        self,
        make: Callable[[Call], Program],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        make_folder: Callable[[], str],
    ) -> Program:
        """Have the body say what is to be executed; runs user code."""
        task = self.task
        name, ranks = task.app.name, self.request.ranks
        self.program = make(Call(args, kwargs or {}, name, task.task_id, ranks, make_folder))
        return self.program

    def start(self, launch: Launch, grace_s: float) -> None:
        """Start the process.

        Raises
        ------
        CommandError
            It cannot be started.
        OSError
            An output file cannot be opened.
        """
        program = self.program
        assert program is not None
        try:
            self._open(program)
            guard.ensure()
            err = self._err
            assert err is not None
            self.process = self._spawn(launch, self._out.fd if self._out else None, err.fd)
            guard.session(self.process.pid, grace_s)
        except BaseException:
            if self.process is not None:
                self.process.kill_session()
            self._files.close()
            raise
        self.started = time.monotonic()
        limit = self.walltime_s
        if limit is not None:
            self.deadline = self.started + limit
        if self.pump is not None:
            self.pump.started()

    def _spawn(self, launch: Launch, stdout: int | None, stderr: int) -> Process:
        program = self.program
        assert program is not None
        own = launch.argv == list(program.argv)  # no launcher in front
        try:
            try:
                return _spawn_on(launch, launch.argv, stdout, stderr)
            except OSError as error:
                if error.errno != errno.ENOEXEC or not own:
                    raise
                # A script without a first line "#!" is the shell's to run.
                return _spawn_on(launch, ["/bin/sh", *launch.argv], stdout, stderr)
        except OSError as error:
            code = EXIT_CODES.get(error.errno or 0)
            if own and code is not None:
                program.finish(code, "")  # raises
            raise CommandError(
                f"{self.task.app.name}: {launch.argv[0]} cannot be started: {error.strerror}: "
                f"{program.shown[:300]}",
                command=program.shown,
            ) from error

    @property
    def walltime_s(self) -> float | None:
        """Seconds that it may run."""
        if self.program is not None and self.program.walltime_s is not None:
            return self.program.walltime_s
        return self.task.options.walltime_s

    def _open(self, program: Program) -> None:
        if program.stdout is not None:
            self._out = self._files.enter_context(OutputFile(*program.stdout))
        if program.stderr is None:
            self.pump = self._err = StderrPump()
            self._files.callback(self.pump.close)
        elif self._out and os.path.realpath(self._out.path) == os.path.realpath(program.stderr[0]):
            self._err = self._out
        else:
            self._err = self._files.enter_context(OutputFile(*program.stderr))

    def terminate(self) -> None:
        """Send SIGTERM to all its processes here; a launcher passes it on to the others."""
        assert self.process is not None
        targets = reaper.Targets()
        try:
            targets.signal(reaper.Session(self.process.pid), signal.SIGTERM)
        finally:
            targets.close()

    def kill(self) -> None:
        """Kill all its processes here; blocks while they die."""
        assert self.process is not None
        # Not by the process, which would fetch the exit code and close what the hub watches.
        reaper.end([reaper.Session(self.process.pid)], signal.SIGKILL, reaper.KILL_PATIENCE_S)

    def clean(self) -> None:
        """Remove its folders."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def end(self) -> tuple[int, str]:
        """End what is left of it; return exit code and the last lines of stderr.

        Blocks until all its processes here are gone.
        """
        process = self.process
        assert process is not None
        process.kill_session()
        guard.release_session(process.pid)
        code = process.poll()
        if self.pump is not None:
            self.pump.finish()
        tail = self._err.tail() if self._err is not None else ""
        self._files.close()
        return (255 if code is None else code), tail

    def outcome(self, exit_code: int, tail: str) -> tuple[Any, BaseException | None]:
        """Return the value of the task, or its error; runs code of users and plug-ins."""
        program = self.program
        assert program is not None
        if self.timed_out:
            limit = self.walltime_s or 0.0
            return None, WalltimeExceededError(
                f"task {self.task.task_id} ({self.task.app.name}) ran longer than its walltime of "
                f"{limit:g} s and was killed: {program.shown[:300]}",
                walltime_s=limit,
                task_id=self.task.task_id,
            )
        try:
            return program.finish(exit_code, tail), None
        except BaseException as error:  # staging and values are user code
            return None, error


def _spawn_on(launch: Launch, argv: list[str], stdout: int | None, stderr: int) -> Process:
    """Start a process on its cores: it inherits those of the thread that starts it."""
    if not launch.cores:
        return spawn(argv, env=launch.env, stdout=stdout, stderr=stderr)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, launch.cores)
    try:
        return spawn(argv, env=launch.env, stdout=stdout, stderr=stderr)
    finally:
        os.sched_setaffinity(0, before)
