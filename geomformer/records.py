"""The data objects: one input row, one molecule or system, one batch.

`RawMolecule` and `Record` hold numpy arrays and plain values, so that worker processes that make them never import
torch; `Batch` holds padded tensors. Lengths are Angstrom and energies eV unless a dataset's manifest says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from torch import Tensor

CONFORMER_SOURCES = ("given", "dft", "etkdg", "etkdg_random", "etkdg_loose", "flat_2d")
"""Names behind the numbers of `Record.conformer_source`, best first for generated ones."""

ATOM_FEATURE_SIZES = (119, 7, 12, 12, 10, 6, 6, 2, 2)
"""Number of values of the nine atom features, in the order of OGB: atomic number, chiral tag, degree, formal charge
(-5..5), hydrogens, radical electrons, hybridisation, aromatic, in ring. The last value of the counted ones is
"anything else"."""

BOND_FEATURE_SIZES = (5, 6, 2)
"""Number of values of the three bond features: type (single, double, triple, aromatic, other), stereo, conjugated."""

MAX_PATH = 20
"""Shortest paths of this many bonds or more share one value (`Batch.shortest_path`)."""

NUM_ORBITALS = 4
"""Occupied orbitals, and as many unoccupied ones, whose energies a record may have (`Record.orbital_energies`)."""

NUM_SHARES = 4
"""Shares of an atom in the frontier orbitals (`Record.orbital_shares`)."""

OrbitalMethod = Literal["none", "huckel", "xtb"]

ORBITAL_THEORIES: dict[OrbitalMethod, str] = {"huckel": "extended Hückel theory", "xtb": "GFN1-xTB"}
"""What the methods for frontier orbitals are called."""


def orbital_method(value: Any) -> Any:
    """The method by its name; older files say only whether there are orbitals, and theirs are those of Hückel."""
    return {True: "huckel", False: "none"}[value] if isinstance(value, bool) else value


@dataclass
class RawMolecule:
    """One input row before any chemistry: what a reader yields and a worker turns into a `Record`.

    Attributes:
        index: position in the input, from 0, counting unreadable rows too.
        id: identifier given by the input, else the index as text.
        text: SMILES or mol block.
        kind: what `text` is: "smiles" or "mol"; "xyz" for rows without bonds, see `io.xyz.RawStructure`.
        columns: the row's other fields, passed through to the output.
        targets: labels, NaN where the row has none.
        reference_numbers: atomic numbers of a reference geometry, or None. (M,)
        reference_positions: that geometry in Angstrom, in its own atom order. (M, 3)
        reference_block: a mol block holding the reference geometry and its bonds, or None.
        split: name of the split this row belongs to, where the input says so.
        problem: why the row could not even be read, else None.
    """

    index: int
    id: str
    text: str
    kind: str = "smiles"
    columns: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)
    reference_numbers: np.ndarray | None = None
    reference_positions: np.ndarray | None = None
    reference_block: str | None = None
    split: str | None = None
    problem: str | None = None


@dataclass
class Record:
    """One molecule or system. N atoms, C conformers, M bonds.

    Attributes:
        id: unique in its dataset.
        atomic_numbers: (N,) uint8; None for particles.
        positions: (C, N, 3) float32, Angstrom (N-body: benchmark units).
        conformer_source: (C,) uint8, numbers into `CONFORMER_SOURCES`.
        smiles: canonical, for the kept atoms; None without.
        target_positions: (N, 3) float32, reference or relaxed geometry in the atom order of `positions`.
        velocities, forces: (N, 3) float32.
        cell, pbc: (3, 3) float32, rows are lattice vectors; (3,) bool.
        tags, fixed: (N,) int8 and bool, OC20 meaning.
        particle_charges: (N,) int8, particles only.
        atom_features: (N, 9) uint8, see `ATOM_FEATURE_SIZES`.
        bond_index: (2, M) int16, each bond in both directions.
        bond_features: (M, 3) uint8, see `BOND_FEATURE_SIZES`.
        orbital_energies: (8,) float32, eV, and
        orbital_shares: (N, 4) float32: frontier orbitals of the first conformer, see
            `chem.orbitals.FrontierOrbitals`, of the N atoms kept; NaN where that gives none.
        targets: label by name, NaN where unlabelled.
    """

    id: str
    positions: np.ndarray
    conformer_source: np.ndarray
    atomic_numbers: np.ndarray | None = None
    smiles: str | None = None
    target_positions: np.ndarray | None = None
    velocities: np.ndarray | None = None
    forces: np.ndarray | None = None
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None
    tags: np.ndarray | None = None
    fixed: np.ndarray | None = None
    particle_charges: np.ndarray | None = None
    atom_features: np.ndarray | None = None
    bond_index: np.ndarray | None = None
    bond_features: np.ndarray | None = None
    orbital_energies: np.ndarray | None = None
    orbital_shares: np.ndarray | None = None
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def num_atoms(self) -> int:
        return int(self.positions.shape[1])

    @property
    def num_conformers(self) -> int:
        return int(self.positions.shape[0])


@dataclass
class Batch:
    """B systems padded to N atoms.

    Attributes:
        positions: (B, N, 3) float32; zero at padding.
        mask: (B, N) bool, True at real atoms.
        atomic_numbers: (B, N) int64, 0 at padding; None for particles.
        index: (B,) int64, row of the system in its dataset or input.
        atom_features: (B, N, 9) int64.
        bond_type: (B, N, N) int64: 0 no bond, else 1 + the bond's features as one mixed-radix number.
        shortest_path: (B, N, N) int64: bonds between two atoms, 0 on the diagonal; `MAX_PATH` and beyond share one
            value, unconnected pairs have the next.
        orbital_energies, orbital_shares: (B, 8) and (B, N, 4) float32, NaN where unknown.
        particle_charges: (B, N) float32.
        velocities, forces: (B, N, 3) float32.
        tags, fixed: (B, N) int64 and bool.
        targets: (B,) float32 by name, NaN where unlabelled.
        target_positions: (B, N, 3) float32, NaN for systems without.
        copies: (B, N) bool, True at periodic images that stand as atoms of their own; None without any.
        pairs: (2, E) int64, places (row * N + atom) of both atoms of every pair within a cutoff, an atom with itself
            included, one entry for each periodic copy of the second; None where they were not looked for.
        pair_shifts: (E, 3) float32, lattice vector from the second atom to that copy, Angstrom.
    """

    positions: Tensor
    mask: Tensor
    index: Tensor
    atomic_numbers: Tensor | None = None
    atom_features: Tensor | None = None
    bond_type: Tensor | None = None
    shortest_path: Tensor | None = None
    orbital_energies: Tensor | None = None
    orbital_shares: Tensor | None = None
    particle_charges: Tensor | None = None
    velocities: Tensor | None = None
    forces: Tensor | None = None
    tags: Tensor | None = None
    fixed: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    target_positions: Tensor | None = None
    copies: Tensor | None = None
    pairs: Tensor | None = None
    pair_shifts: Tensor | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Moves all tensors to `device` and floating-point ones to `dtype`."""
        # Only a copy to the GPU may be under way when this returns: one from it would be read too early.
        ahead = device is not None and str(device).startswith("cuda")

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if dtype is not None and tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=kind, non_blocking=ahead)

        return self._mapped(move)

    def pin_memory(self) -> Batch:
        """Copies all tensors to memory that a GPU can fetch by itself; a `DataLoader` calls this by name."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def apply(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: change(tensor) for name, tensor in value.items()}
            return None if value is None else change(value)

        return Batch(**{item.name: apply(getattr(self, item.name)) for item in fields(self)})

    @property
    def own(self) -> Tensor:
        """(B, N) bool: real atoms of the system itself, neither padding nor periodic images."""
        return self.mask if self.copies is None else self.mask & ~self.copies

    @property
    def num_systems(self) -> int:
        return int(self.positions.shape[0])
