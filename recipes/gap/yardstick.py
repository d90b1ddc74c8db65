"""Compares gap models with chemprop, trained on the same rows and tested on the same molecules.

    python recipes/gap/yardstick.py table --data data/prepared/gap-alone --test data/prepared/gap-pcqm4mv2-valid \
        --out runs/chemprop/rows.csv
    python recipes/gap/yardstick.py compare runs/chemprop/rows.csv runs/chemprop/model/model_0/test_predictions.csv \
        evaluations/gap-alone-1/test_gap.csv
    python recipes/gap/yardstick.py electrons data/samples/pcqm4mv2_valid.csv evaluations/gap-alone-1/test_gap.csv

`table` writes the SMILES, labels and splits that chemprop reads, of the rows that have a label, and with
`--orbitals FILE.npz` the energies of frontier orbitals as descriptors of each molecule, scaled as our networks read
them. `compare` prints the errors of both and the paired bootstrap interval of their difference, for every evaluation
named (what `geomformer evaluate --out` writes), and for the mean of their predictions if there are several.
`electrons` prints the errors of evaluations by whether a row's SMILES is that of a closed shell as it is written,
becomes one when electrons are paired, or keeps unpaired ones, and of all rows but those that pairing shows to be
molecules of the training data.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Set
from pathlib import Path

import numpy as np
import torch
from build_data import flat_key
from rdkit import Chem, RDLogger

from geomformer.chem.radicals import num_unpaired, paired
from geomformer.evaluation.metrics import bootstrap_interval, paired_bootstrap_interval
from geomformer.models.network import scaled_energies
from geomformer.prepared.dataset import PreparedDataset

TARGET = "gap"
SPLITS = {"train": "train", "valid": "val", "test": "test"}
"""Our names of splits, and chemprop's."""


def write_table(data: Path, test: Path, out: Path, orbitals: Path | None) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    energies: list[np.ndarray] = []
    with out.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "smiles", TARGET, "split"])
        for split, folder in (("train", data), ("valid", data), ("test", test)):
            rows = PreparedDataset(folder).split(split)
            for record in (rows[row] for row in range(len(rows))):
                if not np.isnan(record.targets[TARGET]):
                    writer.writerow([record.id, record.smiles, record.targets[TARGET], SPLITS[split]])
                    energies.append(record.orbital_energies)
    if orbitals and any(energy is None for energy in energies):
        raise SystemExit(f"{data} or {test} holds no frontier orbitals: prepare them again with build_data.py")
    if orbitals:
        scaled = scaled_energies(torch.from_numpy(np.array(energies)), PreparedDataset(data).orbitals)
        np.savez(orbitals, scaled.nan_to_num(0.0).numpy())


def read_column(path: Path, key: str, value: str) -> dict[str, float]:
    with path.open(newline="", encoding="utf8") as file:
        return {row[key]: float(row[value]) for row in csv.DictReader(file)}


def test_labels(table: Path) -> dict[str, tuple[str, float]]:
    """SMILES and label of every test molecule, by its id."""
    with table.open(newline="", encoding="utf8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == SPLITS["test"]]
    return {row["id"]: (row["smiles"], float(row[TARGET])) for row in rows}


def compare(table: Path, chemprop: Path, evaluations: list[Path]) -> None:
    labels = test_labels(table)
    by_smiles = read_column(chemprop, "smiles", TARGET)
    theirs = np.array([by_smiles[smiles] - label for smiles, label in labels.values()])
    print_row("chemprop", theirs, "")
    found = {}
    for path in evaluations:
        ours = read_column(path, "id", f"pred_{TARGET}_ev")
        found[path.parent.name] = np.array([ours[name] - label for name, (_, label) in labels.items()])
    if len(found) > 1:
        found["mean of their predictions"] = np.mean(list(found.values()), axis=0)
    for name, errors in found.items():
        low, high = paired_bootstrap_interval(errors, theirs, seed=0)
        print_row(name, errors, f"{low:+.4f} to {high:+.4f}")


def print_row(name: str, errors: np.ndarray, difference: str) -> None:
    low, high = bootstrap_interval(errors, seed=0)
    print(f"| {name} | {len(errors)} | {np.abs(errors).mean():.4f} | {low:.4f} to {high:.4f} | {difference} |")


def by_electrons(written: Path, evaluations: list[Path]) -> None:
    with written.open(newline="", encoding="utf8") as file:
        smiles = {row["idx"]: row["smiles"] for row in csv.DictReader(file)}
    trained = np.load(Path(__file__).parent / "training_molecules.npy")
    groups = {name: electrons(Chem.MolFromSmiles(text)) for name, text in smiles.items()}
    known = {name for name, text in smiles.items() if flat_key(text) in trained}
    for path in evaluations:
        labels, ours = (read_column(path, "id", key) for key in (f"{TARGET}_ev", f"pred_{TARGET}_ev"))
        errors = {name: ours[name] - label for name, label in labels.items()}
        for group in dict.fromkeys(groups.values()):
            print_row(f"{path.parent.name}: {group}", select(errors, {n for n in errors if groups[n] == group}), "")
        print_row(f"{path.parent.name}: all but training molecules", select(errors, errors.keys() - known), "")


def select(errors: dict[str, float], names: Set[str]) -> np.ndarray:
    return np.array([error for name, error in errors.items() if name in names])


def electrons(mol: Chem.Mol) -> str:
    if not num_unpaired(mol):
        return "closed shells as written"
    return "unpaired electrons left" if num_unpaired(paired(mol)) else "closed shells by pairing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser("table")
    table.add_argument("--data", type=Path, required=True, help="prepared dataset with train and valid splits")
    table.add_argument("--test", type=Path, required=True, help="prepared dataset with a test split")
    table.add_argument("--out", type=Path, required=True)
    table.add_argument("--orbitals", type=Path, help="file for the energies of frontier orbitals")
    comparison = verbs.add_parser("compare")
    comparison.add_argument("table", type=Path)
    comparison.add_argument("chemprop", type=Path, help="its test_predictions.csv")
    comparison.add_argument("evaluations", type=Path, nargs="+")
    groups = verbs.add_parser("electrons")
    groups.add_argument("written", type=Path, help="CSV with the columns idx and smiles")
    groups.add_argument("evaluations", type=Path, nargs="+")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    if arguments.verb == "table":
        write_table(arguments.data, arguments.test, arguments.out, arguments.orbitals)
    elif arguments.verb == "electrons":
        by_electrons(arguments.written, arguments.evaluations)
    else:
        compare(arguments.table, arguments.chemprop, arguments.evaluations)


if __name__ == "__main__":
    main()
