# SPDX-License-Identifier: BSD-3-Clause
"""The science of the molecule search, without an engine."""

from __future__ import annotations

import csv
import itertools
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest

for _package in ("rdkit", "tblite", "sklearn", "matplotlib"):
    pytest.importorskip(_package, reason=f"the molecule search needs {_package} (ssdag[chem])")

from examples.molecule_search import chemistry, molecules, picture, report, surrogate  # noqa: E402
from examples.molecule_search.outcome import Evaluation, Failure, Outcome  # noqa: E402
from ssdag import Utilization  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

#: Ionization energies in eV, computed once with rdkit 2026.9.1 and tblite 0.8.0.
STORED_EV = {
    "O=CO": 11.833175,
    "C[N+](=O)[O-]": 11.537101,
    "O=C(O)c1ccccc1": 9.341600,
    "CC1=c2ccccc2=CCN1": 6.285909,
}


@pytest.fixture(scope="module")
def search_space() -> list[str]:
    return molecules.load_molecules()


def test_the_search_space_is_the_one_of_the_reference(search_space: list[str]) -> None:
    from rdkit import Chem

    atoms = [Chem.AddHs(Chem.MolFromSmiles(one)).GetNumAtoms() for one in search_space]
    assert (len(search_space), min(atoms), max(atoms)) == (1046, 5, 37)
    assert len(set(search_space)) == 1046
    assert set(STORED_EV) <= set(search_space)


def test_lines_that_are_no_candidates_are_left_out(tmp_path: Path) -> None:
    smi = tmp_path / "some.smi"
    smi.write_text(
        "CCO\t1\nOCC\t2\n\nCCCl\t3\nC.O\t4\n[NH4+]\t5\n[CH3]\t6\nCCCCCCCCCCCCC\t7\nC1CC\t8\nC\n"
    )
    assert molecules.load_molecules(smi) == ["CCO", "C"]


@pytest.mark.parametrize(("smiles", "energy_ev"), STORED_EV.items())
def test_stored_energies_come_out_again(smiles: str, energy_ev: float) -> None:
    assert chemistry.ionization_energy(smiles) == pytest.approx(energy_ev, abs=1e-3)


def test_water_agrees_with_the_published_gfn2_energy() -> None:
    # The GFN2-xTB minimum: O-H 0.9592 Å, H-O-H 107.22°; xtb's own energy is -5.070544 Eh.
    length, half = 0.95921 / chemistry.ANGSTROM_PER_BOHR, np.radians(107.2252 / 2)
    arm = length * np.array([np.sin(half), np.cos(half), 0.0])
    positions = np.array([[0.0, 0.0, 0.0], arm, arm * [-1, 1, 1]])
    geometry = chemistry.Geometry(np.array([8, 1, 1]), positions)
    neutral = chemistry.total_energy(geometry)
    assert neutral == pytest.approx(-5.070544, abs=1e-6)
    cation = chemistry.total_energy(geometry, charge=1, unpaired=1)
    unshifted_ev = (cation - neutral) * chemistry.EV_PER_HARTREE
    assert unshifted_ev == pytest.approx(18.2975, abs=0.01)  # geometry of the reference differs
    recipe_ev = chemistry.ionization_energy("O")
    assert recipe_ev == pytest.approx(18.2975 - chemistry.IE_SHIFT_EV, abs=0.02)


@pytest.mark.parametrize("smiles", [*molecules.BAD_SMILES, "", "   "])
def test_bad_smiles_say_what_is_wrong_and_pickle(smiles: str) -> None:
    with pytest.raises(chemistry.BadSmilesError) as caught:
        chemistry.ionization_energy(smiles)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is chemistry.BadSmilesError
    assert again.smiles == smiles
    assert again.reason
    assert again.reason in str(again)


def test_an_element_without_force_field_is_a_geometry_error() -> None:
    with pytest.raises(chemistry.GeometryError, match="MMFF"):
        chemistry.ionization_energy("[AsH3]")


