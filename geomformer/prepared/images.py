"""Periodic copies of atoms: which lie near which atom, and which stand as atoms of their own near an adsorbate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from geomformer.config.network import NetworkConfig
from geomformer.errors import DataError
from geomformer.prepared.gathered import Gathered

ADSORBATE = 2
"""The tag of adsorbate atoms."""

PER_SYSTEM = ("cell", "pbc", "bond_index", "bond_features", "orbital_energies")
"""List columns that do not run along atoms."""

AROUND = 8
"""Cells around a cell of a slab."""

MAX_PAIRS_PER_ATOM = 2000
"""Near copies of an atom on average; a dense metal has 150 within 8 Angstrom."""

MAX_COPIES = 2**22
"""Copies that one search looks at: a cell with a vanishing height would otherwise ask for all memory."""


@dataclass(frozen=True)
class ImageOptions:
    """How a model reads periodic systems.

    Attributes:
        pair_cutoff: Angstrom, up to which near pairs are listed; None for a model that reads none.
        token_cutoff: Angstrom from the adsorbate, within which images become atoms; None for none.
        max_tokens: atoms and images kept of a system, those nearest the adsorbate; None for all.
    """

    pair_cutoff: float | None = None
    token_cutoff: float | None = None
    max_tokens: int | None = None

    @classmethod
    def of(cls, config: NetworkConfig, *, training: bool = False) -> ImageOptions | None:
        """What the configuration asks for; None where it reads neither pairs nor images."""
        if config.pair_cutoff is None and config.token_cutoff is None:
            return None
        return cls(config.pair_cutoff, config.token_cutoff, config.token_limit if training else None)


def near_pairs(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | None, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists all pairs of an atom and a copy of an atom closer than a cutoff, an atom with itself among them.

    Any cell, lattice basis and combination of periodic directions; positions anywhere, inside the cell or not.

    Args:
        positions: (N, 3), Angstrom.
        cell: rows are lattice vectors; None for a molecule. (3, 3)
        pbc: periodic directions. (3,)
        cutoff: Angstrom.

    Returns:
        query, key: atoms, ordered by query. (E,) int64
        shift: lattice vector that moves the key to its copy, in the type of the positions. (E, 3)

    Raises:
        DataError: the cell has no volume, or is so flat that the copies within the cutoff do not fit into memory.
    """
    from scipy.spatial import cKDTree

    lattice, axes = np.eye(3), np.zeros(3, bool)
    if cell is not None and pbc is not None and pbc.any():
        lattice, axes = complete_cell(cell, pbc), np.asarray(pbc, bool)
    inverse = np.linalg.inv(lattice)
    fractions = np.asarray(positions, np.float64) @ inverse
    wraps = np.where(axes, np.floor(fractions), 0.0)
    fractions = fractions - wraps
    reach = cutoff * np.linalg.norm(inverse, axis=0)  # cutoff / height, by lattice direction
    most = np.where(axes, np.floor(reach) + 1, 0)
    if np.prod(2.0 * most + 1.0) * len(positions) > MAX_COPIES:
        raise DataError(
            f"Within {cutoff:g} Angstrom lie too many periodic copies of {len(positions)} atoms: the cell repeats "
            f"every {np.array2string(cutoff / reach, precision=2)} Angstrom.",
            "Check the cell, or lower model.neighbour_cutoff.",
        )
    steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in most], indexing="ij"), -1).reshape(-1, 3)
    copies = fractions[None] + steps[:, None]
    low, high = fractions.min(0) - reach, fractions.max(0) + reach
    step, atom = np.nonzero(((copies >= low) & (copies <= high)).all(-1))
    home, around = cKDTree(fractions @ lattice), cKDTree(copies[step, atom] @ lattice)
    if home.count_neighbors(around, cutoff) > MAX_PAIRS_PER_ATOM * len(positions):
        raise DataError(
            f"Expected at most {MAX_PAIRS_PER_ATOM} copies of atoms within {cutoff:g} Angstrom of an atom, found more.",
            "Check the cell and the unit of the positions: atoms overlap.",
        )
    found = home.sparse_distance_matrix(around, cutoff, output_type="ndarray")
    found = found[found["v"] < cutoff]
    found = found[np.lexsort((found["j"], found["i"]))]
    query, copy = found["i"], found["j"]
    key = atom[copy]
    shift = (steps[step[copy]] - wraps[key] + wraps[query]) @ lattice
    return query, key, shift.astype(positions.dtype)


