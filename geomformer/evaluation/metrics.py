"""Errors of predictions, summed in float64.

Own sums instead of torchmetrics: its mean errors accumulate in the type of the input and know no missing labels, and
importing it costs more than an evaluation of a small file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from geomformer.errors import ArtifactError, DataError


class TargetMetrics:
    """MAE, RMSE and MSE of one target, over any number of updates."""

    def __init__(self) -> None:
        self.count = 0
        self.absolute = 0.0
        self.squared = 0.0

    def update(self, prediction: Any, target: Any) -> None:
        """Adds predictions and labels of equal shape (tensors on any device, or arrays); NaN labels are unlabelled.

        Raises:
            ArtifactError: a prediction for a labelled entry is not finite.
            DataError: a label is infinite.
            ValueError: the shapes differ.
        """
        found, wanted = as_array(prediction), as_array(target)
        if found.shape != wanted.shape:
            raise ValueError(f"predictions have shape {found.shape}, targets {wanted.shape}")
        labelled = ~np.isnan(wanted)
        found, wanted = found[labelled], wanted[labelled]
        if not np.isfinite(wanted).all():
            raise DataError(f"{int(np.isinf(wanted).sum())} labels are infinite", "Leave unlabelled entries empty.")
        if not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).sum())
            raise ArtifactError(f"{bad} of {found.size} predictions are not finite numbers")
        errors = found - wanted
        self.count += errors.size
        self.absolute += float(np.abs(errors).sum())
        self.squared += float(np.square(errors).sum())

    def compute(self) -> dict[str, float]:
        """Returns mae, rmse, mse and count; without any labelled entry the count (0) only, never NaN."""
        if not self.count:
            return {"count": 0}
        mse = self.squared / self.count
        return {"mae": self.absolute / self.count, "rmse": math.sqrt(mse), "mse": mse, "count": self.count}


def vector_errors(name: str, system: str, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Prediction minus label of the vectors of one system. (N, 3) float64

    Args:
        name: of the vectors, in words.
        system: identifier of the system.
        prediction, label: (N, 3).

    Raises:
        ArtifactError: the prediction is not finite.
        ValueError: the shapes differ.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"predicted {name} have shape {prediction.shape}, expected {label.shape}")
    if not np.isfinite(prediction).all():
        raise ArtifactError(f"The predicted {name} of system {system} are not finite numbers.")
    return as_array(prediction) - as_array(label)


def metric_key(target: str, metric: str, unit: str) -> str:
    """Name of a metric in every output: TARGET_METRIC_UNIT (`gap_mae_ev`); squared units end in 2 (`gap_mse_ev2`), and
    there is no unit for numbers without one (`positions_mse`).
    """
    if not unit:
        return f"{target}_{metric}"
    return f"{target}_{metric}_{unit}{'2' if metric == 'mse' else ''}"


def bootstrap_interval(errors: Any, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % interval of the mean absolute error by the percentile bootstrap.

    Args:
        errors: (M,) prediction minus label; NaN where unlabelled.
        seed: the same seed gives the same interval.
        resamples: times that M errors are drawn with replacement.

    Raises:
        ValueError: there are no errors.
    """
    absolute = np.abs(as_array(errors).ravel())
    return _mean_interval(absolute[~np.isnan(absolute)], seed, resamples)


def paired_bootstrap_interval(errors: Any, others: Any, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % interval of the difference of two mean absolute errors on the same rows, by the percentile bootstrap.

    Args:
        errors, others: (M,) prediction minus label of both methods; rows without a label (NaN) are left out.
        seed: the same seed gives the same interval.
        resamples: times that M rows are drawn with replacement.

    Raises:
        ValueError: there are no errors, or not as many of each.
    """
    first, second = (np.abs(as_array(values).ravel()) for values in (errors, others))
    if first.shape != second.shape:
        raise ValueError(f"rows must be paired: {first.size} and {second.size} errors")
    difference = first - second
    return _mean_interval(difference[~np.isnan(difference)], seed, resamples)


def _mean_interval(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    if not values.size:
        raise ValueError("an interval needs at least one error")
    random = np.random.default_rng(seed)
    means = [values[random.integers(values.size, size=values.size)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def as_array(values: Any) -> np.ndarray:
    """Array-like or tensor (any device, any type) -> float64 array."""
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
