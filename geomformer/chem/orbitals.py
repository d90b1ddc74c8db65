"""Frontier orbitals: what conjugation does to a gap, by theories far cheaper than that of the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geomformer.chem import huckel, xtb
from geomformer.chem.conformers import usable
from geomformer.records import NUM_ORBITALS, NUM_SHARES, OrbitalMethod

COLLAPSED = 0.3
"""Angstrom: with nuclei this close there are no orbitals."""
TEMPERATURES = (0.2, 1.0)
"""eV: how fast orbitals below the highest occupied and above the lowest unoccupied one fade from an atom's shares."""
SAME_LEVEL = 1e-3
"""eV within which orbitals count as degenerate."""


@dataclass(frozen=True)
class FrontierOrbitals:
    """Orbitals around the gap of a molecule of N atoms.

    Attributes:
        energies: of the `NUM_ORBITALS` highest occupied and as many lowest unoccupied orbitals, ascending, eV; NaN for
            those that the molecule does not have. (2 NUM_ORBITALS,) float32
        shares: how much of the highest occupied, then of the lowest unoccupied orbitals lies on each atom, at each of
            the `TEMPERATURES`: Mulliken populations, weighted by exp(-|E - E_frontier| / T); each column sums to 1 over
            all atoms, hydrogens included. Whole levels only, so that it does not matter how degenerate orbitals are
            mixed. (N, NUM_SHARES) float32
    """

    energies: np.ndarray
    shares: np.ndarray


def unknown_orbitals(num_atoms: int) -> FrontierOrbitals:
    """What stands for the orbitals of a molecule that has no geometry or no parameters: NaN."""
    return FrontierOrbitals(
        np.full(2 * NUM_ORBITALS, np.nan, np.float32), np.full((num_atoms, NUM_SHARES), np.nan, np.float32)
    )


def frontier_orbitals(
    numbers: np.ndarray, positions: np.ndarray, charge: int = 0, method: OrbitalMethod = "huckel"
) -> FrontierOrbitals:
    """Finds the orbitals around the gap.

    All is NaN where the method has no answer (`huckel.solve`, `xtb.solve`), where two atoms lie on top of each other,
    and where no orbital is occupied or none is free. A half-filled orbital counts as free.

    Args:
        numbers: atomic numbers, hydrogens included. (N,)
        positions: (N, 3), Angstrom.
        charge: of the molecule, in e.
        method: "huckel", extended Hückel theory, or "xtb", GFN1-xTB.
    """
    result = unknown_orbitals(len(numbers))
    solve = {"huckel": huckel.solve, "xtb": xtb.solve}[method]
    found = solve(numbers, positions, charge) if usable(positions, COLLAPSED) else None
    if found is None:
        return result
    levels, populations_NO, occupied = found
    if not 0 < occupied < len(levels):
        return result
    known = levels[max(occupied - NUM_ORBITALS, 0) : occupied + NUM_ORBITALS]
    start = max(NUM_ORBITALS - occupied, 0)
    result.energies[start : start + len(known)] = known
    highest, lowest = levels[occupied - 1], levels[occupied]
    columns = []
    for edge, side in ((highest, levels < highest + SAME_LEVEL), (lowest, levels > lowest - SAME_LEVEL)):
        for temperature in TEMPERATURES:
            weights_O = np.exp(-np.abs(levels - edge) / temperature) * side
            columns.append(populations_NO @ (weights_O / weights_O.sum()))
    result.shares[:] = np.stack(columns, axis=1)
    # The last digits depend on the threads of the linear algebra.
    return FrontierOrbitals(result.energies.round(3), result.shares.round(4))
