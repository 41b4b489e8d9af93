# SPDX-License-Identifier: BSD-3-Clause
"""Ends processes and removes files after their owner died.

Two readers use this file. :mod:`ssdag.wire.process` imports the functions that find and
signal the processes of a session. :mod:`ssdag.wire.guard` runs it as a script, in a bare
interpreter (``-I -S``): so it imports the standard library only, little of it, and
nothing of ssdag.

Process numbers are recycled, so no number is trusted alone. Every signal goes through a
pidfd whose membership was checked after it was opened. A session number cannot be
recycled while any process of the session lives (the kernel keeps it), and nobody can
join a session from outside. Hence, once the leader has been reaped, the session is
still ours exactly if one member is older than that moment.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Seconds after which a process that ignores SIGKILL (stuck in the kernel) is left alone.
KILL_PATIENCE_S = 5.0


def ticks_now() -> int:
    """Return the time since boot in clock ticks: the unit of start times in /proc."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S)


def stat_fields(pid: int) -> tuple[bool, int, int] | None:
    """Return (is live, parent's pid, start in ticks since boot); None if it is gone.

    See proc(5), ``/proc/pid/stat``; the name in parentheses may hold anything, so the
    fields are counted from the last ``)``. A zombie is not live, unless it is a first
    thread that has ended before the others.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        live = fields[0] not in b"ZX" or int(fields[17]) > 1
        return live, int(fields[1]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def all_pids() -> list[int]:
    """Return the numbers of all processes that can be seen."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_live(pid: int) -> bool:
    """Return True if the process exists and is more than a zombie."""
    fields = stat_fields(pid)
    return fields is not None and fields[0]


def open_pidfd(pid: int) -> int:
    """Return a pidfd, or -1 if the process is gone or the kernel (< 5.3) has none."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


class Session:
    """The processes of one session."""

    def __init__(self, sid: int) -> None:
        self.sid = sid

    def has(self, pid: int) -> bool:
        """Return True if the process is one of them (a zombie is, too)."""
        try:
            return os.getsid(pid) == self.sid
        except OSError:
            return False

    def find(self) -> list[int]:
        """Return those that live."""
        # getsid is one cheap call; /proc/pid/stat is read for the few that match.
        return [pid for pid in all_pids() if self.has(pid) and is_live(pid)]


class Group:
    """The processes of one process group, and all descendants that can be found.

    Parameters
    ----------
    leader : int
        Number of the group and of the process that leads it.
    tree : bool
        Whether to include descendants; only while the leader was not reaped.
    """

    def __init__(self, leader: int, tree: bool) -> None:
        self.leader = leader
        # Descendants with their start times. They stay known when the processes between
        # them and the leader have ended.
        self._known: dict[int, int] = (
            {leader: fields[2]} if (tree and (fields := stat_fields(leader))) else {}
        )

    def has(self, pid: int) -> bool:
        """Return True if the process is one of them."""
        try:
            if os.getpgid(pid) == self.leader:
                return True
        except OSError:
            return False
        fields = stat_fields(pid)
        return fields is not None and self._known.get(pid) == fields[2]

    def find(self) -> list[int]:
        """Return those that live."""
        stats = {pid: fields for pid in all_pids() if (fields := stat_fields(pid))}
        children: dict[int, list[int]] = {}
        for pid, (_, parent, _) in stats.items():
            children.setdefault(parent, []).append(pid)
        self._known = {
            pid: start
            for pid, start in self._known.items()
            if pid in stats and stats[pid][2] == start
        }
        queue = list(self._known)
        for parent in queue:
            for pid in children.get(parent, ()):
                if pid not in self._known:
                    self._known[pid] = stats[pid][2]
                    queue.append(pid)
        return [pid for pid, (live, _, _) in stats.items() if live and self.has(pid)]


def is_older(pids: list[int], ticks: int) -> bool:
    """Return True if one of the processes was started not after `ticks`."""
    stats = [stat_fields(pid) for pid in pids]
    return any(fields is not None and fields[2] <= ticks for fields in stats)


class Targets:
    """The processes to end, each held by a pidfd, so that none is mistaken for another."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._refused: set[int] = set()

    def signal(self, members: Session | Group, signum: int) -> bool:
        """Signal every live process of them; False if there was none."""
        found = False
        for pid in members.find():
            if pid in self._refused:
                continue
            if pid not in self._fds:
                self._fds[pid] = open_pidfd(pid)
            # The order matters: with the pidfd open, a number that still belongs stands
            # for the process that the pidfd holds (or that one is dead).
            if members.has(pid) and self._send(pid, signum):
                found = True
            else:
                self._forget(pid)
        return found

    def _send(self, pid: int, signum: int) -> bool:
        fd = self._fds[pid]
        try:
            if fd >= 0:
                signal.pidfd_send_signal(fd, signum)
            else:
                os.kill(pid, signum)
        except ProcessLookupError:
            return False
        except PermissionError:  # a set-uid program: not ours to end
            self._refused.add(pid)
            return False
        return True

    def _forget(self, pid: int) -> None:
        fd = self._fds.pop(pid)
        if fd >= 0:
            os.close(fd)

    def wait(self, deadline: float) -> None:
        """Wait until all that were signalled have ended, or until the monotonic `deadline`."""
        poller = select.poll()
        by_fd = {fd: pid for pid, fd in self._fds.items() if fd >= 0}
        if not by_fd:
            time.sleep(0.005)  # a kernel without pidfds: look again soon
        for fd in by_fd:
            poller.register(fd, select.POLLIN)
        while by_fd:
            left = max(0.0, deadline - time.monotonic())
            ended = poller.poll(int(left * 1000) + 1)
            for fd, _ in ended:
                poller.unregister(fd)
                self._forget(by_fd.pop(fd))
            if not ended:
                return

    def close(self) -> None:
        """Close all pidfds."""
        for pid in list(self._fds):
            self._forget(pid)


