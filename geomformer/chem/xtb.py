"""Orbitals by GFN1-xTB, a self-consistent tight-binding theory, at a geometry that it has relaxed a little itself:
dearer than extended Hückel theory, with gaps that follow those of density functional theory far more closely.

Source: Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017). Program: tblite.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from geomformer.chem.huckel import BOHR
from geomformer.chem.relaxation import descend
from geomformer.errors import ConfigError

if TYPE_CHECKING:
    from tblite.interface import Result

METHOD = "GFN1-xTB"
"""As tblite calls it. Gaps of GFN2-xTB follow those of density functional theory less (`recipes/gap/theories.py`)."""
HARTREE = 27.211386245988
"""eV."""
ACCURACY = 100.0
"""Of the self-consistency, in units of tblite: gaps of neutral molecules are then some 0.003 eV from converged ones,
for a quarter less time than at 10."""
RELAXATION_STEPS = 8
"""Gaps hang on bond lengths, of which force fields know little; more steps gain little (`recipes/gap/theories.py`).
Salts and zwitterions are still on their way after them: their gaps hang on where the ions have got to."""
RELAXED_ATOMS = 150
"""Atoms, hydrogens included, up to which there are such steps: each of them costs half of what the orbitals do."""
MAX_ATOMS = 400
"""Atoms, hydrogens included, up to which orbitals are looked for: time grows with the cube, to minutes there."""
MAX_ITERATIONS = 100
"""Of the charges; what has not settled then hardly ever does."""
NOBLE_GAS_CORES = (54, 36, 18, 10, 2, 0)


@functools.cache
def is_installed() -> bool:
    """Whether the package that GFN1-xTB takes is there and can be loaded."""
    try:
        import tblite.interface  # noqa: F401
    except ImportError:
        return False
    return True


def check_installed() -> None:
    """Raises ConfigError without tblite."""
    if not is_installed():
        raise ConfigError(
            "Orbitals of GFN1-xTB take the package tblite, which is not installed or cannot be loaded.",
            "Install it: python -m pip install tblite, or conda install -c conda-forge tblite-python.",
        )


def solve(numbers: np.ndarray, positions: np.ndarray, charge: int = 0) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Iterates H(q) c = E S c until the charges q stay as they are, at the lowest of the geometries on a short descent.

    Electrons are paired as far as their number allows.

    Args:
        numbers: atomic numbers, hydrogens included. (N,)
        positions: where the descent starts. (N, 3), Angstrom.
        charge: of the molecule, in e.

    Returns:
        as `huckel.solve`; None beyond radon, without electrons, for more than `MAX_ATOMS`, and where the charges do
        not settle at the start.

    Raises:
        ConfigError: tblite cannot be loaded.
    """
    check_installed()
    if numbers.min() < 1 or numbers.max() > 86 or len(numbers) > MAX_ATOMS:
        return None
    electrons = sum(valence_electrons(int(number)) for number in numbers) - charge
    if electrons < 1:  # tblite would write beyond its arrays
        return None
    answer = _descended(numbers, positions / BOHR, charge, unpaired=electrons % 2)
    if answer is None:
        return None
    found, atoms_O = answer
    coefficients = found.get("orbital-coefficients")
    first = np.searchsorted(atoms_O, np.arange(len(numbers)))
    populations_NO = np.add.reduceat(coefficients * (found.get("overlap-matrix") @ coefficients), first, axis=0)
    return found.get("orbital-energies") * HARTREE, populations_NO, electrons // 2


def _descended(numbers: np.ndarray, start: np.ndarray, charge: int, unpaired: int) -> tuple[Result, np.ndarray] | None:
    """What tblite says at the lowest of the geometries that it was asked for, and the atom of every orbital (O,)."""
    from tblite.exceptions import TBLiteRuntimeError, TBLiteValueError
    from tblite.interface import Calculator

    answers: list[Result] = []

    def surface(positions: np.ndarray) -> tuple[float, np.ndarray] | None:
        try:
            calculator.update(positions)
            # From the charges of the geometry before, half of the iterations are enough.
            answers.append(calculator.singlepoint(answers[-1] if answers else None, copy=True))
        except (TBLiteRuntimeError, TBLiteValueError):
            return None
        return float(answers[-1].get("energy")), answers[-1].get("gradient")

    try:
        calculator = Calculator(METHOD, numbers, start, charge=float(charge), uhf=unpaired)
    except (TBLiteRuntimeError, TBLiteValueError):
        return None
    settings = {"verbosity": 0, "accuracy": ACCURACY, "max-iter": MAX_ITERATIONS, "save-integrals": 1}
    for key, value in settings.items():
        calculator.set(key, value)
    lowest = descend(surface, numbers, start, RELAXATION_STEPS if len(numbers) <= RELAXED_ATOMS else 0)
    return (answers[lowest], calculator.get("shell-map")[calculator.get("orbital-map")]) if answers else None


def valence_electrons(number: int) -> int:
    """Electrons that GFN1-xTB treats: those beyond the noble gas, without f electrons, and without d electrons from
    zinc, cadmium and mercury on.
    """
    core = next(core for core in NOBLE_GAS_CORES if core < number)
    valence = number - core
    if core in (18, 36):
        return valence if valence <= 11 else valence - 10
    if core == 54 and valence > 3:
        return 3 if valence <= 17 else valence - 14 if valence <= 25 else valence - 24
    return valence