def test_fingerprints_have_shape_and_type(search_space: list[str]) -> None:
    bits = surrogate.fingerprints(search_space[:50])
    assert bits.shape == (50, 256)
    assert bits.dtype == np.bool_
    assert bits.any(axis=1).all()
    with pytest.raises(ValueError, match="C1CC"):
        surrogate.fingerprints(["C1CC"])


def test_chunked_inference_equals_inference_in_one(search_space: list[str]) -> None:
    bits = surrogate.fingerprints(search_space[:120])
    rng = np.random.default_rng(1)
    model = surrogate.fit(bits[:30], rng.normal(9.0, 1.0, 30))
    whole = surrogate.predict(model, bits)
    pieces = [surrogate.predict(model, bits[a:b]) for a, b in surrogate.chunks(120, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    order = surrogate.rank(pieces)
    assert sorted(order) == list(range(120))
    assert (np.diff(whole[order]) <= 0).all()


def test_the_surrogate_knows_what_it_was_told() -> None:
    bits = surrogate.fingerprints(["CCO", "c1ccccc1"])
    model = surrogate.fit(bits, np.array([10.0, 8.0]))  # fewer than four neighbours
    np.testing.assert_allclose(surrogate.predict(model, bits), [10.0, 8.0])


@pytest.mark.parametrize(("length", "count"), [(1046, 16), (5, 8), (1, 1), (64, 64)])
def test_chunks_cover_everything_once(length: int, count: int) -> None:
    pieces = surrogate.chunks(length, count)
    assert [i for a, b in pieces for i in range(a, b)] == list(range(length))
    assert len(pieces) == min(length, count)


def _outcome() -> Outcome:
    """40 molecules of energies 0 to 39 eV; the search found numbers 39, 3, 2 and 1."""
    names = ["C" * (i + 1) for i in range(40)]
    found = [39, 3, 2, 1]
    outcome = Outcome(names)
    outcome.evaluations = [
        Evaluation(number, number // 2, i, names[i], float(i)) for number, i in enumerate(found)
    ]
    return outcome


def test_score_against_numbers_worked_out_by_hand() -> None:
    outcome = _outcome()
    assert outcome.score() is None  # the truth is not known yet
    outcome.left_out = {i: float(i) for i in range(40) if i not in (39, 3, 2, 1)}
    outcome.swept = True
    score = outcome.score()
    assert score is not None
    assert (score.top, score.threshold_ev) == (frozenset({39, 38}), 38.0)
    assert (score.recall, score.random_recall, score.gain) == (0.5, 0.1, 5.0)
    assert Outcome([], swept=True).score() is None


def test_expected_best_equals_the_mean_over_all_picks() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0, 5.0]
    expected = [
        float(np.mean([max(pick) for pick in itertools.combinations(values, size)]))
        for size in range(1, 7)
    ]
    assert picture.expected_best(values, 6) == pytest.approx(expected)


@pytest.mark.parametrize("swept", [False, True])
def test_pictures_are_drawn_with_and_without_the_truth(tmp_path: Path, swept: bool) -> None:
    outcome = _outcome()
    outcome.swept = swept
    paths = [tmp_path / "a.png", tmp_path / "a.svg"]
    picture.draw(outcome, paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in paths[1].read_text()
    picture.draw(Outcome([]), [tmp_path / "none.png"])  # Ctrl-C before the first result
    assert not (tmp_path / "none.png").exists()


def test_report_and_table(tmp_path: Path) -> None:
    outcome = _outcome()
    outcome.failures = [Failure("C1CC", chemistry.BadSmilesError("C1CC", "not a SMILES string"))]
    outcome.left_out = {0: 0.5}
    outcome.swept = True
    text = report.lines(outcome, Utilization(), 2)
    assert "recall of the top 5 %: 1.00" in text
    assert "  'C1CC': not a SMILES string" in text
    report.write_table(outcome, tmp_path / "energies.csv")
    rows = list(csv.reader((tmp_path / "energies.csv").read_text().splitlines()))
    assert rows[1] == ["39.000000", "1", "C" * 40]
    assert rows[-1] == ["0.500000", "", "C"]
