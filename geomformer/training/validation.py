"""Errors of a model on a split during training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import nn

from geomformer.errors import DataError
from geomformer.evaluation.metrics import metric_key
from geomformer.evaluation.structures import mean_scores
from geomformer.evaluation.vectors import selection, vector_scores
from geomformer.inference.averaging import InferenceSettings, predict_records
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks.base import Task


def validation_values(
    name: str,
    model: nn.Module,
    task: Task,
    split: PreparedSplit,
    units: Mapping[str, str],
    settings: InferenceSettings,
) -> dict[str, float]:
    """Metrics of a split by their names.

    Of each target the mean absolute error of the conformer average, and of the first conformer alone where there are
    several; of vectors the scores of `evaluation.vectors`.

    Args:
        name: of the task.
        model, task, split: what is measured.
        units: unit of each target.
        settings: how the model is run.

    Raises:
        DataError: the split has no label of any target.
    """
    labels = check_labels(split, task.targets)
    scores: list[dict[str, float]] = []
    for prediction in predict_records(model, task, enumerate(split), settings):
        found = {}
        for target, values in labels.items():
            label, predicted = values[prediction.index], prediction.values[target]
            if not np.isnan(label):
                found[metric_key(target, "mae", units[target])] = absolute(predicted.mean() - label)
            if not np.isnan(label) and settings.max_conformers > 1:
                found[metric_key(target, "mae_single_conformer", units[target])] = absolute(predicted[0] - label)
        vectors = {vector: values[0] for vector, values in prediction.vectors.items()}
        if vectors and all(np.isfinite(values).all() for values in vectors.values()):
            found |= vector_scores(name, split[prediction.index], vectors, units)
        elif vectors and (key := selection(name, units)):
            found[key] = math.inf
        scores.append(found)
    return mean_scores(scores)


def absolute(error: float) -> float:
    """Its absolute value, infinite for a prediction that is no number."""
    return math.inf if math.isnan(error) else abs(float(error))


def check_labels(split: PreparedSplit, targets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Labels (R,) of the targets that have any in the split.

    Raises:
        DataError: there are targets and none has.
    """
    labels = {target: split.target(target) for target in targets}
    found = {target: values for target, values in labels.items() if not np.isnan(values).all()}
    if targets and not found:
        raise DataError(
            f"Expected labels of {', '.join(targets)} in split '{split.name}', found none in its {len(split)} rows.",
            "Choose another split with --set data.train_split=NAME or --set data.valid_split=NAME.",
        )
    return found
