"""The measures of OC20 on cases worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.structures import (
    ADWT,
    ADWT_ALL_ATOMS,
    ADWT_MAE,
    DISTANCE,
    THRESHOLDS,
    energy_scores,
    mean_scores,
    minimum_image,
    structure_scores,
    within_thresholds,
)
from geomformer.records import Record

TRICLINIC = np.array([[4.0, 0.0, 0.0], [1.0, 3.0, 0.0], [0.5, 1.0, 5.0]])
CUBE = 10.0 * np.eye(3)
PERIODIC = np.array([True, True, True])


def system(target: np.ndarray, **changes: Any) -> Record:
    """A system that starts at its own relaxed structure."""
    target = np.asarray(target, np.float32)
    values: dict[str, Any] = {
        "positions": target[None],
        "target_positions": target,
        "cell": CUBE.astype(np.float32),
        "pbc": PERIODIC,
        "fixed": np.zeros(len(target), bool),
    }
    return Record(id="7", conformer_source=np.zeros(1, np.uint8), **{**values, **changes})


def test_there_are_490_thresholds() -> None:
    assert THRESHOLDS.shape == (490,)
    assert THRESHOLDS[[0, 1, -1]] == pytest.approx([0.010, 0.011, 0.499])


@pytest.mark.parametrize(
    ("fractional", "expected"),
    [
        ((0.25, -0.25, 0.1), (0.25, -0.25, 0.1)),
        ((0.75, -0.75, 3.1), (-0.25, 0.25, 0.1)),
        ((1.0, -2.0, 0.0), (0.0, 0.0, 0.0)),
        ((0.5, -0.5, 1.5), (0.5, 0.5, 0.5)),  # the tie stays at one half: only more than that is moved
        ((-1e-20, 0.0, 0.0), (0.0, 0.0, 0.0)),  # whose remainder rounds to one
    ],
)
def test_differences_are_rounded_in_fractions_of_the_cell(fractional: Any, expected: Any) -> None:
    # Powers of two on the diagonal keep the tie exact.
    for cell in (TRICLINIC, np.diag([4.0, 8.0, 2.0])):
        if 0.5 in np.abs(expected) and cell is TRICLINIC:
            continue
        found = minimum_image(np.array([fractional]) @ cell, cell, PERIODIC)
        np.testing.assert_allclose(found, np.array([expected]) @ cell, atol=1e-12)


def test_rounding_is_not_a_search_for_the_shortest_vector() -> None:
    """In this cell (0.45, 0.45) is longer than its image (-0.55, 0.45), and the benchmark keeps it."""
    cell = np.array([[4.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    kept = np.array([[0.45, 0.45, 0.0]]) @ cell
    assert np.linalg.norm(kept) > np.linalg.norm(kept - cell[0])
    np.testing.assert_allclose(minimum_image(kept, cell, PERIODIC), kept, atol=1e-12)


def test_axes_that_do_not_repeat_are_left_alone() -> None:
    difference = np.array([[0.9, 0.9, 0.9]]) @ TRICLINIC
    slab = minimum_image(difference, TRICLINIC, np.array([True, True, False]))
    np.testing.assert_allclose(slab, np.array([[-0.1, -0.1, 0.9]]) @ TRICLINIC, atol=1e-12)
    for cell, pbc in ((None, PERIODIC), (TRICLINIC, None), (TRICLINIC, np.zeros(3, bool))):
        np.testing.assert_array_equal(minimum_image(difference, cell, pbc), difference)
    with pytest.raises(DataError, match="three independent lattice vectors"):
        minimum_image(difference, np.zeros((3, 3)), PERIODIC)


def test_an_atom_moved_by_a_lattice_vector_has_not_moved() -> None:
    target = np.array([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]])
    record = system(target, cell=TRICLINIC.astype(np.float32))
    wrapped = target + np.array([[1, -2, 1], [0, 1, 0]]) @ TRICLINIC
    found = structure_scores(record, wrapped)
    assert found[DISTANCE] == pytest.approx(0.0, abs=1e-6)
    assert found[ADWT] == found[ADWT_ALL_ATOMS] == found[ADWT_MAE] == 100.0


def test_scores_by_hand() -> None:
    """Free atoms are off by (0.3, 0.4, 0), a distance of 0.5, and by nothing; the frozen ones by 0.1 along x."""
    target = np.zeros((4, 3)) + np.arange(4)[:, None]
    record = system(target, fixed=np.array([False, False, True, True]))
    error = np.array([[0.3, 0.4, 0.0], [0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0]])
    found = structure_scores(record, target + error)
    assert found[DISTANCE] == pytest.approx(0.25, abs=1e-7)
    # thresholds above 0.25: 0.251 to 0.499; above (0.5 + 0 + 0.1 + 0.1) / 4 = 0.175: 0.176 to 0.499; above the mean
    # absolute coordinate error of the free atoms, 0.7 / 6 = 0.11666...: 0.117 to 0.499
    assert found[ADWT_MAE] == pytest.approx(100 * 383 / 490)
    assert found[ADWT] == pytest.approx(100 * 249 / 490, abs=100 / 490 + 1e-9)
    assert found[ADWT_ALL_ATOMS] == pytest.approx(100 * 324 / 490, abs=100 / 490 + 1e-9)


def test_thresholds_are_strict() -> None:
    assert within_thresholds(float(THRESHOLDS[0])) == pytest.approx(100 * 489 / 490)
    assert within_thresholds(float(np.nextafter(THRESHOLDS[0], 0))) == 100.0
    assert within_thresholds(float(THRESHOLDS[-1])) == 0.0
    assert within_thresholds(float(np.nextafter(THRESHOLDS[-1], 0))) == pytest.approx(100 / 490)
    assert within_thresholds(0.0) == 100.0 and within_thresholds(2.0) == 0.0


def test_a_split_is_pooled_as_by_the_benchmark() -> None:
    """The mean of the systems' shares is the mean over thresholds of the share of systems."""
    rng = np.random.default_rng(3)
    targets = [rng.uniform(0, 10, (int(n), 3)) for n in rng.integers(2, 9, 20)]
    scores, distances = [], []
    for target in targets:
        record = system(target)
        moved = target + rng.normal(size=target.shape) * rng.uniform(0, 0.4)
        scores.append(structure_scores(record, moved))
        distances.append(scores[-1][DISTANCE])
    shares = [np.mean(np.array(distances) < threshold) for threshold in THRESHOLDS]
    assert 10 < 100 * np.mean(shares) < 90
    assert mean_scores(scores)[ADWT] == pytest.approx(100 * np.mean(shares), rel=1e-12)


