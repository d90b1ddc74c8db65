"""Units. Inside the library energies are eV and lengths Angstrom; only readers and writers convert.

Source: CODATA 2018.
"""

from __future__ import annotations

HARTREE_IN_EV = 27.211386245988
KCAL_PER_MOL_IN_EV = 0.0433641153087705

EV_PER = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE_IN_EV,
    "kcal_mol": KCAL_PER_MOL_IN_EV,
    "kj_mol": KCAL_PER_MOL_IN_EV / 4.184,
}
"""Energy units by the suffix used in column names (`gap_ev`, `energy_kcal_mol`): how many eV one is."""


def unit_of(column: str) -> str | None:
    """Returns the energy unit that a column name ends with (`gap_hartree` -> `hartree`), or None."""
    return next((unit for unit in EV_PER if column.lower().endswith("_" + unit)), None)


_PRINTED = {
    "ev": "eV",
    "ev2": "eV^2",
    "mev": "meV",
    "percent": "%",
    "kcal_mol": "kcal/mol",
    "kcal_mol_angstrom": "kcal/mol/Angstrom",
    "ev_angstrom": "eV/Angstrom",
    "mev_angstrom": "meV/Angstrom",
    "angstrom": "Angstrom",
}


def unit_label(unit: str) -> str:
    """A unit as it is printed: `ev` -> eV."""
    return _PRINTED.get(unit, unit)
