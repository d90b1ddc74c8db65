"""From an input row to a record: parsing, conformers, features and the reference geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from rdkit import Chem

from geomformer.chem.alignment import best_permutation
from geomformer.chem.conformers import Conformers, generate, source_number
from geomformer.chem.features import atom_features, bond_features
from geomformer.chem.mirror import REFLECTION, places_of, representative
from geomformer.chem.molecules import (
    MAX_COORDINATE,
    CanonicalMolecule,
    canonicalise,
    has_geometry,
    read_molecule,
    sound,
    with_hydrogens,
)
from geomformer.chem.orbitals import FrontierOrbitals, frontier_orbitals, unknown_orbitals
from geomformer.chem.reference import reference_matches
from geomformer.chem.symmetry import automorphisms
from geomformer.errors import ConfigError, MoleculeError
from geomformer.records import OrbitalMethod, RawMolecule, Record


@dataclass(frozen=True)
class ChemistryOptions:
    """What a record is made of. All effort is bounded by counts, never by the clock, so that results can be repeated.

    Attributes:
        num_conformers: conformers per molecule.
        hydrogens: keep all hydrogens; otherwise only those that a SMILES must write.
        geometry: "generate" conformers, or take the 3D coordinates of the mol block: "input", or "dft" to say that they
            are optimised ones.
        features: compute 2D atom and bond features.
        orbitals: with them, frontier orbitals: "huckel", by extended Hückel theory, "xtb", by GFN1-xTB, or "none".
        max_atoms: the most kept atoms a molecule may have.
        max_embed_attempts: embedding attempts per conformer on each rung of the ladder.
        max_optimiser_steps: force-field iterations per conformer.
        max_symmetry_matches: symmetry-equivalent atom orders looked at per molecule.

    Raises:
        ConfigError: a count is below 1, `geometry` or `orbitals` is none of these.
    """

    num_conformers: int = 8
    hydrogens: bool = False
    geometry: Literal["generate", "input", "dft"] = "generate"
    features: bool = True
    orbitals: OrbitalMethod = "huckel"
    max_atoms: int = 256
    max_embed_attempts: int = 30
    max_optimiser_steps: int = 200
    max_symmetry_matches: int = 1000

    def __post_init__(self) -> None:
        if self.geometry not in ("generate", "input", "dft"):
            raise ConfigError(f"geometry is 'generate', 'input' or 'dft', found {self.geometry!r}.")
        if self.orbitals not in get_args(OrbitalMethod):
            raise ConfigError(f"orbitals are 'none', 'huckel' or 'xtb', found {self.orbitals!r}.")
        for name in (
            "num_conformers",
            "max_atoms",
            "max_embed_attempts",
            "max_optimiser_steps",
            "max_symmetry_matches",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")


def build(raw: RawMolecule, options: ChemistryOptions) -> Record | MoleculeError:
    """Like `build_record`, for worker processes: returns the error instead of raising it, whatever went wrong."""
    try:
        return build_record(raw, options)
    except MoleculeError as error:
        return error
    except (MemoryError, ConfigError):
        raise
    except Exception as error:  # noqa: BLE001 - RDKit raises many types; one molecule must never stop a run
        return MoleculeError("failed", f"RDKit could not process this molecule: {type(error).__name__}: {error}")


def build_record(raw: RawMolecule, options: ChemistryOptions) -> Record:
    """Turns one input row into a record whose atoms stand in the order of its canonical SMILES.

    The same molecule gives the same conformers, however it is written, and its mirror image gives their reflections.

    Raises:
        MoleculeError: with status unparsable, no_geometry, too_large or failed.
    """
    source = read_molecule(raw)
    if options.geometry != "generate" and not (raw.kind == "mol" and has_geometry(source)):
        raise MoleculeError("no_geometry", f"A mol block with 3D coordinates is needed, found {_instead(raw, source)}.")
    # Before it is rewritten too: that takes a stack as deep as the molecule is long, and RDKit crashes without one.
    _check_size(sum(atom.GetAtomicNum() > 1 for atom in source.GetAtoms()), options, "heavy atoms")
    canonical = canonicalise(source)
    _check_canonical_size(canonical, options)
    full = with_hydrogens(canonical)
    kept = full if options.hydrogens else canonical.mol
    image = representative(canonical)
    image_full = with_hydrogens(image)
    places = places_of(full, image_full, image.order)
    image_kept = image_full if options.hydrogens else image.mol
    atoms = atom_features(image_kept)[places[: kept.GetNumAtoms()]]
    if options.geometry == "generate":
        limits = (options.max_embed_attempts, options.max_optimiser_steps)
        conformers = generate(image_full, image_kept, image.smiles, options.num_conformers, *limits)
        conformers = _as_in(canonical, image, conformers, places)
    else:
        conformers = _given(source, canonical, kept, options)
    positions, target = _ordered(raw, canonical, kept, atoms, conformers.positions[:, : len(atoms)], options)
    record = Record(
        id=raw.id,
        positions=positions,
        conformer_source=conformers.source,
        atomic_numbers=atoms[:, 0] + np.uint8(1),
        smiles=canonical.smiles,
        target_positions=target,
        targets=dict(raw.targets),
    )
    if options.features:
        record.atom_features = atoms
        record.bond_index, record.bond_features = bond_features(image_kept)
        record.bond_index = np.argsort(places)[record.bond_index].astype(record.bond_index.dtype)
    if options.features and options.orbitals != "none":
        orbitals = _orbitals(kept, conformers, options.orbitals)
        record.orbital_energies, record.orbital_shares = orbitals.energies, orbitals.shares
    return record


def _instead(raw: RawMolecule, source: Chem.Mol) -> str:
    """What a row holds that has no geometry."""
    if raw.kind != "mol":
        return "a SMILES"
    if source.GetNumConformers() and not sound(source.GetConformer().GetPositions()):
        return f"coordinates that are no numbers or beyond {MAX_COORDINATE:g} Angstrom"
    return "a drawing without a third dimension"


def _check_canonical_size(canonical: CanonicalMolecule, options: ChemistryOptions) -> None:
    size = canonical.mol.GetNumAtoms()
    if options.hydrogens:
        size += sum(atom.GetTotalNumHs() for atom in canonical.mol.GetAtoms())
    _check_size(size, options, "atoms" if options.hydrogens else "heavy atoms")


def _check_size(size: int, options: ChemistryOptions, kind: str) -> None:
    if size > options.max_atoms:
        raise MoleculeError("too_large", f"The molecule has {size} {kind}; the limit is {options.max_atoms}.")


def _as_in(
    canonical: CanonicalMolecule, image: CanonicalMolecule, conformers: Conformers, places: np.ndarray
) -> Conformers:
    """Conformers of the molecule from those of what stands for it: atoms in its order, reflected where it is the other
    of two mirror images.
    """
    positions = conformers.positions[:, places[: conformers.positions.shape[1]]]
    reflected = image.smiles != canonical.smiles
    return Conformers(positions * REFLECTION if reflected else positions, conformers.source)


def _given(source: Chem.Mol, canonical: CanonicalMolecule, kept: Chem.Mol, options: ChemistryOptions) -> Conformers:
    positions = _given_positions(source, canonical, kept)
    label = "dft" if options.geometry == "dft" else "given"
    return Conformers(positions[None], np.array([source_number(label)], dtype=np.uint8))


def _given_positions(source: Chem.Mol, canonical: CanonicalMolecule, kept: Chem.Mol) -> np.ndarray:
    """Coordinates of the mol block of the kept atoms, then of the other hydrogens. Those that it leaves out are placed
    on their atoms. (M, 3)
    """
    full = Chem.AddHs(source, addCoords=True)
    heavy = canonical.order.tolist()
    chosen = list(heavy)
    taken = set(chosen)
    for atom in list(kept.GetAtoms())[len(heavy) :]:
        parent = full.GetAtomWithIdx(heavy[atom.GetNeighbors()[0].GetIdx()])
        free = (n.GetIdx() for n in parent.GetNeighbors() if n.GetAtomicNum() == 1 and n.GetIdx() not in taken)
        index = next(free, None)
        if index is None:
            raise MoleculeError("failed", "The hydrogens of the mol block do not fit the molecule it describes.")
        chosen.append(index)
        taken.add(index)
    chosen += [a.GetIdx() for a in full.GetAtoms() if a.GetAtomicNum() == 1 and a.GetIdx() not in taken]
    return np.array(full.GetConformer().GetPositions())[chosen]


def _orbitals(kept: Chem.Mol, conformers: Conformers, method: OrbitalMethod) -> FrontierOrbitals:
    """Frontier orbitals of the first conformer, the shares those of the N kept atoms; unknown for a flat drawing."""
    numbers = np.array([atom.GetAtomicNum() for atom in kept.GetAtoms()])
    positions = conformers.positions[0]
    if conformers.source[0] == source_number("flat_2d"):
        return unknown_orbitals(len(numbers))
    hydrogens = np.ones(len(positions) - len(numbers), int)
    every = np.concatenate([numbers, hydrogens])
    orbitals = frontier_orbitals(every, positions, Chem.GetFormalCharge(kept), method)
    return FrontierOrbitals(orbitals.energies, orbitals.shares[: len(numbers)])


def _ordered(
    raw: RawMolecule,
    canonical: CanonicalMolecule,
    kept: Chem.Mol,
    atoms: np.ndarray,
    positions: np.ndarray,
    options: ChemistryOptions,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Exchanges equivalent atoms so that all conformers and the reference agree in which is which.

    Returns:
        conformers (C, N, 3) and the reference geometry (N, 3) or None; float32, each centred.
    """
    target = None
    referenced = raw.reference_block is not None or raw.reference_numbers is not None
    if referenced or len(positions) > 1:
        limit = options.max_symmetry_matches
        symmetries = automorphisms(kept, atoms, limit)
        found = reference_matches(raw, canonical, kept, symmetries, limit) if referenced else None
        if found is not None:
            reference, matches = found
            target = reference[best_permutation(reference, positions[0], matches)]
        anchor = positions[0] if target is None else target
        rest = [conformer[best_permutation(conformer, anchor, symmetries)] for conformer in positions[1:]]
        positions = np.stack([positions[0], *rest])
    return _centred(positions), None if target is None else _centred(target)


def _centred(positions: np.ndarray) -> np.ndarray:
    return (positions - positions.mean(axis=-2, keepdims=True)).astype(np.float32)
