"""Writes QM9 molecules in the raw layout of Molecule3D, whose own files have to be fetched by hand.

    python recipes/molecule3d/build_data.py RAW --out data/raw/molecule3d-qm9

RAW holds `qm9/qm9.parquet` (source and licence: data/cards/README.md). Written are one SDF with all hydrogens
and the DFT geometry (Angstrom) and `properties.csv` (eV), so that `geomformer preprocess molecule3d` reads them as it
reads the original, and divides them by the published procedures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, RDLogger
from tqdm import tqdm

from geomformer.chem.molecules import canonicalise, read_molecule, with_hydrogens
from geomformer.chem.reference import reference_matches
from geomformer.errors import MoleculeError
from geomformer.records import RawMolecule

SEED = 20240721
COLUMNS = ["gdb_id", "smiles", "atomic_numbers", "positions", "homo_ev", "lumo_ev", "gap_ev"]
HEADER = "cid,dipole x,dipole y,dipole z,homo,lumo,homolumogap,scf energy\n"


def mol_block(row: dict[str, Any]) -> str | None:
    """Returns the mol block of a molecule with its DFT geometry, or None where geometry and SMILES do not agree."""
    raw = RawMolecule(
        index=0,
        id=str(row["gdb_id"]),
        text=str(row["smiles"]),
        reference_numbers=np.array(row["atomic_numbers"], np.uint8),
        reference_positions=np.array(row["positions"], np.float64).reshape(-1, 3),
    )
    try:
        canonical = canonicalise(read_molecule(raw))
        mol = with_hydrogens(canonical)
    except MoleculeError:
        return None
    found = reference_matches(raw, canonical, mol, np.arange(mol.GetNumAtoms())[None], 1)
    if found is None:
        return None
    positions, matches = found
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions[matches[0]]))
    mol.RemoveAllConformers()
    mol.AddConformer(conformer)
    mol.SetProp("_Name", raw.id)
    return str(Chem.MolToMolBlock(mol))


def molecules(table: pa.Table) -> Iterator[tuple[str, str]]:
    """Yields mol block and line of properties, in random order."""
    for place in np.random.default_rng(SEED).permutation(table.num_rows).tolist():
        (row,) = table.slice(place, 1).to_pylist()
        block = mol_block(row)
        if block is not None:
            yield block, f"{row['gdb_id']},,,,{row['homo_ev']},{row['lumo_ev']},{row['gap_ev']},\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--molecules", type=int, default=50_000)
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    table = pq.read_table(arguments.raw / "qm9" / "qm9.parquet", columns=COLUMNS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        (arguments.out / f"combined_mols_0_to_{arguments.molecules}.sdf").open("w", encoding="utf8") as sdf,
        (arguments.out / "properties.csv").open("w", encoding="utf8") as properties,
    ):
        properties.write(HEADER)
        # The range ends first, so that no molecule is built in vain.
        wanted = tqdm(range(arguments.molecules), unit="molecule")
        for _, (block, line) in zip(wanted, molecules(table), strict=False):
            sdf.write(f"{block}$$$$\n")
            properties.write(line)


if __name__ == "__main__":
    main()
