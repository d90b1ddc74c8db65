"""What every task offers to training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample
from geomformer.prepared.gathered import Gathered
from geomformer.records import CONFORMER_SOURCES, Batch, Record


@dataclass(frozen=True)
class Scaling:
    """prediction = mean + scale * network output, in the target's unit."""

    mean: float = 0.0
    scale: float = 1.0


class Task(Protocol):
    """One prediction problem: inputs and augmentation, targets, losses.

    Attributes:
        targets: scalars per system; may be empty.
        vectors: vectors per atom that are an answer and no mere auxiliary, by name ("positions").
    """

    targets: tuple[str, ...]
    vectors: tuple[str, ...]

    def training_inputs(self, systems: Gathered, rngs: Sequence[np.random.Generator]) -> Gathered:
        """Draws one (augmented) input of every system.

        Args:
            systems: with the conformer as positions that the first number of their generators chose.
            rngs: one for each system, the only source of randomness.
        """

    def inference_samples(self, record: Record, index: int, max_conformers: int) -> list[Sample]:
        """The inputs whose predictions are averaged: one per conformer."""

    def losses(self, output: ModelOutput, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Loss terms summed over the molecules of the batch, "total" among them. `progress` runs from 0 to 1."""

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        """Predictions per system (B,), in the unit of each target."""

    def vector_predictions(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Predictions per atom (B, N, 3) for every name in `vectors`."""


def has_reference(record: Record) -> bool:
    """Whether a record holds a reference geometry: its own field, or positions that were given instead of generated."""
    names = {CONFORMER_SOURCES[source] for source in record.conformer_source.tolist()}
    return record.target_positions is not None or names <= {"given", "dft"}


def displacement_errors(error_BN3: Tensor, kind: str, counted_BN: Tensor) -> Tensor:
    """Per system (B,): the mean over the counted atoms of the size of a vector's error.

    Args:
        error_BN3: error in units of its scale.
        kind: "l1" or "mse", the mean over the axes of absolute or squared values, or "distance", the length.
        counted_BN: atoms that count.
    """
    if kind == "l1":
        error_BN = error_BN3.abs().mean(-1)
    elif kind == "mse":
        error_BN = error_BN3.square().mean(-1)
    else:
        error_BN = (error_BN3.square().sum(-1) + 1e-12).sqrt()
    return torch.where(counted_BN, error_BN, 0.0).sum(1) / counted_BN.sum(1).clamp_min(1)


def between(ends: tuple[float, float], progress: float) -> float:
    """A weight that moves linearly from its first to its last value."""
    return ends[0] + (ends[1] - ends[0]) * min(max(progress, 0.0), 1.0)


def scalings(statistics: Mapping[str, Mapping[str, float]], targets: tuple[str, ...]) -> dict[str, Scaling]:
    """Mean and standard deviation of the train targets; a constant target keeps scale 1."""
    found = {}
    for target in targets:
        values = statistics[target]
        std = float(values["std"])
        found[target] = Scaling(float(values["mean"]), std if std > 0 else 1.0)
    return found
