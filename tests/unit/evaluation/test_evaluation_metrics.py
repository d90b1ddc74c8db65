from __future__ import annotations

import numpy as np
import pytest
import torch

from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.metrics import TargetMetrics, bootstrap_interval, metric_key, paired_bootstrap_interval


def test_metrics_over_several_updates_equal_those_of_the_whole() -> None:
    random = np.random.default_rng(0)
    prediction, target = random.normal(size=100), random.normal(size=100)
    target[::7] = np.nan
    metrics = TargetMetrics()
    for start in range(0, 100, 30):
        metrics.update(torch.tensor(prediction[start : start + 30]), target[start : start + 30])
    errors = (prediction - target)[~np.isnan(target)]
    found = metrics.compute()
    assert found["count"] == errors.size
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-14)
    assert found["mse"] == pytest.approx((errors**2).mean(), rel=1e-14)
    assert found["rmse"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-14)


def test_half_precision_predictions_are_summed_in_float64() -> None:
    metrics = TargetMetrics()
    for _ in range(100):
        metrics.update(torch.full((1000,), 0.1, dtype=torch.bfloat16, requires_grad=True), torch.zeros(1000))
    assert metrics.compute()["mae"] == pytest.approx(float(torch.tensor(0.1, dtype=torch.bfloat16)), rel=1e-12)


def test_without_labels_there_is_a_count_only() -> None:
    metrics = TargetMetrics()
    metrics.update([1.0, float("nan")], [float("nan"), float("nan")])
    assert metrics.compute() == {"count": 0}


def test_numbers_that_are_not_finite_are_errors() -> None:
    metrics = TargetMetrics()
    with pytest.raises(ArtifactError, match="1 of 2 predictions"):
        metrics.update([float("nan"), 1.0], [1.0, 1.0])
    with pytest.raises(DataError, match="1 labels are infinite"):
        metrics.update([1.0], [float("inf")])
    with pytest.raises(ValueError, match="shape"):
        metrics.update([[1.0]], [1.0])
    assert metrics.compute() == {"count": 0}


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("gap", "mae", "ev"), "gap_mae_ev"),
        (("gap", "mse", "ev"), "gap_mse_ev2"),
        (("positions", "mse", ""), "positions_mse"),
        (("energy", "ewt", "percent"), "energy_ewt_percent"),
        (("forces", "mae", "kcal_mol_angstrom"), "forces_mae_kcal_mol_angstrom"),
    ],
)
def test_metric_keys(arguments: tuple[str, str, str], key: str) -> None:
    assert metric_key(*arguments) == key


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    truth = np.sqrt(2 / np.pi)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(random.normal(size=80), seed=trial, resamples=200)
        hits += low <= truth <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_is_repeatable_ignores_nan_and_needs_errors() -> None:
    errors = np.array([0.1, -0.4, np.nan, 0.2])
    assert bootstrap_interval(errors, 3, 50) == bootstrap_interval(torch.tensor(errors), 3, 50)
    assert bootstrap_interval([-2.0], 0, 10) == (2.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([np.nan], 0)


def test_a_paired_interval_sees_what_separate_ones_hide() -> None:
    random = np.random.default_rng(1)
    hard = random.exponential(size=500)
    first, second = hard + 0.05 + 0.01 * random.normal(size=500), -hard
    low, high = paired_bootstrap_interval(first, second, seed=0)
    assert 0.045 < low < 0.05 < high < 0.055
    assert bootstrap_interval(first, 0)[0] < bootstrap_interval(second, 0)[1]  # they overlap


def test_a_paired_interval_needs_pairs() -> None:
    assert paired_bootstrap_interval([1.0, np.nan], [-3.0, 2.0], 0, 10) == (-2.0, -2.0)
    with pytest.raises(ValueError, match="2 and 3 errors"):
        paired_bootstrap_interval([1.0, 2.0], [1.0, 2.0, 3.0], 0)
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap_interval([np.nan], [1.0], 0)