def end(groups: Sequence[Session | Group], signum: int, patience_s: float) -> bool:
    """Signal all the processes until none is left.

    Parameters
    ----------
    groups : sequence of Session or Group
        Known to be ours.
    signum : int
        SIGKILL is sent to whatever was forked meanwhile; other signals are sent once.
    patience_s : float
        Seconds to go on at most.

    Returns
    -------
    bool
        True if no live process is left that may be signalled.
    """
    deadline = time.monotonic() + patience_s
    targets = Targets()
    try:
        while True:
            found = [targets.signal(group, signum) for group in groups]
            if not any(found):
                return True
            if time.monotonic() >= deadline:
                return False
            targets.wait(deadline)
            if signum != signal.SIGKILL:  # a second SIGTERM makes programs less polite
                signum = 0
    finally:
        targets.close()


def remove(path: str) -> None:
    """Remove a file, a link or a folder tree; what cannot be removed is left."""
    try:
        os.unlink(path)
    except IsADirectoryError:
        import shutil  # slow to import and rarely needed

        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return


class Reaper:
    """What the guard process knows: sessions, paths, and whether the driver lives.

    Commands come through a pipe, each ended by a NUL byte: ``S<pid> <ticks> <grace> <alone>``
    and ``s<pid>`` add and release a session, ``P<path>`` and ``p<path>`` a path. A session
    with a grace (in seconds) gets SIGTERM first and so much time to follow it: ``srun``
    must tell other machines, and does not if it is killed. Before that it is left alone
    for some seconds, if it ends by itself when its input does.
    """

    def __init__(self, commands: int, driver: int) -> None:
        self._commands = commands
        self._driver = driver
        self._partial = b""
        self._leaders: dict[int, int] = {}  # session -> pidfd of its leader, or -1
        self._ended: dict[int, int] = {}  # session -> ticks at which the leader had ended
        self._graces: dict[int, float] = {}
        self._alone: dict[int, float] = {}
        self._by_fd: dict[int, int] = {}
        self._paths: dict[bytes, None] = {}
        self._poller = select.poll()
        self._poller.register(commands, select.POLLIN)
        if driver >= 0:
            self._poller.register(driver, select.POLLIN)

    def run(self) -> None:
        """Serve until the driver is gone, then clean up."""
        parent = os.getppid()
        # Without a pidfd the end of the pipe may be held by a forked child of the
        # driver: then the change of our parent tells.
        pause = -1 if self._driver >= 0 else 500
        while True:
            events = self._poller.poll(pause)
            ready = {fd for fd, _ in events}
            if self._commands in ready and not self._read():
                break  # the driver has ended, or has become another program (exec)
            for fd in ready & self._by_fd.keys():
                self._leader_ended(self._by_fd[fd])
            if self._driver in ready or (pause > 0 and os.getppid() != parent):
                while self._more() and self._read():  # what it still wrote
                    pass
                break
        self._clean()

    def _more(self) -> bool:
        return bool(select.select([self._commands], [], [], 0)[0])

    def _read(self) -> bool:
        data = os.read(self._commands, 65536)
        *records, self._partial = (self._partial + data).split(b"\0")
        for record in records:
            kind, body = record[:1], record[1:]
            if kind == b"S":
                pid, ticks, grace, alone = body.split(b" ")
                self._add(int(pid), int(ticks))
                self._graces[int(pid)] = float(grace)
                self._alone[int(pid)] = float(alone)
            elif kind == b"s":
                self._drop(int(body))
            elif kind == b"P":
                self._paths[body] = None
            elif kind == b"p":
                self._paths.pop(body, None)
        return bool(data)

    def _add(self, sid: int, ticks: int) -> None:
        self._drop(sid)
        fd = open_pidfd(sid)
        fields = stat_fields(sid)
        if fd >= 0 and (fields is None or fields[2] > ticks + 1):  # ended, maybe recycled
            os.close(fd)
            fd = -1
        self._leaders[sid] = fd
        if fd >= 0:
            self._by_fd[fd] = sid
            self._poller.register(fd, select.POLLIN)
        else:
            self._ended[sid] = ticks

    def _leader_ended(self, sid: int) -> None:
        self._forget_fd(sid)
        self._leaders[sid] = -1
        self._ended[sid] = ticks_now()

    def _forget_fd(self, sid: int) -> None:
        fd = self._leaders.get(sid, -1)
        if fd >= 0:
            self._poller.unregister(fd)
            del self._by_fd[fd]
            os.close(fd)

    def _drop(self, sid: int) -> None:
        self._forget_fd(sid)
        self._leaders.pop(sid, None)
        self._ended.pop(sid, None)
        self._graces.pop(sid, None)
        self._alone.pop(sid, None)

    def _clean(self) -> None:
        ours = [
            sid
            for sid, fd in self._leaders.items()
            if fd >= 0 or is_older(Session(sid).find(), self._ended[sid])
        ]
        polite = [sid for sid in ours if self._graces[sid] > 0]
        if polite:
            rude = [Session(sid) for sid in ours if sid not in polite]
            end(rude, signal.SIGKILL, KILL_PATIENCE_S)
            alone = [sid for sid in polite if self._alone[sid] > 0]
            if alone:  # signal 0 only looks whether they live
                end([Session(sid) for sid in alone], 0, max(self._alone[sid] for sid in alone))
            end(
                [Session(sid) for sid in polite],
                signal.SIGTERM,
                max(self._graces[sid] for sid in polite),
            )
        end([Session(sid) for sid in ours], signal.SIGKILL, KILL_PATIENCE_S)
        # After the processes: a server could write its files once more.
        for path in self._paths:
            remove(os.fsdecode(path))


def main() -> None:
    """Run as the guard: ``reaper.py COMMANDS_FD DRIVER_PIDFD``."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A scheduler signals every process of a job; we are needed until the driver ended.
        signal.signal(signum, signal.SIG_IGN)
    os.chdir("/")
    Reaper(int(sys.argv[1]), int(sys.argv[2])).run()


if __name__ == "__main__":
    main()
