"""How well cheap theories of orbitals follow the gaps of PCQM4Mv2, at its DFT geometries.

    python recipes/gap/theories.py RAW --molecules 1200

RAW holds `pcqm4mv2/pcqm4mv2_train_first1800.sdf` (data/cards/pcqm4mv2.md). Prints the correlation of each theory's gap
with the label, and the mean absolute error of the line fitted through both.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rdkit import Chem

from geomformer.chem import xtb
from geomformer.chem.orbitals import frontier_orbitals
from geomformer.records import NUM_ORBITALS, OrbitalMethod


def gaps(molecules: list[Chem.Mol], method: OrbitalMethod) -> np.ndarray:
    """Lowest unoccupied minus highest occupied orbital of every molecule, eV; NaN where there is none."""
    found = []
    for mol in molecules:
        numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        charge = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
        energies = frontier_orbitals(numbers, mol.GetConformer().GetPositions(), charge, method).energies
        found.append(energies[NUM_ORBITALS] - energies[NUM_ORBITALS - 1])
    return np.array(found, dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--molecules", type=int, default=1200)
    arguments = parser.parse_args()
    sdf = arguments.raw / "pcqm4mv2" / "pcqm4mv2_train_first1800.sdf"
    supplier = Chem.SDMolSupplier(str(sdf), removeHs=False, sanitize=False)
    molecules = [supplier[row] for row in range(min(arguments.molecules, len(supplier)))]
    labels = np.array([float(mol.GetProp("homolumogap")) for mol in molecules])
    print("| theory | molecules | correlation | MAE of a line, eV | ms per molecule |\n|---|---|---|---|---|")
    for theory in ("extended Hückel", "GFN2-xTB", "IPEA1-xTB", "GFN1-xTB"):
        if "xTB" in theory:
            xtb.METHOD = theory
        start = time.perf_counter()
        found = gaps(molecules, "xtb" if "xTB" in theory else "huckel")
        each = 1000 * (time.perf_counter() - start) / len(molecules)
        known = np.isfinite(found)
        line = np.polyfit(found[known], labels[known], 1)
        error = np.abs(np.polyval(line, found[known]) - labels[known]).mean()
        correlation = np.corrcoef(found[known], labels[known])[0, 1]
        print(f"| {theory} | {known.sum()} | {correlation:.3f} | {error:.3f} | {each:.0f} |")


if __name__ == "__main__":
    main()
