"""Orbitals by GFN1-xTB, a self-consistent tight-binding theory: ten times the cost of extended Hückel theory, and gaps
that follow those of density functional theory far more closely.

Source: Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017). Program: tblite.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from geomformer.chem.huckel import BOHR
from geomformer.errors import ConfigError

HARTREE = 27.211386245988
"""eV."""
ACCURACY = 10.0
"""Of the self-consistency, in units of tblite: orbital energies are then within some 0.002 eV of the converged ones."""


def is_installed() -> bool:
    """Whether the package that GFN1-xTB takes is there."""
    return importlib.util.find_spec("tblite") is not None


def check_installed() -> None:
    """Raises ConfigError without tblite."""
    if not is_installed():
        raise ConfigError(
            "Orbitals of GFN1-xTB take the package tblite, which is not installed.",
            "Install it: python -m pip install tblite, or conda install -c conda-forge tblite-python.",
        )


def solve(numbers: np.ndarray, positions: np.ndarray, charge: int = 0) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Iterates H(q) c = E S c until the charges q stay as they are.

    Electrons are paired as far as their number allows.

    Args:
        numbers: atomic numbers, hydrogens included. (N,)
        positions: (N, 3), Angstrom.
        charge: of the molecule, in e.

    Returns:
        as `huckel.solve`; None for elements beyond radon and where the charges do not settle.
    """
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError  # late: an extra
    from tblite.interface import Calculator

    unpaired = int(numbers.sum() - charge) % 2
    try:
        calculator = Calculator("GFN1-xTB", numbers, positions / BOHR, charge=float(charge), uhf=unpaired)
        for key, value in (("verbosity", 0), ("accuracy", ACCURACY), ("save-integrals", 1)):
            calculator.set(key, value)
        found = calculator.singlepoint()
    except (TBLiteRuntimeError, TBLiteValueError):
        return None
    coefficients = found.get("orbital-coefficients")
    atoms_O = calculator.get("shell-map")[calculator.get("orbital-map")]
    first = np.searchsorted(atoms_O, np.arange(len(numbers)))
    populations_NO = np.add.reduceat(coefficients * (found.get("overlap-matrix") @ coefficients), first, axis=0)
    occupied = round(float(found.get("orbital-occupations").sum())) // 2
    return found.get("orbital-energies") * HARTREE, populations_NO, occupied
