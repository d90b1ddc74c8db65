"""The systems of the EMT dataset as they are drawn: which slab, which adsorbate, in which split, and where its atoms
start.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import fcc100, fcc110, fcc111, fcc211, molecule
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, covalent_radii, reference_states

SEED = 20240721

SPLITS = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both", *["train"] * 11)
"""The split of a system is that at its index, over and over: a longer dataset begins with a shorter one."""

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
FACETS = {"fcc111": fcc111, "fcc100": fcc100, "fcc110": fcc110, "fcc211": fcc211}
SIZES = ((2, 2), (2, 3), (3, 3))
SIZES_211 = ((3, 2), (3, 3))
LAYERS = 3

ADSORBATES = {
    **{name: name for name in ("H", "C", "N", "O", "CH", "CN", "CO", "N2", "NH", "NO", "O2", "OH")},
    **{"CH2": "CH2_s1A1d", "NH2": "NH2", "H2O": "H2O", "HCN": "HCN", "CCH": "CCH", "CH3": "CH3", "NH3": "NH3"},
}
"""Names of adsorbates, and of their geometries in ASE's collection."""

MAX_STRAIN = 0.02
RATTLE = 0.2
"""Standard deviation of a coordinate of the slab's free atoms, Angstrom."""
VACUUM = 10.0
CONTACT, CONTACT_NOISE, CONTACT_RANGE = 1.1, 0.08, (1.0, 1.3)
"""Shortest initial distance between adsorbate and slab, by the sum of the covalent radii."""


def held_out_adsorbates() -> frozenset[str]:
    ordered = sorted(ADSORBATES, key=lambda name: (len(molecule(ADSORBATES[name])), name))
    return frozenset(ordered[4::5])


def held_out_compositions() -> frozenset[tuple[str, ...]]:
    pairs = (tuple(sorted((METALS[i], METALS[(i + 2) % len(METALS)]))) for i in range(len(METALS)))
    return frozenset([*pairs, (METALS[len(METALS) // 2],)])


def compositions() -> list[tuple[str, ...]]:
    """All sets of one or two metals, each sorted by name."""
    metals = sorted(METALS)
    return [*((metal,) for metal in metals), *itertools.combinations(metals, 2)]


@dataclass(frozen=True)
class System:
    """What was drawn for one system; where its atoms are follows from `index` alone.

    Attributes:
        index: position in the input, from 0.
        id: readable name.
        split: name of its split.
        adsorbate, facet: keys of `ADSORBATES` and `FACETS`.
        size: surface cells along both lattice vectors.
        elements: one or two, sorted by name.
        fraction: share of the second element among the atoms of the slab.
        strain: of the lattice constant.
    """

    index: int
    id: str
    split: str
    adsorbate: str
    facet: str
    size: tuple[int, int]
    elements: tuple[str, ...]
    fraction: float
    strain: float


def draw_systems(count: int) -> Iterator[System]:
    """Yields the systems of a dataset in order."""
    strange_adsorbates, strange_compositions = held_out_adsorbates(), held_out_compositions()
    for index in range(count):
        split = SPLITS[index % len(SPLITS)]
        rng = np.random.default_rng([SEED, index, 0])
        strange = split in ("val_ood_ads", "val_ood_both")
        adsorbates = [name for name in ADSORBATES if (name in strange_adsorbates) == strange]
        strange = split in ("val_ood_cat", "val_ood_both")
        choices = [elements for elements in compositions() if (elements in strange_compositions) == strange]
        facet = list(FACETS)[rng.integers(len(FACETS))]
        sizes = SIZES_211 if facet == "fcc211" else SIZES
        size = sizes[rng.integers(len(sizes))]
        elements = choices[rng.integers(len(choices))]
        num_atoms = LAYERS * size[0] * size[1]
        others = int(rng.integers(1, num_atoms)) if len(elements) == 2 else 0
        yield System(
            index=index,
            id=f"emt-{index:06d}",
            split=split,
            adsorbate=adsorbates[rng.integers(len(adsorbates))],
            facet=facet,
            size=size,
            elements=elements,
            fraction=others / num_atoms,
            strain=float(rng.uniform(-MAX_STRAIN, MAX_STRAIN)),
        )


def ideal_slab(system: System, rng: np.random.Generator) -> Atoms:
    """Returns the slab with all atoms at ideal sites, tags 0 and 1, and those with tag 0 fixed."""
    first, last = system.elements[0], system.elements[-1]
    constants = [reference_states[atomic_numbers[element]]["a"] for element in (first, last)]
    lattice = float(np.dot([1 - system.fraction, system.fraction], constants)) * (1 + system.strain)
    slab = FACETS[system.facet](first, (*system.size, LAYERS), a=lattice, vacuum=VACUUM)
    others = rng.permutation(len(slab))[: round(system.fraction * len(slab))]
    symbols = np.full(len(slab), first, dtype="U2")
    symbols[others] = last
    slab.set_chemical_symbols(symbols.tolist())
    slab.pbc = True
    # On a stepped surface the lowest third of the atoms is one layer too. Rounding keeps equal heights equal.
    order = np.argsort(slab.positions[:, 2].round(6), kind="stable")
    tags = np.ones(len(slab), int)
    tags[order[: len(slab) // LAYERS]] = 0
    slab.set_tags(tags)
    slab.set_constraint(FixAtoms(mask=tags == 0))
    return slab


def rotation(rng: np.random.Generator) -> np.ndarray:
    """Returns a random rotation, uniform over all. (3, 3)"""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def with_adsorbate(slab: Atoms, adsorbate: Atoms, rng: np.random.Generator) -> Atoms:
    """Lowers the adsorbate, turned at random, above a random place until it touches the slab.

    It touches where a distance to an atom of the slab is the sum of the covalent radii times a drawn factor.
    """
    cell = slab.cell.array
    placed = adsorbate.copy()
    placed.positions = adsorbate.positions @ rotation(rng).T + rng.random(2) @ cell[:2]
    factor = np.clip(rng.normal(CONTACT, CONTACT_NOISE), *CONTACT_RANGE)
    reach = factor * (covalent_radii[placed.numbers][:, None] + covalent_radii[slab.numbers])
    highest = -np.inf
    # Beside the nearest images, those of neighbour cells: the surface cell may be skewed and small.
    for shift in itertools.product((-2, -1, 0, 1, 2), repeat=2):
        offset = placed.positions[:, None, :2] - (slab.positions + np.array(shift) @ cell[:2])[None, :, :2]
        square = reach**2 - np.square(offset).sum(-1)
        touching = square > 0
        rise = slab.positions[None, :, 2] + np.sqrt(np.where(touching, square, 0)) - placed.positions[:, None, 2]
        highest = max(highest, float(rise[touching].max(initial=-np.inf)))
    placed.positions[:, 2] += highest
    placed.set_tags(2)
    together = slab + placed
    together.center(vacuum=VACUUM, axis=2)
    return together
