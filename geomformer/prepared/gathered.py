"""Systems as flat arrays: what random access returns and collating takes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Gathered:
    """B systems of A atoms and M bonds in all, one after the other, with one geometry each.

    Attributes:
        index: row of every system in its split or input. (B,) int64
        num_atoms: atoms of every system. (B,) int64
        positions: the geometry to read. (A, 3)
        target_positions: the geometry to predict, NaN for systems without; None if no system has one. (A, 3)
        fields: list columns that all systems have, by the name and in the type of the `Record`, joined along atoms or
            bonds: (A, 3) for `velocities` and `forces`, (A, 9) for `atom_features`, (2, M) for `bond_index`, (M, 3) for
            `bond_features`, (A, 4) for `orbital_shares`, (B, 8) for `orbital_energies`, (B, 3, 3) for `cell`, (B, 3)
            for `pbc`, (A,) for the others.
        num_bonds: columns of `bond_index` that belong to every system, None without. (B,) int64
        lacking: columns that only some systems have, with the identifier of one that has not.
        targets: labels by name, NaN where there is none. (B,) float64
    """

    index: np.ndarray
    num_atoms: np.ndarray
    positions: np.ndarray
    target_positions: np.ndarray | None = None
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    num_bonds: np.ndarray | None = None
    lacking: dict[str, str] = field(default_factory=dict)
    targets: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def atom_slices(self) -> list[slice]:
        """Where the atoms of every system lie."""
        ends = np.cumsum(self.num_atoms).tolist()
        return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
