from __future__ import annotations

import torch

from geomformer.models.network import ORBITAL_LIMIT, ORBITAL_STATISTICS, scaled_energies

HOMO = 3
MOLECULE = torch.tensor([[-12.6, -12.1, -11.8, -11.4, -7.9, -6.7, -6.1, -5.0]])


def test_energies_of_a_usual_molecule_are_of_order_one() -> None:
    for method in ORBITAL_STATISTICS:
        scaled = scaled_energies(MOLECULE - (0.0 if method == "xtb" else 0.5), method)
        assert scaled.abs().max() < 2


def test_the_charge_of_a_molecule_moves_the_middle_of_its_gap_only() -> None:
    """A dianion's orbitals lie several eV higher: were they taken as they are, all would be cut off at the limit."""
    neutral, charged = scaled_energies(MOLECULE, "xtb"), scaled_energies(MOLECULE + 6.5, "xtb")
    others = [column for column in range(8) if column != HOMO]
    torch.testing.assert_close(charged[:, others], neutral[:, others], atol=1e-5, rtol=0)
    assert charged[0, HOMO] == ORBITAL_LIMIT and neutral[0, HOMO].abs() < 1


def test_orbitals_that_a_molecule_lacks_stay_unknown() -> None:
    nan = float("nan")
    hydrogen = torch.tensor([[nan, nan, nan, -14.5, -2.5, -2.0, 9.9, nan], [nan] * 8])
    known = [[False, False, False, True, True, True, True, False], [False] * 8]
    for method in ORBITAL_STATISTICS:
        assert scaled_energies(hydrogen, method).isfinite().tolist() == known
