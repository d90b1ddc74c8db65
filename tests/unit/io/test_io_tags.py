"""Which atoms are the adsorbate: what the rule finds, and what it refuses to guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule, surface
from ase.constraints import FixAtoms

from geomformer.errors import ConfigError, MoleculeError
from geomformer.io.atoms import read_structures
from geomformer.io.structures import fixed_atoms
from geomformer.io.tags import parse_atoms, tag_atoms

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "oc20" / "relaxations.extxyz"


def slab(layers: int = 3, adsorbate: str | Atoms = "CO", fixed: bool = True) -> Atoms:
    atoms = fcc111("Pt", (2, 2, layers), vacuum=8.0)
    add_adsorbate(atoms, molecule(adsorbate) if isinstance(adsorbate, str) else adsorbate, 2.0, "ontop")
    atoms.pbc = True
    if fixed:
        atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.positions[:, 2] < atoms.positions[:, 2].min() + 1.0)))
    atoms.set_tags(0)
    return atoms


def tags_of(atoms: Atoms, **options: Any) -> np.ndarray:
    own = atoms.get_tags() if atoms.has("tags") else None
    fixed = fixed_atoms(atoms)
    return tag_atoms(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, fixed, own, **options)


def test_fixed_atoms_surface_and_adsorbate() -> None:
    assert tags_of(slab()).tolist() == [0] * 4 + [1] * 8 + [2] * 2
    assert tags_of(slab(fixed=False)).tolist() == [1] * 12 + [2] * 2


def test_the_rule_agrees_with_oc20() -> None:
    for item in read_structures(SAMPLE):
        atoms = item.atoms
        assert atoms is not None
        known = atoms.get_tags()
        assert tags_of(atoms).tolist() == known.tolist()
        del atoms.arrays["tags"]
        assert tags_of(atoms).tolist() == known.tolist()


@pytest.mark.parametrize("shift", [-9.0, 3.0, 8.5, 14.0])
def test_where_the_cell_begins_and_the_side_change_nothing(shift: float) -> None:
    expected = tags_of(slab()).tolist()
    atoms = slab()
    atoms.positions[:, 2] += shift
    assert tags_of(atoms).tolist() == expected
    atoms.wrap()
    assert tags_of(atoms).tolist() == expected
    atoms.positions[:, 2] *= -1
    assert tags_of(atoms).tolist() == expected
    atoms = Atoms(
        atoms.numbers, atoms.positions[:, [2, 0, 1]], cell=atoms.cell.array[[2, 0, 1]][:, [2, 0, 1]], pbc=True
    )
    assert (tags_of(atoms) == 2).tolist() == [tag == 2 for tag in expected]


def test_numbers_of_layers_are_no_tags() -> None:
    for layers in (2, 3, 4):
        built = fcc111("Pt", (2, 2, layers), vacuum=8.0)
        add_adsorbate(built, molecule("CO"), 2.0, "ontop")
        assert set(built.get_tags()) == set(range(layers + 1))
        built.pbc = True
        assert (tags_of(built) == 2).tolist() == [False] * 4 * layers + [True] * 2


def test_tags_of_the_file_count() -> None:
    atoms = slab()
    own = [0] * 8 + [1] * 4 + [2] * 2
    atoms.set_tags(own)
    assert tags_of(atoms).tolist() == own
    assert tags_of(atoms, adsorbate=(11, 12)).tolist() == [0] * 8 + [1] * 3 + [2, 2, 1]
    atoms.set_tags([0] * 8 + [1] * 6)
    with pytest.raises(MoleculeError, match="no adsorbate: no atom has tag 2"):
        tags_of(atoms)


def test_the_adsorbate_that_is_named() -> None:
    assert tags_of(slab(), adsorbate=(0,)).tolist() == [2] + [0] * 3 + [1] * 10
    with pytest.raises(MoleculeError, match="atoms 13, 14, counted from 0; the structure has 14 atoms"):
        tags_of(slab(), adsorbate=(13, 14))
    with pytest.raises(MoleculeError, match="no slab"):
        tags_of(slab(), adsorbate=range(14))


def rutile() -> Atoms:
    cell = [4.6, 4.6, 2.96]
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.3, 0.3, 0), (0.7, 0.7, 0), (0.2, 0.8, 0.5), (0.8, 0.2, 0.5)]
    return surface(
        Atoms("Ti2O4", scaled_positions=places, cell=cell, pbc=True), (1, 1, 0), 3, vacuum=8.0, periodic=True
    )


def nitride(fixed: bool) -> Atoms:
    atoms = surface(bulk("TiN", "rocksalt", 4.24), (1, 0, 0), 4, vacuum=8.0, periodic=True)
    if fixed:
        atoms.set_constraint(FixAtoms([atom.index for atom in atoms if atom.symbol == "Ti"][:2]))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (fcc111("Pt", (2, 2, 3), vacuum=8.0, periodic=True), "no adsorbate"),
        (Atoms("CO", cell=[9, 9, 9], pbc=True, positions=[[0, 0, 0], [0, 0, 1.1]]), "no slab"),
        (rutile() * (2, 1, 1), "nonmetal atoms, more than an adsorbate of up to 11"),
        (nitride(fixed=False), "lie below the outermost metal atoms"),
        (nitride(fixed=True), "lie below the fixed atoms"),
        (bulk("TiN", "rocksalt", 4.24), "no lattice direction holds 5 Angstrom of vacuum"),
    ],
)
def test_what_cannot_be_told_is_refused(atoms: Atoms, said: str) -> None:
    atoms.set_tags(0)
    with pytest.raises(MoleculeError, match=said) as refused:
        tags_of(atoms)
    assert refused.value.status == "wrong_input_kind"
    if "no adsorbate" not in said and "no slab" not in said:
        assert "--adsorbate" in str(refused.value)


def test_fixed_nonmetals_belong_to_the_slab() -> None:
    atoms = slab()
    atoms.set_constraint(FixAtoms([12]))
    with pytest.raises(MoleculeError, match="nonmetal atoms are fixed"):
        tags_of(atoms)


def test_directions_without_copies() -> None:
    atoms = slab()
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] += 100.0
    assert tags_of(atoms).tolist() == tags_of(slab()).tolist()
    atoms.pbc = (True, False, False)
    with pytest.raises(MoleculeError, match="--adsorbate"):
        tags_of(atoms)


def test_numbers_of_atoms() -> None:
    assert parse_atoms("36,37") == (36, 37)
    assert parse_atoms("3-5, 9,4") == (3, 4, 5, 9)
    for text in ("", "a", "5-3", "1,,2", "-1", "1-", "1.5"):
        with pytest.raises(ConfigError, match="counted from 0, such as 36,37 or 36-38"):
            parse_atoms(text)
