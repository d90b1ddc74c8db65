"""Errors of forces against sums by hand, their units, and how they combine over frames."""

from __future__ import annotations

import numpy as np
import pytest
from checks.forces import ethanol, record_of

from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.forces import force_scores, in_mev
from geomformer.evaluation.structures import mean_scores
from geomformer.evaluation.vectors import VectorScores, baseline_vectors, selection, vector_scores
from geomformer.records import Record

UNIT = "kcal_mol_angstrom"
UNITS = {"energy": "kcal_mol", "forces": UNIT}
KCAL_IN_MEV = 43.3641153087705


def frame(seed: int) -> Record:
    forces = np.random.default_rng(seed).normal(size=(9, 3)).astype(np.float32)
    return record_of(ethanol(seed), forces=forces)


def test_scores_of_one_frame_by_hand() -> None:
    record = frame(0)
    assert record.forces is not None
    predicted = record.forces.astype(np.float64)
    predicted[2] += [3.0, 0.0, -4.0]
    predicted[5, 1] -= 2.0
    found = force_scores(record, predicted, UNIT)
    assert found == {
        "forces_mae_kcal_mol_angstrom": pytest.approx(9 / 27),
        "forces_rmse_kcal_mol_angstrom": pytest.approx(np.sqrt(29 / 27)),
        "forces_mae_mev_angstrom": pytest.approx(9 / 27 * KCAL_IN_MEV),
        "forces_rmse_mev_angstrom": pytest.approx(np.sqrt(29 / 27) * KCAL_IN_MEV),
    }


def test_frames_combine_to_the_errors_of_all_components() -> None:
    rng = np.random.default_rng(1)
    records = [frame(i) for i in range(5)]
    errors = [rng.normal(scale=i + 1.0, size=(9, 3)) for i in range(5)]
    scores = [force_scores(r, r.forces + e, UNIT) for r, e in zip(records, errors, strict=True) if r.forces is not None]
    found = mean_scores(scores)
    assert found["forces_mae_kcal_mol_angstrom"] == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    rmse = np.sqrt(np.square(errors).mean())
    assert found["forces_rmse_kcal_mol_angstrom"] == pytest.approx(rmse, rel=1e-6)
    assert found["forces_rmse_mev_angstrom"] == pytest.approx(rmse * KCAL_IN_MEV, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("kcal_mol", {"energy_mae_mev": 2 * KCAL_IN_MEV, "energy_rmse_mev": 3 * KCAL_IN_MEV}),
        ("ev_angstrom", {"energy_mae_mev_angstrom": 2000.0, "energy_rmse_mev_angstrom": 3000.0}),
        ("hartree", {"energy_mae_mev": 2 * 27211.386245988, "energy_rmse_mev": 3 * 27211.386245988}),
        ("mev_angstrom", {}),
        ("unknown_angstrom", {}),
    ],
)
def test_errors_in_mev(unit: str, wanted: dict[str, float]) -> None:
    assert in_mev("energy", {"mae": 2.0, "rmse": 3.0}, unit) == pytest.approx(wanted)


def test_no_forces_are_the_baseline() -> None:
    scores = VectorScores("md17", UNITS)
    records = [frame(i) for i in range(3)]
    for record in [*records, record_of(ethanol())]:  # the last one has no label
        scores.add(record, {"forces": np.ones((9, 3))})
    assert len(scores.ids) == len(scores.predicted) == 3
    found = mean_scores(scores.baselines["zero_forces"])
    wanted = np.mean([np.abs(record.forces).mean() for record in records if record.forces is not None])
    assert found["forces_mae_kcal_mol_angstrom"] == pytest.approx(wanted, rel=1e-6)
    assert baseline_vectors("md17", records[0])["zero_forces"]["forces"].shape == (9, 3)


def test_the_best_weights_are_those_of_the_best_forces() -> None:
    key = selection("md17", UNITS)
    assert key == "forces_mae_kcal_mol_angstrom"
    assert key in vector_scores("md17", frame(0), {"forces": np.zeros((9, 3))}, UNITS)
    assert selection("gap", {}) is None


def test_what_has_no_score_is_refused() -> None:
    with pytest.raises(DataError, match="has no forces"):
        force_scores(record_of(ethanol()), np.zeros((9, 3)), UNIT)
    with pytest.raises(ArtifactError, match="not finite"):
        force_scores(frame(0), np.full((9, 3), np.nan), UNIT)
    with pytest.raises(ValueError, match="shape"):
        force_scores(frame(0), np.zeros((8, 3)), UNIT)
