# SPDX-License-Identifier: BSD-3-Clause
"""What a scheduler's refusal means: may one try again, or was there nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdag.errors import ProviderError, SubmitError

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from ssdag.providers.commands import Answer


def of_submit(
    scheduler: str, job: str, answer: Answer, unreachable: re.Pattern[str]
) -> SubmitError:
    """Return the error of a submission whose answer holds no job id.

    Parameters
    ----------
    scheduler, job : str
        Their names.
    answer : Answer
    unreachable : pattern
        Words that say for certain that the scheduler never had the job.
    """
    if answer.exit_code is None:
        advice = "; whether the job was taken is not known"
    elif answer.exit_code == 0:
        advice = f"; no job id was found in its answer {answer.stdout[-500:]!r}"
    else:
        advice = ""
    error = SubmitError(
        f"{scheduler} did not take job {job!r}: {answer.summary}{advice}",
        command=answer.argv,
        exit_code=answer.exit_code,
        stderr_tail=answer.words,
    )
    # Only where it is certain that no job exists, trying again cannot make two.
    error.transient = answer.exit_code not in (None, 0) and bool(
        unreachable.search(answer.stdout + answer.stderr)
    )
    return error


def of_cancel(
    scheduler: str, job_ids: Sequence[str], answer: Answer, gone: re.Pattern[str]
) -> ProviderError | None:
    """Return the error of a cancellation; None if the jobs were only gone before.

    Parameters
    ----------
    scheduler : str
        Its name.
    job_ids : sequence of str
    answer : Answer
    gone : pattern
        Words of a line that speaks of a job which has ended, or which it has taken.
    """
    if answer.exit_code == 0:
        return None
    lines = [line for line in (answer.stderr or answer.stdout).splitlines() if line.strip()]
    if answer.exit_code is not None and lines and all(gone.search(line) for line in lines):
        return None
    return ProviderError(
        f"{scheduler} did not cancel {', '.join(job_ids)}: {answer.summary}",
        command=answer.argv,
        exit_code=answer.exit_code,
        stderr_tail=answer.words,
    )
