"""Errors of a model on a split during training."""

from __future__ import annotations

import numpy as np
from torch import nn

from geomformer.errors import DataError
from geomformer.inference.averaging import InferenceSettings, predict_records
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks.base import Task


def validation_errors(
    model: nn.Module, task: Task, split: PreparedSplit, settings: InferenceSettings
) -> dict[str, tuple[float, float]]:
    """By target: mean absolute error of the conformer average, and of the first conformer alone.

    Raises:
        DataError: the split has no label of any target.
    """
    labels = check_labels(split, task.targets)
    averaged: dict[str, list[float]] = {target: [] for target in labels}
    single: dict[str, list[float]] = {target: [] for target in labels}
    for prediction in predict_records(model, task, enumerate(split), settings):
        for target, values in labels.items():
            label = values[prediction.index]
            if not np.isnan(label):
                averaged[target].append(abs(prediction.mean(target) - label))
                single[target].append(abs(float(prediction.values[target][0]) - label))
    return {target: (float(np.mean(averaged[target])), float(np.mean(single[target]))) for target in labels}


def check_labels(split: PreparedSplit, targets: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Labels (R,) of the targets that have any in the split.

    Raises:
        DataError: none has.
    """
    labels = {target: split.target(target) for target in targets}
    found = {target: values for target, values in labels.items() if not np.isnan(values).all()}
    if not found:
        raise DataError(
            f"Expected labels of {', '.join(targets)} in split '{split.name}', found none in its {len(split)} rows.",
            "Choose another split with --set data.train_split=NAME or --set data.valid_split=NAME.",
        )
    return found
