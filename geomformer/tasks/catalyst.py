"""Adsorbates on catalyst surfaces: the energy (IS2RE) or the structure (IS2RS) after relaxation, in one step.

Both read the initial structure. IS2RE predicts the adsorption energy of the relaxed one and, as an auxiliary, how far
every atom that may move goes; IS2RS predicts these displacements alone. In training a share of the systems lies
somewhere between its initial and its relaxed structure, plus noise ("noisy nodes": Godwin et al., ICLR 2022, in the
form of Liao and Smidt, ICLR 2023, which the paper follows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from geomformer.config.run import TaskConfig
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample
from geomformer.prepared.gathered import Gathered
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch, Record
from geomformer.tasks import POSITIONS
from geomformer.tasks.base import Scaling, between, displacement_errors
from geomformer.tasks.scalars import ScalarTargets

MEASURED_SYSTEMS = 2048
"""Systems from which the scale of displacements is taken."""


class CatalystTask:
    """Relaxed energies and structures of adsorbates on surfaces.

    The network's vector times an isotropic scale is the displacement; a mean or a scale per axis would single out
    directions. Atoms that are fixed do not move, whatever the network says.
    """

    vectors: tuple[str, ...] = (POSITIONS,)

    def __init__(self, config: TaskConfig, scaling: Mapping[str, Scaling]) -> None:
        self.config = config
        self.targets = config.targets
        self.scalars = ScalarTargets(config.targets, scaling)
        self.energy_scales = {target: scaling[target].scale for target in config.targets}
        self.displacement_scale = scaling[POSITIONS].scale

    def training_inputs(self, systems: Gathered, rngs: Sequence[np.random.Generator]) -> Gathered:
        if systems.target_positions is None or not self.config.mixture_probability:
            return systems
        positions = systems.positions.copy()
        for atoms, rng in zip(systems.atom_slices, rngs, strict=True):
            relaxed = systems.target_positions[atoms]
            if rng.random() < self.config.mixture_probability and not np.isnan(relaxed).any():
                moving = systems.fields["tags"][atoms] > 0
                positions[atoms][moving] = self.between_structures(positions[atoms][moving], relaxed[moving], rng)
        return replace(systems, positions=positions)

    def between_structures(self, initial: np.ndarray, relaxed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Each atom at its own share of the way, plus Gaussian noise. (N, 3)"""
        share = rng.random((len(initial), 1))
        noise = self.config.noise_scale * rng.standard_normal(initial.shape)
        return share * initial + (1.0 - share) * relaxed + noise

    def inference_samples(self, record: Record, index: int, max_conformers: int) -> list[Sample]:
        return [Sample(record, index, record.positions[0], record.target_positions)]

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        return self.scalars.predictions(output)

    def vector_predictions(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """The relaxed structure. Atoms that are fixed stay, and so do those of tag 0, whose vectors are not trained."""
        if batch.tags is None:
            raise ValueError("catalysts need tags")
        free = batch.own & (batch.tags > 0)
        free = free if batch.fixed is None else free & ~batch.fixed
        relaxed = batch.positions + self.displacements(output)
        return {POSITIONS: torch.where(free[..., None], relaxed, batch.positions)}

    def displacements(self, output: ModelOutput) -> Tensor:
        """Angstrom, (B, N, 3)."""
        if output.vectors is None:
            raise ValueError("catalysts need a model with a vector per atom (model.num_vectors)")
        return output.vectors[:, :, 0] * self.displacement_scale

    def losses(self, output: ModelOutput, batch: Batch, progress: float) -> dict[str, Tensor]:
        losses = self.scalars.losses(output, batch)
        terms = [losses[target] / self.energy_scales[target] for target in self.targets]
        weight = between(self.config.position_weight, progress)
        if weight and batch.target_positions is not None:
            losses["position"] = self.position_loss(output, batch)
            terms.append(weight * losses["position"])
        # Without anything to learn from in this batch the loss is zero, with a gradient that is zero.
        total = torch.stack(terms).sum() if terms else self.displacements(output).sum() * 0.0
        return {"total": total, **losses}

    def position_loss(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Summed over systems: the mean over atoms that may move (tag 1 and 2) of the displacement's error in units of
        its scale, see `displacement_errors`. Systems without a relaxed structure (NaN) count nothing.
        """
        if batch.target_positions is None or batch.tags is None:
            raise ValueError("the batch has no relaxed structures or no tags")
        known_B = ~batch.target_positions.isnan().flatten(1).any(1)
        moving_BN = batch.own & (batch.tags > 0) & known_B[:, None]
        wanted = torch.where(moving_BN[..., None], batch.target_positions - batch.positions, 0.0)
        error = (self.displacements(output) - wanted) * moving_BN[..., None] / self.displacement_scale
        return displacement_errors(error, self.config.position_loss, moving_BN).sum()


def displacement_scale(config: TaskConfig, split: PreparedSplit, seed: int) -> float:
    """Mean length of the displacements that training asks for, over atoms that may move (tag 1 and 2), Angstrom.

    Measured on inputs as training draws them, since noise and interpolation change how far atoms have to go; on the
    first `MEASURED_SYSTEMS` of an order drawn from the seed. 1 where no atom moves.
    """
    unscaled = CatalystTask(replace_targets(config), {POSITIONS: Scaling()})
    rows = np.random.default_rng(seed).permutation(len(split))[:MEASURED_SYSTEMS]
    rngs = [np.random.default_rng([seed, row]) for row in rows.tolist()]
    systems = unscaled.training_inputs(split.gather(rows), rngs)
    if systems.target_positions is None:
        return 1.0
    moving = (systems.fields["tags"] > 0) & ~np.isnan(systems.target_positions).any(-1)
    lengths = np.linalg.norm((systems.target_positions - systems.positions)[moving].astype(np.float64), axis=-1)
    return float(lengths.mean()) if len(lengths) and lengths.any() else 1.0


def replace_targets(config: TaskConfig) -> TaskConfig:
    """The same task without scalars, whose scaling is not needed to draw inputs."""
    return config.model_copy(update={"targets": ()})
