"""Energies and forces of molecules along trajectories (MD17, rMD17), learnt together.

Forces are vectors of the network, as in the paper, or minus the gradient of its energy ("conservative"). The energy is
a sum over atoms. Its mean over the train split is a constant beside the network; one number, the root mean square of
the train forces, scales energies and forces alike, so that a conservative model needs no other.

The loss is stated in the units of the dataset (kcal/mol and Angstrom): by default that of TorchMD-Net, whose parameter
budget the paper takes over, 0.8 for the mean squared error of force components and 0.01 for that of the energy. There
it is printed as 0.2, of a running mean in which the current batch has a share of 0.05; the rest has no gradient.
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
from geomformer.tasks import FORCES
from geomformer.tasks.base import Scaling
from geomformer.tasks.differentiation import gradient

_ROWS_AT_ONCE = 4096
_SMALLEST = 1e-12
"""Square of the length, in units of the scale, within which the length of a force's error is smooth."""


class MD17Task:
    """One energy per system and a force per atom.

    Args:
        config: the task, with one target, the energy.
        scaling: of the energy, and of the forces.
    """

    vectors: tuple[str, ...] = (FORCES,)

    def __init__(self, config: TaskConfig, scaling: Mapping[str, Scaling]) -> None:
        self.config = config
        self.targets = config.targets
        (self.energy,) = config.targets
        self.scaling = scaling[self.energy]
        self.force_scale = self.scaling.scale if config.differentiates else scaling[FORCES].scale

    def training_inputs(self, systems: Gathered, rngs: Sequence[np.random.Generator]) -> Gathered:
        """Counts energies from their train mean while they are in float64: that of aspirin is 400,000 kcal/mol, where
        numbers of float32 are 0.03 apart.
        """
        shifted = systems.targets[self.energy] - self.scaling.mean
        return replace(systems, targets={**systems.targets, self.energy: shifted})

    def inference_samples(self, record: Record, index: int, max_conformers: int) -> list[Sample]:
        return [Sample(record, index, record.positions[0], None)]

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        """The energy (B,) in float64, for the same reason."""
        return {self.energy: self.relative_energies(output).double() + self.scaling.mean}

    def vector_predictions(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {FORCES: self.forces(output, batch, train=False)}

    def relative_energies(self, output: ModelOutput) -> Tensor:
        """Energies from the train mean on, in the unit of the dataset. (B,)"""
        if output.scalars is None:
            raise ValueError("energies need a model with a scalar (model.num_scalars)")
        return output.scalars[:, 0] * self.scaling.scale

    def forces(self, output: ModelOutput, batch: Batch, *, train: bool) -> Tensor:
        """Unit of energy per Angstrom, zero at padding. (B, N, 3)

        Args:
            output: of the network for `batch`; for conservative forces with positions that remember, see
                `differentiation.by_positions`.
            batch: what it read.
            train: conservative forces are to be differentiated by the weights.
        """
        if self.config.differentiates:
            slopes = gradient(self.relative_energies(output), batch.positions, train=train)
            return -slopes * batch.own[..., None]
        if output.vectors is None:
            raise ValueError("direct forces need a model with a vector per atom (model.num_vectors)")
        return output.vectors[:, :, 0] * self.force_scale

    def losses(self, output: ModelOutput, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Expects energies as `training_inputs` leaves them, counted from the train mean."""
        if batch.forces is None:
            raise ValueError("the batch has no forces")
        energy = self.relative_energies(output) - batch.targets[self.energy]
        energy = torch.where(energy.isnan(), 0.0, energy)
        force = (self.forces(output, batch, train=True) - batch.forces) * batch.own[..., None]
        atoms = batch.own.sum(1)
        if self.config.force_loss == "mse":
            terms = energy.square().sum(), (force.square().sum((1, 2)) / (3 * atoms)).sum()
        else:
            smooth = self.force_scale**2 * _SMALLEST
            lengths = (force.square().sum(-1) + smooth).sqrt() * batch.own
            terms = energy.abs().sum(), (lengths.sum(1) / atoms).sum()
        total = self.config.energy_weight * terms[0] + self.config.force_weight * terms[1]
        return {"total": total, self.energy: terms[0], FORCES: terms[1]}


def force_scalings(config: TaskConfig, split: PreparedSplit) -> dict[str, Scaling]:
    """Mean of the energies, and the root mean square of force components as the scale of energies and forces; 1 where
    all forces vanish.
    """
    squares, count = 0.0, 0
    for start in range(0, len(split), _ROWS_AT_ONCE):
        part = split.gather(np.arange(start, min(start + _ROWS_AT_ONCE, len(split))))
        forces = part.fields[FORCES].astype(np.float64)
        squares, count = squares + float(np.square(forces).sum()), count + forces.size
    scale = (squares / max(count, 1)) ** 0.5 or 1.0
    mean = float(np.nanmean(split.target(config.targets[0])))
    return {config.targets[0]: Scaling(mean, scale), FORCES: Scaling(0.0, scale)}
