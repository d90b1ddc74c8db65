"""How well the gaps of cheap theories follow the labels of PCQM4Mv2, and how much of that hangs on the geometry.

    python recipes/gap/theories.py RAW --molecules 400

RAW holds `pcqm4mv2/pcqm4mv2_train_first1800.sdf` (data/cards/README.md). Every theory is asked at the DFT geometry,
and GFN1-xTB also at the first conformer that `preprocess` generates, as it is and after some steps of `chem.relaxation`
or of ASE's LBFGS on its own energy. Prints the correlation of each gap with the label, and the mean absolute error of
the line fitted through both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.optimize import LBFGS
from rdkit import Chem, RDLogger
from tblite.ase import TBLite

from geomformer.chem import xtb
from geomformer.chem.build import ChemistryOptions, build_record
from geomformer.chem.orbitals import frontier_orbitals
from geomformer.records import NUM_ORBITALS, OrbitalMethod, RawMolecule

Geometry = tuple[np.ndarray, np.ndarray]
"""Atomic numbers (N,) and positions (N, 3), Angstrom."""


def dft(mol: Chem.Mol) -> Geometry:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]), mol.GetConformer().GetPositions()


def conformer(mol: Chem.Mol) -> Geometry:
    raw = RawMolecule(0, "0", Chem.MolToMolBlock(mol), kind="mol")
    record = build_record(raw, ChemistryOptions(num_conformers=1, hydrogens=True, orbitals="none"))
    return record.atomic_numbers, record.positions[0]


def lbfgs(mol: Chem.Mol) -> Geometry:
    numbers, positions = conformer(mol)
    atoms = Atoms(numbers, positions, calculator=TBLite(method="GFN1-xTB", verbosity=0))
    LBFGS(atoms, logfile=None).run(fmax=0.0, steps=10)
    return numbers, atoms.get_positions()


GEOMETRIES: dict[str, tuple[Callable[[Chem.Mol], Geometry], int]] = {
    "DFT": (dft, 0),
    "conformer": (conformer, 0),
    **{f"conformer, {steps} steps": (conformer, steps) for steps in (1, 2, 4, 8, 16, 32)},
    "conformer, 10 steps of LBFGS": (lbfgs, 0),
}
"""What makes a geometry, and the steps of `chem.relaxation` from there."""


def gap(geometry: Geometry, method: OrbitalMethod) -> float:
    """Lowest unoccupied minus highest occupied orbital, eV; NaN where there is none."""
    energies = frontier_orbitals(*geometry, 0, method).energies
    return float(energies[NUM_ORBITALS] - energies[NUM_ORBITALS - 1])


def row(theory: str, geometry: str, molecules: list[Chem.Mol], labels: np.ndarray) -> str:
    method: OrbitalMethod = "huckel"
    if "xTB" in theory:
        method, xtb.METHOD = "xtb", theory
    make, xtb.RELAXATION_STEPS = GEOMETRIES[geometry]
    start = time.perf_counter()
    found = np.array([gap(make(mol), method) for mol in molecules])
    each = 1000 * (time.perf_counter() - start) / len(molecules)
    known = np.isfinite(found)
    line = np.polyfit(found[known], labels[known], 1)
    error = np.abs(np.polyval(line, found[known]) - labels[known]).mean()
    correlation = np.corrcoef(found[known], labels[known])[0, 1]
    return f"| {theory} | {geometry} | {known.sum()} | {correlation:.3f} | {error:.3f} | {each:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--molecules", type=int, default=400)
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    sdf = arguments.raw / "pcqm4mv2" / "pcqm4mv2_train_first1800.sdf"
    molecules = [mol for mol in Chem.SDMolSupplier(str(sdf), removeHs=False) if mol is not None]
    # Neutral closed shells, so that a relaxation needs to be told of neither.
    molecules = [mol for mol in molecules if not any(a.GetNumRadicalElectrons() for a in mol.GetAtoms())]
    molecules = [mol for mol in molecules if Chem.GetFormalCharge(mol) == 0][: arguments.molecules]
    labels = np.array([float(mol.GetProp("homolumogap")) for mol in molecules])
    print("| theory | geometry | molecules | correlation | MAE of a line, eV | ms |\n|---|---|---|---|---|---|")
    for theory in ("extended Hückel", "GFN2-xTB", "IPEA1-xTB", "GFN1-xTB"):
        print(row(theory, "DFT", molecules, labels), flush=True)
    for geometry in list(GEOMETRIES)[1:]:
        print(row("GFN1-xTB", geometry, molecules, labels), flush=True)


if __name__ == "__main__":
    main()
