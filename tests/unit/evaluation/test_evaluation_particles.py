"""Scores of predicted particles, and what needs no model."""

from __future__ import annotations

import numpy as np
import pytest

from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.particles import MSE, particle_scores, unaided
from geomformer.evaluation.vectors import VectorScores, baseline_vectors, selection, vector_scores
from geomformer.records import Record

X = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], np.float32)
V = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -3.0]], np.float32)
UNITS = {"positions": "none"}


def record(target: bool = True, velocities: bool = True) -> Record:
    moved = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]], np.float32)
    return Record(
        id="valid-7",
        positions=X[None],
        conformer_source=np.zeros(1, np.uint8),
        target_positions=X + moved if target else None,
        velocities=V if velocities else None,
        particle_charges=np.array([1, -1], np.int8),
    )


def test_the_error_is_the_mean_over_particles_and_coordinates() -> None:
    prediction = X + np.array([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0]])
    assert particle_scores(record(), prediction) == {MSE: pytest.approx((4.0 + 9.0) / 6.0)}


def test_what_needs_no_model_by_hand() -> None:
    found = {name: particle_scores(record(), positions)[MSE] for name, positions in unaided(record()).items()}
    assert found == {"no_move": pytest.approx(2.0 / 6.0), "linear": pytest.approx(4.0 / 6.0)}


def test_training_and_evaluation_find_these_scores_by_task() -> None:
    scores = VectorScores("nbody", UNITS)
    scores.add(record(), {"positions": X})
    scores.add(record(target=False), {"positions": X})
    assert scores.predicted == [{MSE: pytest.approx(1 / 3)}], "systems without a target are left out"
    assert {name: len(found) for name, found in scores.baselines.items()} == {"no_move": 1, "linear": 1}
    assert vector_scores("nbody", record(target=False), {"positions": X}, UNITS) == {}
    assert set(baseline_vectors("nbody", record())) == {"no_move", "linear"}
    assert selection("nbody", UNITS) == MSE


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="valid-7 has no target positions"):
        particle_scores(record(target=False), X)
    with pytest.raises(ArtifactError, match="not finite"):
        particle_scores(record(), X * np.nan)
    with pytest.raises(ValueError, match="shape"):
        particle_scores(record(), X[:1])
    with pytest.raises(DataError, match="no velocities"):
        unaided(record(velocities=False))
