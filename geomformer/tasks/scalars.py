"""Scalars per system, as several tasks predict them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from geomformer.models.network import ModelOutput
from geomformer.records import Batch
from geomformer.tasks.base import Scaling


class ScalarTargets:
    """T named scalars: the scale of the network's output, and L1 losses.

    Args:
        targets: names, in the order of the network's outputs; none at all is allowed.
        scaling: mean and scale by name.
    """

    def __init__(self, targets: tuple[str, ...], scaling: Mapping[str, Scaling]) -> None:
        self.targets = targets
        self.mean = torch.tensor([scaling[target].mean for target in targets])
        self.scale = torch.tensor([scaling[target].scale for target in targets])

    def scaling_like(self, scalars: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale where the scalars are; they move once, since a copy to a GPU would make every step wait."""
        if self.mean.device != scalars.device or self.mean.dtype != scalars.dtype:
            self.mean, self.scale = self.mean.to(scalars), self.scale.to(scalars)
        return self.mean, self.scale

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        """Predictions per system (B,), in the unit of each target."""
        if not self.targets:
            return {}
        if output.scalars is None:
            raise ValueError(f"targets {', '.join(self.targets)} need a model with scalars (model.num_scalars)")
        mean, scale = self.scaling_like(output.scalars)
        return dict(zip(self.targets, (output.scalars * scale + mean).unbind(-1), strict=True))

    def losses(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Absolute errors summed over the labelled systems, in the unit of each target."""
        losses = {}
        for target, prediction in self.predictions(output).items():
            error = (prediction - batch.targets[target]).abs()
            losses[target] = torch.where(error.isnan(), 0.0, error).sum()
        return losses