def test_a_system_without_free_atoms_is_left_out() -> None:
    target = np.ones((2, 3))
    frozen = structure_scores(system(target, fixed=np.ones(2, bool)), target)
    assert all(math.isnan(value) for value in frozen.values())
    still = structure_scores(system(target), target)
    assert mean_scores([frozen, still, frozen]) == still
    assert mean_scores([frozen]) == {}
    assert structure_scores(system(target, fixed=None), target) == still, "without `fixed` every atom is free"


def test_what_cannot_be_scored() -> None:
    target = np.ones((2, 3))
    with pytest.raises(DataError, match="7 has no relaxed structure"):
        structure_scores(system(target, target_positions=None), target)
    with pytest.raises(ValueError, match=r"\(1, 3\), expected \(2, 3\)"):
        structure_scores(system(target), target[:1])
    with pytest.raises(ArtifactError, match="system 7 are not finite"):
        structure_scores(system(target), np.full((2, 3), np.nan))


def test_energies_within_the_threshold() -> None:
    for error, within in ((0.02, 0.0), (-0.02, 0.0), (np.nextafter(0.02, 0), 100.0), (-0.019, 100.0), (0.0, 100.0)):
        assert energy_scores("energy", error) == {"energy_mae_ev": abs(error), "energy_ewt_percent": within}
    found = mean_scores(energy_scores("energy", error) for error in (0.01, -0.03, math.nan, 0.02))
    assert found == pytest.approx({"energy_mae_ev": 0.02, "energy_ewt_percent": 100 / 3})