def pairs_of(systems: Gathered, cutoff: float, *, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Near pairs of all systems, each padded to the largest: what `Batch.pairs` and `Batch.pair_shifts` hold.

    Args:
        systems: with `cell` and `pbc` among their fields, or without.
        cutoff: Angstrom.
        periodic: False leaves cells out of account.
    """
    width = int(systems.num_atoms.max())
    found = []
    for row, (atoms, cell, pbc) in enumerate(cells_of(systems)):
        edges = near_pairs(systems.positions[atoms], *((cell, pbc) if periodic else (None, None)), cutoff)
        found.append((edges[0] + row * width, edges[1] + row * width, edges[2]))
    query, key, shift = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return np.stack([query, key]), shift


def cells_of(systems: Gathered) -> Iterator[tuple[slice, np.ndarray | None, np.ndarray | None]]:
    """Yields where the atoms of every system lie, its cell and its periodic directions, None for a molecule.

    Raises:
        DataError: some of the systems have a cell and others do not.
    """
    if "cell" in systems.lacking:
        raise DataError(f"Expected a cell in all systems of a batch or in none; '{systems.lacking['cell']}' has none.")
    cells, pbc = systems.fields.get("cell"), systems.fields.get("pbc")
    for row, atoms in enumerate(systems.atom_slices):
        known = cells is not None and pbc is not None
        yield atoms, cells[row] if known else None, pbc[row] if known else None  # type: ignore[index]


def with_copies(systems: Gathered, images: ImageOptions) -> tuple[Gathered, np.ndarray]:
    """Adds the images near the adsorbate behind the atoms of every system, and crops to `max_tokens`.

    Returns:
        the systems with their images.
        copies: True at images. (A',)
    """
    sources, shifts, copies, counts = [], [], [], []
    for atoms, cell, pbc in cells_of(systems):
        kept, parent, shift = tokens(systems.positions[atoms], cell, pbc, systems.fields["tags"][atoms], images)
        sources.append(atoms.start + np.concatenate([kept, parent]))
        shifts.append(np.concatenate([np.zeros((len(kept), 3), shift.dtype), shift]))
        copies.append(np.repeat([False, True], [len(kept), len(parent)]))
        counts.append(len(kept) + len(parent))
    source, shift = np.concatenate(sources), np.concatenate(shifts)
    total = len(systems.positions)
    expanded = replace(
        systems,
        num_atoms=np.array(counts, np.int64),
        positions=systems.positions[source] + shift,
        target_positions=None if systems.target_positions is None else systems.target_positions[source] + shift,
        fields={
            name: value[source] if len(value) == total and name not in PER_SYSTEM else value
            for name, value in systems.fields.items()
        },
    )
    return expanded, np.concatenate(copies)


def tokens(
    positions: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | None, tags: np.ndarray, images: ImageOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chooses what a model reads of one system: its atoms, and images of them.

    Of a system with more than `max_tokens` all atoms that may move are kept, and of the others and the images those
    nearest to the adsorbate (Uni-Mol+ draws them with probabilities that fall with the distance).

    Returns:
        kept: own atoms. (K,) int64
        parent, shift: of the images. (M,) int64, (M, 3)
    """
    kept, parent, shift = np.arange(len(positions)), np.zeros(0, np.int64), np.zeros((0, 3), positions.dtype)
    if images.token_cutoff is not None and cell is not None and pbc is not None:
        parent, shift = copies_near_adsorbate(positions, cell, pbc, tags, images.token_cutoff)
    if images.max_tokens is None or len(kept) + len(parent) <= images.max_tokens:
        return kept, parent, shift
    frozen, moving = np.flatnonzero(tags == 0), np.flatnonzero(tags != 0)
    candidates = np.concatenate([positions[frozen], positions[parent] + shift])
    order = np.argsort(distance_to_adsorbate(candidates, positions, tags), kind="stable")
    chosen = np.sort(order[: max(0, images.max_tokens - len(moving))])
    near = chosen[chosen >= len(frozen)] - len(frozen)
    return np.sort(np.concatenate([moving, frozen[chosen[chosen < len(frozen)]]])), parent[near], shift[near]


def complete_cell(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The cell with directions that are not periodic replaced by unit vectors across the others. (3, 3) float64

    Raises:
        DataError: the periodic directions are not independent.
    """
    lattice = np.array(cell, np.float64)
    kept = lattice[pbc]
    if len(kept) < 3:  # the left out rows of a full basis span what is orthogonal to the kept ones
        lattice[~pbc] = np.linalg.svd(kept)[2][len(kept) :]
    if abs(np.linalg.det(lattice)) < 1e-6:
        raise DataError("Expected independent lattice vectors in the periodic directions of the cell, found none.")
    return lattice


def most_tokens(num_atoms: np.ndarray, images: ImageOptions | None) -> np.ndarray:
    """Upper bound of the atoms of systems in a batch, their images included. (R,)"""
    if images is None or images.token_cutoff is None:
        return num_atoms
    most = num_atoms.astype(np.int64) * (1 + AROUND)
    # Atoms that may move are kept whatever their number, so that the bound is not below the atoms of the system.
    return most if images.max_tokens is None else np.minimum(most, np.maximum(images.max_tokens, num_atoms))


def copies_near_adsorbate(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, tags: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the images that Graphormer-3D reads as atoms: copies in the eight cells around, along the first two
    lattice vectors, of atoms that are no adsorbate, closer than a cutoff to any adsorbate atom.

    Returns:
        parent: atoms copied. (M,) int64
        shift: lattice vector of each copy. (M, 3)
    """
    x, y = (np.arange(-1, 2) if periodic else np.zeros(1, np.int64) for periodic in pbc[:2])
    steps = np.stack(np.meshgrid(x, y, [0], indexing="ij"), -1).reshape(-1, 3)
    shifts = (steps[steps.any(1)] @ np.asarray(cell, np.float64)).astype(positions.dtype)
    near = distance_to_adsorbate(positions[None] + shifts[:, None], positions, tags) < cutoff
    step, parent = np.nonzero(near & (tags != ADSORBATE))
    return parent, shifts[step]


def distance_to_adsorbate(points: np.ndarray, positions: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Distance from points (..., 3) to the nearest adsorbate atom; infinite without any. (...)"""
    adsorbate = positions[tags == ADSORBATE]
    if not len(adsorbate):
        return np.full(points.shape[:-1], np.inf)
    return np.linalg.norm(points[..., None, :] - adsorbate, axis=-1).min(-1)
