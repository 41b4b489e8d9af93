# SPDX-License-Identifier: BSD-3-Clause
"""What all batch schedulers share; a scheduler is what :class:`BatchProvider` leaves open.

To add one, write a subclass with

* tables: ``mark`` of directive lines, ``id_pattern`` of the answer to a submission,
  ``states`` with every word that the scheduler has for a state;
* pure functions: :meth:`~BatchProvider.directives`, :meth:`~BatchProvider.submit_command`,
  :meth:`~BatchProvider.status_command`, :meth:`~BatchProvider.parse`,
  :meth:`~BatchProvider.cancel_command`;
* ``launcher_name`` and :meth:`~BatchProvider.allocation`;
* where needed :meth:`~BatchProvider.resolve`, a second source for jobs that the first does
  not name (accounting), and :meth:`~BatchProvider.member_id`, for arrays.

The life of a job: ``submit`` writes the script (mode 0700) into the job's folder, runs the
submit command and finds the id in its answer. ``poll`` asks for all jobs that are not over
by one status command and hands its answer to ``parse``. Jobs that it does not name go to
``resolve``; what that does not know either is looked for in the file with the exit code
that every script writes; then the job is UNKNOWN and, after ``lost_after_s``, FAILED.
An answer that ``parse`` refuses changes nothing.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from ssdag.errors import ConfigError, ProviderError, UnsupportedError
from ssdag.providers import refusals
from ssdag.providers import script as scripts
from ssdag.providers.base import JobSpec, JobStatus, Provider
from ssdag.providers.commands import Answer, LocalRunner, Runner
from ssdag.providers.options import BlockOptions
from ssdag.providers.records import JobTable, combine, ended
from ssdag.providers.ssh import runner_of
from ssdag.states import JobState

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping, Sequence

    from ssdag.launchers.base import Launcher
    from ssdag.providers.ssh_tunnel import Tunnel

_log = logging.getLogger("ssdag")


# What a parser stumbles over in an answer that is not what it should be.
_GARBLED = (ValueError, LookupError, TypeError, AttributeError)


class QueryError(Exception):
    """What :meth:`BatchProvider.parse` raises for an answer that says nothing about jobs."""


class BatchProvider(Provider):
    """A scheduler that is reached by commands. Threads may share it.

    Parameters
    ----------
    runner : Runner, optional
        Where commands run; by default on this machine.
    ssh : str, optional
        ``HOST``, ``USER@HOST`` or an alias of ``~/.ssh/config``: commands run there instead.
    ssh_folder : str, optional
        Needed with `ssh`: where scripts and outputs of jobs are kept on that side, an
        absolute path that its compute nodes see too.
    ssh_options : sequence of str
        Options of the ``ssh`` command, such as ``["-p", "2222"]``.
    ssh_login : bool
        Commands there get the environment of a login; for hosts where the scheduler is on
        PATH only then.
    launcher : Launcher, optional
        What starts steps in allocations, instead of the scheduler's own.
    timeout_s : float
        Longest time that one command may take. It must exceed the time for which the
        scheduler's commands wait for a server that is down.
    lost_after_s : float
        So long after the scheduler first did not know it any more, a job whose end is
        told nowhere counts as failed.
    **options
        Fields of :class:`~ssdag.providers.options.BlockOptions`.

    Raises
    ------
    ConfigError
        An option is unknown or has a wrong value.
    """

    #: What stands in front of directives, such as "#SBATCH".
    mark: ClassVar[str]
    #: Finds the id in the answer to a submission, as its group "id".
    id_pattern: ClassVar[re.Pattern[str]]
    #: Every word that the scheduler has for a state.
    states: ClassVar[Mapping[str, JobState]]
    #: The scheduler's own names of options, and defaults that differ from the usual ones.
    aliases: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[Mapping[str, object]] = {}
    #: Shell text of the job's id as ``poll`` knows it, and that of an array's task.
    own_id: ClassVar[str]
    own_member_id: ClassVar[str] = ""
    #: Shell text of an array task's index, from 0; empty where there are no arrays.
    own_index: ClassVar[str] = ""
    #: Whether scripts send their output into the job's files themselves.
    redirect: ClassVar[bool] = False
    #: Shell text that scripts run at their end, with their exit code in ``$ssdag_code``.
    at_exit: ClassVar[str] = ""
    #: Whether the scheduler says of a cancelled job that it was cancelled.
    cancel_is_told: ClassVar[bool] = False
    #: Words of a cancel command that fails because the jobs are gone already.
    gone_pattern: ClassVar[re.Pattern[str]]
    #: Words of a submission that fails because the scheduler cannot be reached.
    unreachable_pattern: ClassVar[re.Pattern[str]]
    #: Variables (their beginnings) of an allocation that must not reach our commands.
    foreign_variables: ClassVar[re.Pattern[str] | None] = None
    #: The class in ``ssdag.launchers`` that starts steps in this scheduler's allocations.
    launcher_name: ClassVar[str]
    #: Most ids that one status command takes.
    ids_per_query: ClassVar[int] = 2000

    def __init__(
        self,
        *,
        runner: Runner | None = None,
        ssh: str | None = None,
        ssh_folder: str | None = None,
        ssh_options: Sequence[str] = (),
        ssh_login: bool = False,
        launcher: Launcher | None = None,
        timeout_s: float = 60.0,
        lost_after_s: float = 120.0,
        **options: object,
    ) -> None:
        for name, value in (("timeout_s", timeout_s), ("lost_after_s", lost_after_s)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{self.name}: {name}={value!r}: seconds above 0 are needed")
        self.options = BlockOptions.of(self.name, {**self.defaults, **options}, self.aliases)
        remote = runner_of(self.name, ssh, ssh_options, ssh_folder, ssh_login)
        if remote is not None and runner is not None:
            raise ConfigError(f"{self.name}: runner= and ssh= exclude each other")
        self.runner = runner or remote or LocalRunner(self.foreign_variables)
        self.timeout_s = float(timeout_s)
        self._launcher = launcher
        self._jobs = JobTable(float(lost_after_s), self.cancel_is_told)
        self._arrays: dict[str, tuple[str, ...]] = {}
        self._query_lock = threading.Lock()
        self._warned: set[str] = set()
        self._brought: set[str] = set()
        #: Folders in which jobs have files.
        self._used: set[str] = set()
        #: Why the last query failed; empty if it did not.
        self.trouble = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options})"

    # -- what a scheduler fills in ---------------------------------------------------

    @abstractmethod
    def directives(self, job: JobSpec) -> list[str]:
        """Return the texts of all directives, without the mark; the user's own come after."""

    @abstractmethod
    def status_command(self, job_ids: Sequence[str]) -> list[str]:
        """Return the one command that asks for all these jobs (and array tasks)."""

    @abstractmethod
    def parse(self, answer: Answer, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Return what an answer to the status command says; pure but for warnings.

        Jobs that nobody asked for may be in it. Use :meth:`state_of` for the words and
        :func:`ssdag.providers.records.ended` for jobs that are over.

        Raises
        ------
        QueryError
            It says nothing that can be trusted: the command failed, or was cut short.
            What parsers raise over a text that is not as it should be (ValueError,
            KeyError and their kin) counts as this.
        """

    def follow_up(self, found: dict[str, JobStatus]) -> dict[str, JobStatus]:
        """Ask more about some of the jobs that we asked for; returns what is better known now.

        It may run commands of its own through ``self.runner``.
        """
        return {}

    @abstractmethod
    def cancel_command(self, job_ids: Sequence[str]) -> list[str]:
        """Return the command that ends these jobs."""

    def resolve(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """Ask a second source for jobs that the status command no longer names.

        It may run commands of its own through ``self.runner``. It returns what it knows.

        Raises
        ------
        QueryError
            The source did not answer; the jobs then stay as they are.
        """
        return {}

    def first_lines(self, job: JobSpec) -> list[str]:
        """Return shell lines that run before everything of the job's own."""
        return []

    def member_id(self, job_id: str, index: int) -> str:
        """Return the id of an array's task, `index` from 0, as the status command has it."""
        raise UnsupportedError(f"{self.name}: no job arrays")

    # -- jobs ------------------------------------------------------------------------

    def script(self, job: JobSpec) -> str:
        """See :meth:`Provider.script`."""
        texts = [*self.directives(job), *(self._bare(text) for text in job.directives)]
        return scripts.build(
            job,
            [f"{self.mark} {scripts.one_line('a directive', text)}" for text in texts],
            own_id=self.own_id if job.array is None else self.own_member_id,
            index=self.own_index,
            redirect=self.redirect,
            first=self.first_lines(job),
            at_exit=self.at_exit,
        )

    def _bare(self, text: str) -> str:
        text = text.strip()
        return text[len(self.mark) :].lstrip() if text.startswith(self.mark) else text

    def script_path(self, job: JobSpec) -> str:
        """Return where the script of a job is written."""
        return f"{scripts.base_path(job)}.sh"

    def job(self, name: str, commands: Iterable[str], folder: str | os.PathLike[str]) -> JobSpec:
        """See :meth:`Provider.job`; its folder is where the commands of the scheduler run."""
        return super().job(name, commands, self.runner.folder_of(folder))

    def submit(self, job: JobSpec) -> str:
        """See :meth:`Provider.submit`."""
        path = self.script_path(job)
        self.runner.write(path, self.script(job), self.timeout_s)
        self._used.add(job.folder)
        for source in job.files:
            self._brought.add(os.path.join(job.folder, os.path.basename(source)))
            self.runner.place(source, job.folder, self.timeout_s)
        answer = self.runner.once(self.submit_command(job, path), self.timeout_s, path)
        match = self.id_pattern.search(answer.stdout) if answer.exit_code == 0 else None
        if match is None:
            raise refusals.of_submit(self.name, job.name, answer, self.unreachable_pattern)
        job_id = match["id"]
        self._jobs.add(job_id, job)
        if job.array is not None:
            members = tuple(self.member_id(job_id, index) for index in range(job.array))
            for member in members:
                self._jobs.add(member, job)
            self._arrays[job_id] = members
        return job_id

    def members(self, job_id: str) -> tuple[str, ...]:
        """Return the ids of an array's tasks, which ``poll`` and ``cancel`` take too.

        Empty for a job that is no array, or that was not submitted by this object.
        """
        return self._arrays.get(job_id, ())

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobStatus]:
        """See :meth:`Provider.poll`."""
        single = [one for job_id in job_ids for one in self._arrays.get(job_id, (job_id,))]
        with self._query_lock:  # who waits here need not ask for what the other has learnt
            asked = [one for one in dict.fromkeys(single) if not self._is_over(one)]
            for start in range(0, len(asked), self.ids_per_query):
                self._query(asked[start : start + self.ids_per_query])
        return {job_id: self._known(job_id) for job_id in job_ids}

    def _is_over(self, job_id: str) -> bool:
        return self._jobs.status(job_id).state.final

    def _known(self, job_id: str) -> JobStatus:
        members = self._arrays.get(job_id)
        if members is None:
            return self._jobs.status(job_id)
        return combine([self._jobs.status(member) for member in members])

    def _query(self, asked: list[str]) -> None:
        answer = self.runner.run(self.status_command(asked), self.timeout_s)
        try:
            if answer.exit_code is None:
                raise QueryError(answer.summary)
            found = self.parse(answer, asked)
            ours = {job_id: found[job_id] for job_id in asked if job_id in found}
            for job_id, status in {**ours, **self.follow_up(ours)}.items():
                self._jobs.learn(job_id, status)
            if missing := [job_id for job_id in asked if job_id not in found]:
                self._ask_further(missing)
        except (QueryError, ProviderError, *_GARBLED) as error:
            garbled = isinstance(error, _GARBLED)
            text = f"{error!r}: {answer.summary}" if garbled else str(error)
            if not self.trouble:
                _log.warning("%s does not say how jobs are, asking on: %s", self.name, text)
            self.trouble = text
            return
        if self.trouble:
            _log.warning("%s answers again", self.name)
            self.trouble = ""

    def _ask_further(self, missing: list[str]) -> None:
        found = self.resolve(missing)
        for job_id in missing:
            status = found.get(job_id) or self.from_file(job_id)
            if status is None:
                self._jobs.miss(job_id)
            else:
                self._jobs.learn(job_id, status)

    def from_file(self, job_id: str) -> JobStatus | None:
        """Return the end that a job's own script has written down; None if there is none."""
        job = self._jobs.spec(job_id)
        if job is None:
            return None
        text = self.runner.read(scripts.exit_path(job, job_id), self.timeout_s)
        return ended(int(text)) if text is not None and text.strip().isdigit() else None

    def state_of(self, word: str) -> JobState:
        """Return what a word of the scheduler means; UNKNOWN, with one warning, if nobody knows."""
        state = self.states.get(word)
        if state is None:
            if word not in self._warned:
                self._warned.add(word)
                _log.warning("%s: %r is a state that no table has", self.name, word)
            return JobState.UNKNOWN
        return state

    def cancel(self, job_ids: Sequence[str]) -> None:
        """See :meth:`Provider.cancel`."""
        open_ids = [job_id for job_id in job_ids if not self._known(job_id).state.final]
        if not open_ids:
            return
        answer = self.runner.run(self.cancel_command(open_ids), self.timeout_s)
        if error := refusals.of_cancel(self.name, open_ids, answer, self.gone_pattern):
            raise error
        self._jobs.mark_cancelled(
            one for job_id in open_ids for one in self._arrays.get(job_id, (job_id,))
        )

    def last_words(self, job: JobSpec, size: int = 2000) -> str:
        """See :meth:`Provider.last_words`."""
        return self.runner.tail(scripts.output_paths(job)[1], size, self.timeout_s)

    def tidy(self, folder: str | os.PathLike[str], *, everything: bool) -> None:
        """See :meth:`Provider.tidy`."""
        if (there := self.runner.folder_of(folder)) != os.path.abspath(folder):
            brought = [path for path in self._brought if os.path.dirname(path) == there]
            what = [there] if everything else brought
            if what and there in self._used:  # else a host that is away would be asked in vain
                self.runner.run(["rm", "-rf", "--", *what], self.timeout_s)
            self._brought.difference_update(brought)

    def close(self) -> None:
        """See :meth:`Provider.close`."""
        self.runner.close()

    def tunnel(self, python: str) -> Tunnel | None:
        """See :meth:`Provider.tunnel`."""
        return self.runner.tunnel(python)

    def launcher(self) -> Launcher:
        """See :meth:`Provider.launcher`."""
        if self._launcher is None:
            self._launcher = getattr(import_module("ssdag.launchers"), self.launcher_name)()
        return self._launcher

    def forget(self, job_ids: Iterable[str]) -> None:
        """Remember jobs that are over no longer; for drivers that run for very long."""
        for job_id in job_ids:
            self._jobs.forget(self._arrays.pop(job_id, ()))
            self._jobs.forget((job_id,))
