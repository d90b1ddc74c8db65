"""Batches of systems of similar size within a budget of padded atoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geomformer.errors import ConfigError, DataError

WINDOW_BATCHES = 64
"""Rows are sorted by size within windows of this many full batches: little padding, yet random company."""


def padding_waste(num_atoms: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    """Returns the share of padding among all atoms of the padded batches.

    Args:
        num_atoms: atoms of every row. (R,)
        batches: row indices of every batch.
    """
    padded = sum(len(rows) * int(num_atoms[rows].max()) for rows in batches)
    real = sum(int(num_atoms[rows].sum()) for rows in batches)
    return 1.0 - real / padded if padded else 0.0


class AtomBudgetSampler:
    """Cuts the rows of a split into batches; the same for the same seed and epoch, on every machine.

    Every row occurs once per epoch. A batch has at most `batch_size` systems and, padded, at most `max_atoms` atoms.
    With several ranks each gets the same number of batches, the first ones being repeated where they do not divide.
    """

    def __init__(
        self,
        num_atoms: np.ndarray,
        *,
        batch_size: int,
        max_atoms: int,
        seed: int = 0,
        shuffle: bool = True,
        world_size: int = 1,
        rank: int = 0,
    ) -> None:
        """Checks the budget.

        Args:
            num_atoms: atoms of every row. (R,)
            batch_size: most systems in a batch.
            max_atoms: most atoms in a batch, counting padding.
            seed: seed of the order.
            shuffle: draw a new order every epoch; otherwise rows keep their order up to sorting by size in windows.
            world_size: number of ranks that share the epoch.
            rank: this one among them.

        Raises:
            DataError: a system alone exceeds `max_atoms`, or there is none.
            ConfigError: `batch_size` or `rank` make no sense.
        """
        if batch_size < 1:
            raise ConfigError(f"Expected a batch size of at least 1, found {batch_size}.")
        if not 0 <= rank < world_size:
            raise ConfigError(f"Expected a rank from 0 to {world_size - 1}, found {rank}.")
        if not len(num_atoms):
            raise DataError("Expected at least one system to batch, found none.")
        too_large = int((num_atoms > max_atoms).sum())
        if too_large:
            raise DataError(
                f"{too_large} systems have more atoms than a batch may hold ({max_atoms}); the largest has "
                f"{int(num_atoms.max())}.",
                "Raise the atom budget, or prepare the dataset with fewer atoms at most.",
            )
        self.num_atoms = np.asarray(num_atoms, np.int64)
        self.batch_size, self.max_atoms = batch_size, max_atoms
        self.seed, self.shuffle = seed, shuffle
        self.world_size, self.rank = world_size, rank

    def all_batches(self, epoch: int) -> list[np.ndarray]:
        """Returns the row indices of the epoch's batches, of all ranks, each row once."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.num_atoms)) if self.shuffle else np.arange(len(self.num_atoms))
        window = WINDOW_BATCHES * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            batches.extend(self._cut(rows[np.argsort(self.num_atoms[rows], kind="stable")]))
        if self.shuffle:
            return [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """Cuts rows in ascending order of size into the largest batches that the budget allows."""
        sizes = self.num_atoms[rows]
        counts = np.arange(1, self.batch_size + 1)
        batches, start = [], 0
        while start < len(rows):
            ahead = sizes[start : start + self.batch_size]
            fits = int(np.searchsorted(counts[: len(ahead)] * ahead, self.max_atoms, side="right"))
            batches.append(rows[start : start + fits])
            start += fits
        return batches

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Returns the row indices of this rank's batches of an epoch."""
        batches = self.all_batches(epoch)
        missing = -len(batches) % self.world_size
        repeated = [batches[i % len(batches)] for i in range(missing)]
        return [*batches, *repeated][self.rank :: self.world_size]
