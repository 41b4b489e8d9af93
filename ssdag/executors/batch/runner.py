# SPDX-License-Identifier: BSD-3-Clause
"""Runs the members of a job: ``python runner.py FOLDER``, inside a scheduler's job.

A copy of this file (and of :mod:`ssdag.wire.reaper`, as ``reaper.py``) lies in the job's
folder, so it imports nothing but the standard library and that. So many members run at a
time as there are slots. What happens is appended to ``progress``, a line each; nobody
else writes there. A job that a scheduler starts a second time goes on where the first
one was: what had begun then is not begun again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

    from ssdag.wire import reaper
else:
    try:
        import reaper  # beside us, in the job's folder
    except ImportError:
        from ssdag.wire import reaper

_TICK_S = 0.5
_GRACE_S = 1.5
_FLAGS = {"a": os.O_APPEND, "w": os.O_TRUNC, "x": os.O_EXCL}
#: What a shell says of a program that is not there, or cannot be executed.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def cores_here() -> int:
    """Return the cores of this node that the job may use: the scheduler's word, or ours."""
    for name in ("SLURM_CPUS_ON_NODE", "NCPUS", "NSLOTS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return len(os.sched_getaffinity(0))


class Member:
    """A member that runs."""

    def __init__(self, index: int, process: subprocess.Popen[bytes], limit_s: float | None) -> None:
        self.index = index
        self.process = process
        self.deadline = None if limit_s is None else time.monotonic() + limit_s
        self.kill_at: float | None = None
        #: Why it is being ended: "walltime", "cancelled" or "cut".
        self.why = ""


class Runner:
    """Runs the members of one job folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        with open(os.path.join(folder, "members.json"), encoding="utf-8") as file:
            job = json.load(file)
        self._members: list[dict[str, Any]] = job["members"]
        self._slots = job["slots"] or max(1, job["nodes"] * cores_here() // job["cores"])
        self._alive_path: str = job["alive"]
        self._lost_after_s: float = job["lost_after_s"]
        self._running: dict[int, Member] = {}
        self._begun: set[int] = set()
        self._signalled = 0
        self._last_alive = (0.0, time.monotonic())
        self._over = False
        self._wake, self._wake_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._progress = os.open(
            os.path.join(folder, "progress"),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        try:
            fcntl.flock(self._progress, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("ssdag: another job runs these members; this one was submitted twice")
        except OSError:  # a file system without locks
            pass
        before = self._read_progress()
        for index in before["start"] - before["end"]:
            self._say(end=index, exit_code=None, why="lost")
        self._begun |= before["start"] | before["end"]
        self._todo = [i for i in range(len(self._members)) if i not in self._begun]

    def _read_progress(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {"start": set(), "end": set()}
        try:
            with open(os.path.join(self._folder, "progress"), encoding="utf-8") as file:
                lines = file.read().split("\n")
        except FileNotFoundError:
            return found
        for line in lines:
            try:
                said = json.loads(line)
            except ValueError:  # the last one may be cut
                continue
            for kind in ("start", "end"):
                if kind in said:
                    found[kind].add(said[kind])
        return found

    def _say(self, **words: Any) -> None:
        line = json.dumps({**words, "time": time.time()}) + "\n"
        os.write(self._progress, line.encode())

    def run(self) -> int:
        """Run all members; return the exit code of the job."""
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, self._on_signal)
        failed = False
        next_tick = 0.0
        while self._todo or self._running:
            while self._todo and len(self._running) < self._slots and not self._over:
                self._start(self._todo.pop(0))
            if self._over and not self._running:
                break
            select.select([self._wake], [], [], self._pause())
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake, 4096)
            if self._signalled and not self._over:
                self._end_all("cut")
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                self._look_around()
            failed = self._collect() or failed
        return 128 + self._signalled if self._signalled else int(failed)

    def _on_signal(self, signum: int, _: object) -> None:
        self._signalled = signum

    def _pause(self) -> float:
        dues = [m.kill_at or m.deadline for m in self._running.values()]
        left = [due - time.monotonic() for due in dues if due is not None]
        return max(0.0, min([_TICK_S, *left]))

    def _start(self, index: int) -> None:
        member = self._members[index]
        self._begun.add(index)
        if os.path.exists(os.path.join(self._folder, "cancel", str(index))):
            self._say(end=index, exit_code=None, why="cancelled")
            return
        self._say(start=index)
        files: list[int] = []
        try:
            for path, mode in (member["stdout"], member["stderr"]):
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | _FLAGS[mode]
                files.append(os.open(path, flags, 0o666))
            process = subprocess.Popen(
                member["argv"],
                env={**os.environ, **member["env"]},
                cwd=member["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=files[0],
                stderr=files[1],
                process_group=0,  # in the job's session, which its scheduler ends
            )
        except OSError as error:
            code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            text = f"{error.strerror}: {error.filename}"
            self._say(end=index, exit_code=code, why="not started", text=text)
        else:
            self._running[process.pid] = Member(index, process, member["walltime_s"])
        finally:
            for fd in files:
                os.close(fd)

    def _collect(self) -> bool:
        """Take the ends of members; True if one of them failed."""
        failed = False
        now = time.monotonic()
        for pid, member in list(self._running.items()):
            code = member.process.poll()
            if code is None:
                if member.kill_at is not None and now >= member.kill_at:
                    reaper.end([reaper.Group(pid, tree=True)], signal.SIGKILL, 5.0)
                elif member.deadline is not None and now >= member.deadline and not member.why:
                    self._end(member, "walltime")
                continue
            del self._running[pid]
            left = reaper.Group(pid, tree=False)
            if left.find():  # it left something behind, which would hold its slot
                reaper.end([left], signal.SIGKILL, 5.0)
            self._say(end=member.index, exit_code=code, why=member.why)
            failed = failed or code != 0
        return failed

    def _end(self, member: Member, why: str) -> None:
        member.why = member.why or why
        member.kill_at = time.monotonic() + _GRACE_S
        targets = reaper.Targets()
        targets.signal(reaper.Group(member.process.pid, tree=True), signal.SIGTERM)
        targets.close()

    def _end_all(self, why: str) -> None:
        self._over = True
        # Not their end, which may still come; nobody shall wait for it when we are killed.
        self._say(left=[*(member.index for member in self._running.values()), *self._todo])
        for member in self._running.values():
            self._end(member, why)

    def _look_around(self) -> None:
        """See what was cancelled, and whether the driver lives."""
        try:
            cancelled = {int(name) for name in os.listdir(os.path.join(self._folder, "cancel"))}
        except (OSError, ValueError):
            cancelled = set()
        for member in list(self._running.values()):
            if member.index in cancelled and not member.why:
                self._end(member, "cancelled")
        if not self._lost_after_s:
            return
        try:
            stamp = os.stat(self._alive_path).st_mtime
        except OSError:
            stamp = -1.0
        if stamp != self._last_alive[0]:
            self._last_alive = stamp, time.monotonic()
        elif time.monotonic() - self._last_alive[1] > self._lost_after_s and not self._over:
            sys.stderr.write("ssdag: the driver has gone; the job ends\n")
            self._end_all("cut")


if __name__ == "__main__":
    sys.exit(Runner(sys.argv[1]).run())
