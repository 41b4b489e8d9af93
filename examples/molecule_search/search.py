# SPDX-License-Identifier: BSD-3-Clause
"""The loop: choose molecules, compute them, learn, choose again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import ssdag
from ssdag.errors import WalltimeExceededError, WorkerLostError
from ssdag.states import TaskState

from . import surrogate, tasks
from .chemistry import ChemistryError
from .molecules import heavy_atoms
from .outcome import Evaluation, Failure, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .plan import Plan
    from .progress import View

#: Index of what is not in the search space: the bad molecules put in on purpose.
NOWHERE = -1


#: Failures without a success between them that are no accident any more.
HOPELESS = 40
#: What a molecule can do to its task; any other error ends the search.
MOLECULE_ERRORS = (ChemistryError, WalltimeExceededError, WorkerLostError)


class SearchError(Exception):
    """The search cannot go on."""


@dataclass(frozen=True)
class Candidate:
    """A molecule that may be computed next."""

    index: int
    smiles: str


class Search:
    """One search over one orchestrator.

    Parameters
    ----------
    plan : Plan
        How to search.
    db : ssdag.Orchestrator
        Where simulations publish and training reads.
    outcome : Outcome
        Holds the search space; what is found is added as it comes.
    view : View
        Shows progress.
    """

    def __init__(self, plan: Plan, db: ssdag.Orchestrator, outcome: Outcome, view: View) -> None:
        self.plan = plan
        self.db = db
        self.outcome = outcome
        self.view = view
        self._client = db.client()  # this process's own connection
        self._bits = db.tensor(tasks.FINGERPRINTS)
        self._published: list[Any] = []  # futures of the evaluations' tensors
        self._tried: set[int] = set()
        self._failed_in_a_row = 0

    def run(self) -> None:
        """Search until the budget is spent.

        Raises
        ------
        SearchError
            The molecules ran out, or too many failed in a row.
        ssdag.errors.SsdagError
            Something failed that is no molecule's fault.
        """
        molecules = self.outcome.molecules
        described = tasks.publish_fingerprints(molecules, self.db)
        order = np.random.default_rng(self.plan.seed).permutation(len(molecules))
        self.view.begin("search", self.plan.evaluations)
        for batch, size in enumerate(self.plan.batches()):
            ranking = self._evaluate(batch, size, self._candidates(batch, order))
            described.result()  # if it failed, its tensor never comes: say so, don't wait
            if ranking is not None:
                order = ranking.result()

    def sweep(self) -> None:
        """Compute the molecules that the search left out: the truth to compare with.

        A plain sweep of independent tasks; large molecules go first, so that no worker
        is left with a long one at the end.
        """
        known = {one.index for one in self.outcome.evaluations}
        rest = [one for one in enumerate(self.outcome.molecules) if one[0] not in known]
        rest.sort(key=lambda one: -heavy_atoms(one[1]))
        first = len(self._published)
        pending = {
            tasks.simulate(smiles, index, first + place, self.db): Candidate(index, smiles)
            for place, (index, smiles) in enumerate(rest)
        }
        self.view.begin("sweep", len(pending))
        for future in ssdag.as_completed(pending):
            molecule = pending[future]
            error = future.exception()
            if error is None:
                self.outcome.left_out[molecule.index] = future.result()
                self._failed_in_a_row = 0
                self.outcome.reused += future.state is TaskState.MEMO_DONE
            else:
                self._give_up(molecule, error)
            self.view.advance(self.outcome.best)
        self.outcome.swept = True

    def _candidates(self, batch: int, order: Iterable[int]) -> Iterator[Candidate]:
        """Yield what to try, best first; one bad molecule heads each of the first batches."""
        for smiles in self.plan.bad[batch : batch + 1]:
            yield Candidate(NOWHERE, smiles)
        for index in order:
            if index not in self._tried:
                self._tried.add(int(index))
                yield Candidate(int(index), self.outcome.molecules[index])
        raise SearchError(
            f"all {len(self.outcome.molecules)} molecules are used up after "
            f"{len(self.outcome.evaluations)} evaluations: ask for fewer"
        )

    def _evaluate(self, batch: int, size: int, candidates: Iterator[Candidate]) -> Any:
        """Compute `size` molecules; whatever fails is replaced by the next candidate.

        The whole batch is in the graph before anything is known: the simulations, and
        behind the tensors that they will publish, training, inference and ranking.

        Returns
        -------
        future or None
            The ranking that picks the next batch; None after the last.
        """
        numbers = range(len(self._published), len(self._published) + size)
        pending = dict(self._submit(next(candidates), number) for number in numbers)
        self._published += [self.db.tensor(tasks.evaluation_name(n)) for n in numbers]
        ranking = self._learn() if numbers.stop < self.plan.evaluations else None
        while pending:
            replaced: dict[Any, tuple[Candidate, int]] = {}
            for future in ssdag.as_completed(pending):
                molecule, number = pending[future]
                error = future.exception()
                if error is None:
                    self._keep(future, molecule, number, batch)
                else:
                    # The tensor of this number is still to come: training waits for it,
                    # and so for the replacement, without being told.
                    self._give_up(molecule, error)
                    replaced.update([self._submit(next(candidates), number)])
            pending = replaced
        return ranking

    def _submit(self, molecule: Candidate, number: int) -> tuple[Any, tuple[Candidate, int]]:
        future = tasks.simulate(molecule.smiles, molecule.index, number, self.db)
        return future, (molecule, number)

    def _keep(self, future: Any, molecule: Candidate, number: int, batch: int) -> None:
        """Note a result; publish it if the body did not run because it was remembered."""
        energy_ev = future.result()
        if future.state is TaskState.MEMO_DONE:
            tasks.publish(self._client, number, molecule.index, energy_ev)
            self.outcome.reused += 1
        done = Evaluation(number, batch, molecule.index, molecule.smiles, energy_ev)
        self.outcome.evaluations.append(done)
        self._failed_in_a_row = 0
        self.view.advance(self.outcome.best)

    def _give_up(self, molecule: Candidate, error: BaseException) -> None:
        """Note a molecule that failed; raise if that is no molecule's fault."""
        if not isinstance(error, MOLECULE_ERRORS):
            raise error
        self.outcome.failures.append(Failure(molecule.smiles, error))
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= HOPELESS:
            raise SearchError(f"{HOPELESS} molecules failed in a row, the last with: {error}")

    def _learn(self) -> Any:
        """Return the future of a ranking by a surrogate trained on all evaluations so far."""
        model = tasks.train(self._bits, list(self._published))
        pieces = surrogate.chunks(len(self.outcome.molecules), self.plan.chunks)
        return tasks.select(
            inputs=[tasks.infer(model, self._bits, start, stop) for start, stop in pieces]
        )
