# SPDX-License-Identifier: BSD-3-Clause
"""A runner that gives recorded answers, for providers without their scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.providers.commands import Answer, Runner

if TYPE_CHECKING:
    from collections.abc import Sequence


class Answering(Runner):
    """Answers each program with what a test has put down for it.

    Programs without an answer do not exist.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, ...]] = []
        self.files: dict[str, str] = {}

    def put(
        self, program: str, stdout: str = "", exit_code: int | None = 0, stderr: str = ""
    ) -> None:
        """Put down the answer of a program."""
        self.answers[program] = Answer((program,), exit_code, stdout, stderr)

    def run(self, argv: Sequence[str], timeout_s: float, stdin: str | None = None) -> Answer:
        """See :meth:`Runner.run`."""
        self.asked.append(tuple(argv))
        missing = Answer(tuple(argv), None, "", f"{argv[0]}: No such file or directory")
        return self.answers.get(" ".join(argv[:2])) or self.answers.get(argv[0], missing)

    def write(self, path: str, text: str, timeout_s: float) -> None:
        """See :meth:`Runner.write`."""
        self.files[path] = text

    def read(self, path: str, timeout_s: float) -> str | None:
        """See :meth:`Runner.read`."""
        return self.files.get(path)
