"""Small periodic systems, and the ways in which one crystal can be written down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.config.network import PairListConfig
from geomformer.prepared.images import near_pairs
from geomformer.records import Batch


@dataclass(frozen=True)
class Crystal:
    """N atoms in a cell. All float64, so that equal crystals are equal to round-off."""

    positions: np.ndarray
    cell: np.ndarray
    numbers: np.ndarray
    tags: np.ndarray
    pbc: tuple[bool, bool, bool] = (True, True, True)

    def moved(self, shift: np.ndarray) -> Crystal:
        return replace(self, positions=self.positions + shift)

    def turned(self, matrix: np.ndarray) -> Crystal:
        return replace(self, positions=self.positions @ matrix.T, cell=self.cell @ matrix.T)

    def reordered(self, order: np.ndarray) -> Crystal:
        return replace(self, positions=self.positions[order], numbers=self.numbers[order], tags=self.tags[order])

    def other_copies(self, rng: np.random.Generator) -> Crystal:
        """Every atom replaced by one of its copies, along the periodic directions."""
        steps = rng.integers(-2, 3, (len(self.positions), 3)) * np.array(self.pbc)
        return replace(self, positions=self.positions + steps @ self.cell)

    def other_basis(self, matrix: np.ndarray) -> Crystal:
        """The same lattice by other vectors: an integer matrix of determinant 1 or -1."""
        assert abs(abs(np.linalg.det(matrix)) - 1.0) < 1e-9
        return replace(self, cell=matrix @ self.cell)


def slab(seed: int = 0, atoms: int = 9, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Crystal:
    """A skewed cell smaller than twice the cutoff, so that atoms meet several copies of each other and their own."""
    rng = np.random.default_rng(seed)
    cell = np.array([[4.1, 0.0, 0.0], [1.3, 3.6, 0.0], [0.4, -0.7, 9.0]])
    fractions = rng.random((atoms, 3)) * np.array([1.0, 1.0, 0.5])
    return Crystal(fractions @ cell, cell, rng.choice([1, 6, 8, 29, 46], atoms), np.arange(atoms) % 3, pbc)


def to_batch(crystals: list[Crystal], config: GeoMFormerConfig | PairListConfig) -> Batch:
    """Pads crystals to one batch in float64, with the pairs that the configuration reads."""
    width = max(len(crystal.numbers) for crystal in crystals)
    batch = Batch(
        positions=torch.zeros(len(crystals), width, 3, dtype=torch.float64),
        mask=torch.zeros(len(crystals), width, dtype=torch.bool),
        index=torch.arange(len(crystals)),
        atomic_numbers=torch.zeros(len(crystals), width, dtype=torch.long),
        tags=torch.zeros(len(crystals), width, dtype=torch.long),
    )
    pairs, shifts = [], []
    for row, crystal in enumerate(crystals):
        n = len(crystal.numbers)
        batch.positions[row, :n] = torch.from_numpy(crystal.positions)
        batch.mask[row, :n] = True
        batch.atomic_numbers[row, :n] = torch.from_numpy(crystal.numbers)
        batch.tags[row, :n] = torch.from_numpy(crystal.tags)
        query, key, shift = near_pairs(crystal.positions, crystal.cell, np.array(crystal.pbc), config.neighbour_cutoff)
        pairs.append(torch.from_numpy(np.stack([query, key]) + row * width))
        shifts.append(torch.from_numpy(shift))
    return replace(batch, pairs=torch.cat(pairs, 1), pair_shifts=torch.cat(shifts))
