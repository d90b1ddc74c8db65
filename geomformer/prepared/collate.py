"""Samples to padded batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geomformer.errors import DataError
from geomformer.records import BOND_FEATURE_SIZES, MAX_PATH, Batch, Record


@dataclass
class Sample:
    """One system as a task wants it seen.

    Attributes:
        record: the stored system.
        index: its row in the dataset or input.
        positions: geometry to read. (N, 3) float32, Angstrom.
        target_positions: geometry to predict, or None. (N, 3)
    """

    record: Record
    index: int
    positions: np.ndarray
    target_positions: np.ndarray | None = None


def collate(samples: Sequence[Sample], *, features: bool = True) -> Batch:
    """Pads samples to one batch of B systems and N atoms, N the largest among them.

    Args:
        samples: the systems, at least one.
        features: also `atom_features`, `bond_type` and `shortest_path`, where the records have a 2D graph.

    Raises:
        DataError: some of the records have a field and others do not.
    """
    records = [sample.record for sample in samples]
    lengths = np.array([len(sample.positions) for sample in samples])
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    batch = Batch(
        positions=_pad([sample.positions for sample in samples], mask, np.float32),
        mask=torch.from_numpy(mask),
        index=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        atomic_numbers=_field(records, "atomic_numbers", mask, np.int64),
        particle_charges=_field(records, "particle_charges", mask, np.float32),
        velocities=_field(records, "velocities", mask, np.float32),
        forces=_field(records, "forces", mask, np.float32),
        tags=_field(records, "tags", mask, np.int64),
        fixed=_field(records, "fixed", mask, np.bool_),
        targets=_targets(records),
        target_positions=_target_positions(samples, mask),
    )
    if features:
        batch.atom_features = _field(records, "atom_features", mask, np.int64)
        if batch.atom_features is not None:
            batch.bond_type = _bond_type(records, mask.shape[1])
            batch.shortest_path = shortest_paths(batch.bond_type > 0)
    return batch


def _pad(arrays: Sequence[np.ndarray], mask: np.ndarray, dtype: type[np.generic]) -> Tensor:
    """Pads arrays of shape (n, ...) with zeros to (B, N, ...)."""
    flat = np.concatenate(arrays)
    padded = np.zeros((*mask.shape, *flat.shape[1:]), dtype)
    padded[mask] = flat
    return torch.from_numpy(padded)


def _values(records: Sequence[Record], name: str) -> list[np.ndarray] | None:
    values = [getattr(record, name) for record in records]
    without = sum(value is None for value in values)
    if without == len(values):
        return None
    if without:
        lacking = next(record.id for record, value in zip(records, values, strict=True) if value is None)
        raise DataError(f"Expected '{name}' in all systems of a batch or in none; '{lacking}' has none.")
    return values


def _field(records: Sequence[Record], name: str, mask: np.ndarray, dtype: type[np.generic]) -> Tensor | None:
    values = _values(records, name)
    return None if values is None else _pad(values, mask, dtype)


def _targets(records: Sequence[Record]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for record in records for name in record.targets)
    return {
        name: torch.tensor([record.targets.get(name, math.nan) for record in records], dtype=torch.float32)
        for name in names
    }


def _target_positions(samples: Sequence[Sample], mask: np.ndarray) -> Tensor | None:
    if all(sample.target_positions is None for sample in samples):
        return None
    arrays = [
        np.full_like(sample.positions, np.nan) if sample.target_positions is None else sample.target_positions
        for sample in samples
    ]
    return _pad(arrays, mask, np.float32)


def _bond_type(records: Sequence[Record], num_atoms: int) -> Tensor:
    """Returns 1 + the features of the bond between two atoms as one mixed-radix number, 0 without. (B, N, N)."""
    bonds, features = _values(records, "bond_index"), _values(records, "bond_features")
    result = np.zeros((len(records), num_atoms, num_atoms), np.int64)
    if bonds is None or features is None:
        return torch.from_numpy(result)
    system = np.repeat(np.arange(len(records)), [bond.shape[1] for bond in bonds])
    first, second = np.concatenate(bonds, axis=1)
    kind, stereo, conjugated = np.concatenate(features).astype(np.int64).T
    result[system, first, second] = 1 + (kind * BOND_FEATURE_SIZES[1] + stereo) * BOND_FEATURE_SIZES[2] + conjugated
    return torch.from_numpy(result)


def shortest_paths(bonded: Tensor) -> Tensor:
    """Returns the number of bonds between all pairs of atoms, breadth first for all systems at once. (B, N, N) int64.

    `MAX_PATH` stands for itself and everything longer, `MAX_PATH + 1` for pairs that no path connects.

    Args:
        bonded: True where two atoms share a bond. (B, N, N)
    """
    num_atoms = bonded.shape[-1]
    step = bonded.float() + torch.eye(num_atoms)
    reached = torch.eye(num_atoms).expand_as(step).clone()
    # every round adds one for the pairs not yet reached, so that the path length is the number of such rounds
    paths = torch.zeros_like(step)
    known = num_atoms * len(step)
    for _ in range(MAX_PATH):
        paths += reached == 0
        reached = (reached @ step).clamp_(max=1.0)
        count = int(torch.count_nonzero(reached))
        if count == known:
            break
        known = count
    else:
        reached = _closure(reached)
    paths[reached == 0] = MAX_PATH + 1
    return paths.long()


def _closure(reached: Tensor) -> Tensor:
    """Returns which pairs are connected by paths of any length, squaring until nothing is added."""
    while True:
        further = (reached @ reached).clamp_(max=1.0)
        if torch.equal(further, reached):
            return reached
        reached = further
