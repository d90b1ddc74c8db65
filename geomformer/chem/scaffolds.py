"""Bemis-Murcko scaffolds: the rings of a molecule and what links them."""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from geomformer.chem.molecules import captured_log, read_smiles
from geomformer.errors import MoleculeError


def murcko_scaffold(molecule: str | Chem.Mol) -> str:
    """Returns the SMILES of a molecule's Bemis-Murcko scaffold, without chirality; "" for a molecule without rings.

    Explicit hydrogens make no difference.

    Args:
        molecule: a SMILES, or a sanitised molecule.

    Raises:
        MoleculeError: `unparsable` for a SMILES that cannot be read, `failed` where RDKit finds no scaffold.
    """
    mol = read_smiles(molecule) if isinstance(molecule, str) else molecule
    with captured_log():
        try:
            return str(MurckoScaffold.MurckoScaffoldSmiles(mol=mol, includeChirality=False))
        except (ValueError, RuntimeError) as error:  # sanitising the cut-out scaffold
            raise MoleculeError("failed", f"RDKit finds no scaffold: {error}") from error
