"""3D conformers: distance geometry (ETKDG) and a force field, with weaker rungs for molecules that resist."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers
from rdkit.Geometry import Point3D

from geomformer.errors import MoleculeError
from geomformer.records import CONFORMER_SOURCES

RUNGS = ("etkdg", "etkdg_random", "etkdg_loose")
COINCIDENT = 0.4
"""Two atoms closer than this (Angstrom) mean that a conformer collapsed."""
COINCIDENT_IN_DRAWING = 0.01
"""The same for a flat drawing, where parts of a crowded molecule may overlap."""
FRAGMENT_GAP = 2.5
"""Distance at which separate fragments are set before the force field sees them, Angstrom."""
FRAGMENT_CLASH = 1.2
"""Fragments closer than this after optimisation lie on top of each other, Angstrom."""
_DIRECTIONS = np.array(
    [(x, y, z) for x in (1, 0, -1) for y in (1, 0, -1) for z in (1, 0, -1) if (x, y, z) != (0, 0, 0)], dtype=float
)
_STEP = 0.5


@dataclass(frozen=True)
class Conformers:
    """C conformers of one molecule.

    Attributes:
        positions: (C, M, 3) float64, Angstrom: of the wanted atoms, then of the hydrogens that are not wanted, where
            they have any place.
        source: (C,) uint8, numbers into `records.CONFORMER_SOURCES`.
    """

    positions: np.ndarray
    source: np.ndarray


def source_number(name: str) -> int:
    """Number of a conformer source in `records.CONFORMER_SOURCES`."""
    return CONFORMER_SOURCES.index(name)


def seed_of(smiles: str) -> int:
    """Random seed of a molecule: a stable hash of its canonical SMILES, small enough to be multiplied by RDKit."""
    return (zlib.crc32(smiles.encode()) & 0xFFFFFF) + 1


def generate(
    mol: Chem.Mol, kept: Chem.Mol, smiles: str, count: int, max_embed_attempts: int, max_optimiser_steps: int
) -> Conformers:
    """Generates conformers of a molecule; the same ones for the same arguments.

    The first rung that gives a conformer is used: ETKDG; ETKDG from random coordinates; distance geometry without
    chirality, torsion knowledge or strict distance bounds; a flat drawing.

    Args:
        mol: molecule with explicit hydrogens, which the force field needs.
        kept: the N atoms wanted, the first ones of `mol`; a flat drawing has only these.
        smiles: its canonical SMILES, the source of the seed.
        count: conformers wanted; fewer come back when some fail.
        max_embed_attempts: attempts per conformer and rung.
        max_optimiser_steps: force-field iterations per conformer.

    Raises:
        MoleculeError: `failed`: not even a drawing could be made.
    """
    with rdBase.BlockLogs():
        for rung in RUNGS:
            # Where ETKDG failed the next rungs may fail as well: one conformer tells at an eighth of the effort.
            first_try = count if rung == RUNGS[0] else 1
            found = embed(mol, rung, first_try, seed_of(smiles), max_embed_attempts)
            if found and first_try < count:
                found = embed(mol, rung, count, seed_of(smiles), max_embed_attempts)
            if not found:
                continue
            positions = _optimised(mol, max_optimiser_steps)
            if len(positions):
                return Conformers(positions, np.full(len(positions), source_number(rung), dtype=np.uint8))
        positions = draw(kept)
    if not usable(positions, COINCIDENT_IN_DRAWING):
        raise MoleculeError("failed", "No geometry could be made for this molecule, not even a flat drawing.")
    return Conformers(positions[None], np.array([source_number("flat_2d")], dtype=np.uint8))


def embed(mol: Chem.Mol, rung: str, count: int, seed: int, max_attempts: int) -> int:
    """Embeds up to `count` conformers on one rung of the ladder; returns how many `mol` now holds."""
    try:
        return len(rdDistGeom.EmbedMultipleConfs(mol, count, _parameters(rung, seed, max_attempts)))
    except (RuntimeError, ValueError):
        mol.RemoveAllConformers()
        return 0


def draw(mol: Chem.Mol) -> np.ndarray:
    """Coordinates of a flat drawing. (N, 3), Angstrom, z = 0."""
    rdDepictor.Compute2DCoords(mol)
    return np.array(mol.GetConformer().GetPositions())


def usable(positions: np.ndarray, coincident: float = COINCIDENT) -> bool:
    """Whether all coordinates (N, 3) are finite and no two atoms are closer than `coincident` (Angstrom)."""
    if not np.isfinite(positions).all():
        return False
    if len(positions) == 1:
        return True
    delta = positions[:, None] - positions[None]
    squares = np.einsum("ijk,ijk->ij", delta, delta)
    np.fill_diagonal(squares, np.inf)
    return bool(squares.min() > coincident**2)


def _parameters(rung: str, seed: int, max_attempts: int) -> rdDistGeom.EmbedParameters:
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.numThreads = 1
    parameters.maxIterations = max_attempts
    if rung in ("etkdg_random", "etkdg_loose"):
        parameters.useRandomCoords = True
    if rung == "etkdg_loose":
        parameters.enforceChirality = False
        parameters.useExpTorsionAnglePrefs = False
        parameters.useMacrocycleTorsions = False
        parameters.useBasicKnowledge = False
        parameters.ignoreSmoothingFailures = True
    return parameters


def _optimised(mol: Chem.Mol, steps: int) -> np.ndarray:
    """Relaxes all conformers of `mol` and returns the usable ones. (C, N, 3)"""
    fragments = [np.array(atoms) for atoms in Chem.GetMolFrags(mol)]
    if len(fragments) > 1:
        _separate_all(mol, fragments, FRAGMENT_GAP)
    before = _positions(mol)
    _relax(mol, steps, together=len(fragments) > 1)
    if len(fragments) > 1:
        _separate_all(mol, fragments, FRAGMENT_CLASH)
    chosen = []
    for after, original in zip(_positions(mol), before, strict=True):
        # A force field without good parameters can tear a molecule apart: then the embedded geometry is the better one.
        if usable(after):
            chosen.append(after)
        elif usable(original):
            chosen.append(original)
    return np.array(chosen)


def _relax(mol: Chem.Mol, steps: int, together: bool) -> None:
    """MMFF94, else UFF, else nothing. `together`: fragments feel each other."""
    options: dict[str, Any] = {"numThreads": 1, "maxIters": steps, "ignoreInterfragInteractions": not together}
    try:
        results = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, **options)
        if any(status >= 0 for status, _ in results):
            return
        if rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, **options)
    except (RuntimeError, ValueError):
        # Force fields refuse unusual atoms by exception; the embedded geometry stays.
        return


def _positions(mol: Chem.Mol) -> list[np.ndarray]:
    return [np.array(conformer.GetPositions()) for conformer in mol.GetConformers()]


def _separate_all(mol: Chem.Mol, fragments: list[np.ndarray], gap: float) -> None:
    for conformer in mol.GetConformers():
        positions = np.array(conformer.GetPositions())
        if np.isfinite(positions).all() and separate(positions, fragments, gap):
            for index, (x, y, z) in enumerate(positions.tolist()):
                conformer.SetAtomPosition(index, Point3D(x, y, z))


def separate(positions: np.ndarray, fragments: list[np.ndarray], gap: float) -> bool:
    """Shifts fragments, in place, until none has an atom closer than `gap` (Angstrom) to another fragment.

    The largest fragment stays; each other one that is too close is set at `gap` in the direction in which it stays
    nearest. Embedding treats fragments one by one and leaves them all at the origin.

    Returns:
        Whether anything moved.
    """
    ordered = sorted(fragments, key=len, reverse=True)
    placed = positions[ordered[0]]
    moved = False
    for atoms in ordered[1:]:
        if _closest(positions[atoms], placed) < gap:
            positions[atoms] += _shift(positions[atoms], placed, gap)
            moved = True
        placed = np.concatenate([placed, positions[atoms]])
    return moved


def _shift(fragment: np.ndarray, placed: np.ndarray, gap: float) -> np.ndarray:
    """The shortest shift along one of 26 directions after which the fragment keeps the gap. (3,)"""
    reach = np.linalg.norm(np.ptp(np.concatenate([fragment, placed]), axis=0)) + gap
    unit = _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=1, keepdims=True)
    for length in np.arange(_STEP, 2 * reach + _STEP, _STEP):
        for direction in unit:
            if _closest(fragment + length * direction, placed) >= gap:
                return length * direction
    return 2 * reach * unit[0]


def _closest(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(((first[:, None] - second[None]) ** 2).sum(-1).min()))
