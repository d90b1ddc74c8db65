"""Scaffolds: what is ring and linker, and what makes no difference."""

from __future__ import annotations

import pytest
from rdkit import Chem

from geomformer.chem.scaffolds import murcko_scaffold
from geomformer.errors import MoleculeError


@pytest.mark.parametrize(
    ("smiles", "scaffold"),
    [
        ("CCO", ""),
        ("Cc1ccccc1", "c1ccccc1"),
        ("C[C@H](N)Cc1ccccc1", "c1ccccc1"),
        ("O=C1CCCCC1C", "O=C1CCCCC1"),
        ("O=C(Nc1ccccc1)c1cc[nH]c1C", "O=C(Nc1ccccc1)c1cc[nH]c1"),
        ("C[C@H]1CC[C@@H](Br)N1", "C1CCNC1"),
    ],
)
def test_scaffold_is_rings_and_linkers_without_chirality(smiles: str, scaffold: str) -> None:
    assert murcko_scaffold(smiles) == scaffold
    assert murcko_scaffold(Chem.AddHs(Chem.MolFromSmiles(smiles))) == scaffold


def test_unreadable_smiles_is_refused() -> None:
    with pytest.raises(MoleculeError, match="cannot be read"):
        murcko_scaffold("C1CC")
