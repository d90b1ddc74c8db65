"""HOMO-LUMO gaps (and other scalars of a molecule) from conformers: the PCQM4Mv2 recipe of Uni-Mol+.

The network sees a cheap conformer and also predicts where each atom sits in the reference geometry. In training its
input is mostly a noised reference geometry, sometimes a mixture with the conformer, sometimes the conformer itself;
in use it is the conformer. Source: Lu et al., Nat. Commun. 15, 7104 (2024), as followed by the paper (appendix E.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from geomformer.chem.alignment import kabsch
from geomformer.config.run import TaskConfig
from geomformer.models.network import ModelOutput
from geomformer.nn.ops import safe_norm
from geomformer.prepared.collate import Sample
from geomformer.prepared.gathered import Gathered
from geomformer.records import Batch, Record
from geomformer.tasks.base import Scaling, between
from geomformer.tasks.scalars import ScalarTargets

MIXTURE_SHARE = (0.4, 0.6)
"""Range of the conformer's share in a mixture with the noised reference."""


class GapTask:
    """Scalars per molecule by L1, plus positions and pair distances of the reference geometry where there is one."""

    vectors: tuple[str, ...] = ()

    def __init__(self, config: TaskConfig, scaling: Mapping[str, Scaling]) -> None:
        self.config = config
        self.targets = config.targets
        self.scalars = ScalarTargets(config.targets, scaling)

    def training_inputs(self, systems: Gathered, rngs: Sequence[np.random.Generator]) -> Gathered:
        positions = np.empty(systems.positions.shape, np.float32)
        targets = None if systems.target_positions is None else np.empty(positions.shape, np.float32)
        for atoms, rng in zip(systems.atom_slices, rngs, strict=True):
            reference = None if systems.target_positions is None else systems.target_positions[atoms]
            positions[atoms], label = self.training_geometry(systems.positions[atoms], reference, rng)
            if targets is not None:
                targets[atoms] = label
        return replace(systems, positions=positions, target_positions=targets)

    def training_geometry(
        self, conformer: np.ndarray, reference: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | float]:
        """The input, and the label that it lies on as well as it can: NaN where the reference is missing. (N, 3)"""
        if reference is None or np.isnan(reference).any():
            return centred(conformer), np.nan
        reference = centred(reference) @ random_rotation(rng).T
        positions = self.noised_input(conformer, reference, rng)
        rotation, shift = kabsch(positions, reference)
        return positions @ rotation.T + shift, reference

    def noised_input(self, conformer: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Noised reference, mixture or conformer, by the configured chances. (N, 3)"""
        kind = rng.random()
        if kind >= self.config.reference_probability + self.config.mixture_probability:
            return centred(conformer)
        noised = reference + self.config.noise_scale * rng.standard_normal(reference.shape)
        if kind < self.config.reference_probability:
            return noised
        rotation, shift = kabsch(conformer, reference)
        share = rng.uniform(*MIXTURE_SHARE)
        return share * (conformer @ rotation.T + shift) + (1.0 - share) * noised

    def inference_samples(self, record: Record, index: int, max_conformers: int) -> list[Sample]:
        if self.config.input_geometry == "reference" and record.target_positions is not None:
            return [Sample(record, index, centred(record.target_positions), None)]
        return [Sample(record, index, centred(positions), None) for positions in record.positions[:max_conformers]]

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        return self.scalars.predictions(output)

    def vector_predictions(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {}

    def losses(self, output: ModelOutput, batch: Batch, progress: float) -> dict[str, Tensor]:
        losses = self.scalars.losses(output, batch)
        total = torch.stack(list(losses.values())).sum()
        weights = between(self.config.position_weight, progress), between(self.config.distance_weight, progress)
        if any(weights) and batch.target_positions is not None and output.vectors is not None:
            positions = batch.positions + output.vectors[:, :, 0]
            losses["position"], losses["distance"] = geometry_losses(positions, batch)
            total = total + weights[0] * losses["position"] + weights[1] * losses["distance"]
        return {"total": total, **losses}


def geometry_losses(positions_BN3: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sums over molecules of the mean L1 error of positions (summed over xyz) and of pair distances (ordered pairs).

    Molecules without a reference geometry (NaN) count nothing.
    """
    if batch.target_positions is None:
        raise ValueError("the batch has no reference positions")
    known_B = ~batch.target_positions.isnan().flatten(1).any(1)
    target_BN3 = torch.where(known_B[:, None, None], batch.target_positions, positions_BN3.detach())
    weight_BN = batch.mask * known_B[:, None] / batch.mask.sum(1, keepdim=True)
    position = ((positions_BN3 - target_BN3).abs().sum(-1) * weight_BN).sum()
    weight_BNN = weight_BN[:, :, None] * weight_BN[:, None, :]
    distance = ((pair_distances(positions_BN3) - pair_distances(target_BN3)).abs() * weight_BNN).sum()
    return position, distance


def pair_distances(x_BN3: Tensor) -> Tensor:
    return safe_norm(x_BN3[:, :, None, :] - x_BN3[:, None, :, :])


def centred(positions: np.ndarray) -> np.ndarray:
    return positions - positions.mean(axis=0)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix, uniform over all rotations (Shoemake's quaternions). (3, 3)"""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
