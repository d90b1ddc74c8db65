"""Charged particles: where they are one unit of time later (paper section 5.4 and appendix E.5).

The network reads positions, velocities and charges, and its vector is added to the input positions, or to where the
velocities alone would lead. Coordinates are in the benchmark's own units.

`conserved` builds in what the simulation keeps exactly, whatever its step and its cap of forces do: momentum, since
forces come in opposite pairs, the choice of the inertial frame, and the sign that all charges share. The network then
sees systems whose centre of mass rests and whose charges are mostly positive.
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

HORIZON = 1.0
"""Time from the input to the target, 1,000 steps of 0.001."""

MEASURED_SYSTEMS = 4096
"""Systems from which the scale is taken: the first ones, which is exact enough for a scale."""


class NBodyTask:
    """Positions of particles after `HORIZON`: start + scale * vector, judged by the mean squared error.

    Rotating the systems in training would change nothing, since the network is equivariant.
    """

    targets: tuple[str, ...] = ()
    vectors: tuple[str, ...] = (POSITIONS,)

    def __init__(self, config: TaskConfig, scaling: Mapping[str, Scaling]) -> None:
        self.config = config
        self.scale = scaling[POSITIONS].scale

    def training_inputs(self, systems: Gathered, rngs: Sequence[np.random.Generator]) -> Gathered:
        if not self.config.conserved:
            return systems
        fields = dict(systems.fields)
        positions, fields["velocities"] = comoving(systems.positions, fields["velocities"], systems.num_atoms)
        fields["particle_charges"] = mostly_positive(fields["particle_charges"], systems.num_atoms)
        return replace(systems, positions=positions, fields=fields)

    def inference_samples(self, record: Record, index: int, max_conformers: int) -> list[Sample]:
        positions = record.positions[0]
        if self.config.conserved and record.velocities is not None and record.particle_charges is not None:
            sizes = np.array([len(positions)])
            positions, velocities = comoving(positions, record.velocities, sizes)
            charges = mostly_positive(record.particle_charges, sizes)
            record = replace(record, velocities=velocities, particle_charges=charges)
        return [Sample(record, index, positions, record.target_positions)]

    def predictions(self, output: ModelOutput) -> dict[str, Tensor]:
        return {}

    def vector_predictions(self, output: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        return {POSITIONS: self.start(batch) + self.displacements(output, batch)}

    def start(self, batch: Batch) -> Tensor:
        """What the displacements are counted from, (B, N, 3)."""
        if self.config.start == "x":
            return batch.positions
        if batch.velocities is None:
            raise ValueError("a start of x+v needs velocities")
        return batch.positions + HORIZON * batch.velocities

    def displacements(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Of every particle, (B, N, 3); with `conserved` those of a system add up to zero."""
        if output.vectors is None:
            raise ValueError("particles need a model with a vector per atom (model.num_vectors)")
        found = output.vectors[:, :, 0] * self.scale
        if not self.config.conserved:
            return found
        own_BN1 = batch.own[..., None].to(found.dtype)
        return found - own_BN1 * ((found * own_BN1).sum(1, keepdim=True) / own_BN1.sum(1, keepdim=True))

    def losses(self, output: ModelOutput, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Summed over systems: "position" is the mean over particles and coordinates of the squared error, "total" the
        weighted error in units of the scale, in the form that the configuration names (`displacement_errors`). Systems
        without a target (NaN) count nothing.
        """
        if batch.target_positions is None:
            raise ValueError("the batch has no target positions")
        known_B = ~batch.target_positions.isnan().flatten(1).any(1)
        counted_BN = batch.own & known_B[:, None]
        predicted = self.vector_predictions(output, batch)[POSITIONS]
        error = torch.where(counted_BN[..., None], predicted - batch.target_positions, 0.0)
        position = displacement_errors(error, "mse", counted_BN).sum()
        total = displacement_errors(error / self.scale, self.config.position_loss, counted_BN).sum()
        weight = between(self.config.position_weight, progress)
        return {"total": weight * total, "position": position.detach()}


def comoving(positions: np.ndarray, velocities: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities in the frame of the centre of mass, with the origin that it has after `HORIZON`.

    Particles have equal masses. At the time of the target both frames coincide, so that targets stay what they are.

    Args:
        positions, velocities: of all particles, one system after the other. (A, 3)
        sizes: particles of each system. (B,)

    Returns:
        both in the type they came in. (A, 3), (A, 3)
    """
    starts = np.cumsum(sizes) - sizes
    mean = np.add.reduceat(velocities.astype(np.float64), starts) / sizes[:, None]
    shared = np.repeat(mean, sizes, axis=0)
    return (positions + HORIZON * shared).astype(positions.dtype), (velocities - shared).astype(velocities.dtype)


def mostly_positive(charges: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Charges (A,) of systems of the given sizes (B,), all turned round in systems whose sum is negative."""
    starts = np.cumsum(sizes) - sizes
    total = np.add.reduceat(charges.astype(np.int64), starts)
    return charges * np.repeat(np.where(total < 0, -1, 1), sizes).astype(charges.dtype)


def displacement_scale(config: TaskConfig, split: PreparedSplit) -> float:
    """Root mean square of the displacements that training asks for, per coordinate; 1 where nothing moves."""
    task = NBodyTask(config, {POSITIONS: Scaling()})
    systems = task.training_inputs(split.gather(np.arange(min(len(split), MEASURED_SYSTEMS))), [])
    if systems.target_positions is None:
        return 1.0
    start = systems.positions.astype(np.float64)
    if config.start == "x+v":
        start += HORIZON * systems.fields["velocities"]
    square = float(np.nanmean(np.square(systems.target_positions - start)))
    return float(np.sqrt(square)) if square > 0 else 1.0
