"""Evaluates a trained gap model on its two test sets and stores it, with its card, among the bundled models.

    python recipes/gap/bundle.py gap-geomformer --data-root data

The hash this prints goes into `geomformer/artifacts/pinned.py`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from rdkit import Chem

from geomformer import api
from geomformer.artifacts.locate import bundled_root
from geomformer.artifacts.manifest import Manifest
from geomformer.artifacts.pinned import pin_of
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.evaluation.metrics import bootstrap_interval
from geomformer.prepared.collate import Sample, collate
from geomformer.records import Batch

TESTS = {
    "gap-pcqm4mv2-valid": ("gap", "PCQM4Mv2 validation, from SMILES"),
    "gap-qm9-test": ("gap_qm9", "QM9 test, from SMILES"),
}
SIZES = ((1, 10), (11, 15), (16, 20), (21, 99))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--models", type=Path, default=None)
    parser.add_argument("--into", type=Path, default=None, help="store; the bundled models by default")
    arguments = parser.parse_args()
    source = load_artifact(arguments.model, api.models_root(arguments.models))
    metrics = dict(source.manifest.metrics)
    sections = {}
    for dataset, (target, title) in TESTS.items():
        with tempfile.TemporaryDirectory() as out:
            summary = api.evaluate(dataset, model=str(source.path), root=arguments.data_root, out=Path(out))
            rows = read_predictions(Path(out) / f"test_{target}.csv")
        errors = np.array([prediction - label for _, label, prediction, _ in rows])
        low, high = bootstrap_interval(np.abs(errors), seed=0)
        metrics[title] = summary["splits"]["test"] | {"mae_95_percent_low": low, "mae_95_percent_high": high}
        if target == "gap":
            spreads = np.array([spread for *_, spread in rows])
            metrics[title]["spread_rank_correlation"] = rank_correlation(spreads, np.abs(errors))
            sections = card_sections(rows, dataset, arguments.data_root)
    artifact = store(source, metrics, sections, arguments.into or bundled_root(), arguments.data_root)
    print(artifact.path)
    print(f'    "{artifact.reference}": "{pin_of(artifact.path)}",')


def read_predictions(path: Path) -> list[tuple[str, float, float, float]]:
    with path.open(newline="", encoding="utf8") as file:
        return [(row[0], float(row[1]), float(row[2]), float(row[3])) for row in list(csv.reader(file))[1:]]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, ties by order."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def card_sections(rows: list[tuple[str, float, float, float]], dataset: str, root: Path | None) -> dict[str, str]:
    """Errors by kind of molecule, and where the model should not be trusted."""
    prepared = api.open_dataset(dataset, root).split("test")
    records = dict(zip(prepared.ids, prepared, strict=True))
    groups: dict[str, list[float]] = {}
    for name, label, prediction, _ in rows:
        record = records[name]
        for group in groups_of(record.smiles, record.num_atoms):
            groups.setdefault(group, []).append(abs(prediction - label))
    lines = ["| molecules | number | MAE, eV |", "|---|---|---|"]
    lines += [f"| {group} | {len(e)} | {np.mean(e):.3f} |" for group, e in sorted(groups.items()) if len(e) >= 20]
    return {
        "Errors by kind of molecule (PCQM4Mv2 validation)": "\n".join(lines),
        "Where not to trust it": (
            "Charged molecules and salts, metals, radicals and molecules of more than about 25 heavy atoms are rare "
            "or absent in the training data; elements seen in fewer than 20 training molecules are refused. The model "
            "sees heavy atoms and the 2D graph: tautomers and protonation states are taken as written, and mirror "
            "images get the same gap. The spread over conformers says how much the answer depends on the geometry, "
            "not how wrong it is."
        ),
    }


def groups_of(smiles: str | None, num_atoms: int) -> list[str]:
    groups = [f"{low} to {high} heavy atoms" for low, high in SIZES if low <= num_atoms <= high]
    mol = Chem.MolFromSmiles(smiles) if smiles else None
    if mol is None:
        return groups
    groups.append("charged atoms" if any(atom.GetFormalCharge() for atom in mol.GetAtoms()) else "no charged atom")
    groups.append(f"{min(mol.GetRingInfo().NumRings(), 3)}{'+' if mol.GetRingInfo().NumRings() >= 3 else ''} rings")
    symbols = {atom.GetSymbol() for atom in mol.GetAtoms()} - {"C", "H", "N", "O"}
    return groups + [f"with {symbol}" for symbol in symbols]


def store(source: Artifact, metrics: dict, sections: dict[str, str], into: Path, root: Path | None) -> Artifact:
    manifest: Manifest = source.manifest
    data = source.config.data.model_copy(update={"dataset": "gap-mixture"})
    return save_artifact(
        into,
        manifest.name,
        source.model(),
        source.config.model_copy(update={"data": data}),
        targets=manifest.targets,
        inputs=manifest.inputs,
        elements=manifest.elements,
        dataset=manifest.dataset,
        training=manifest.training,
        metrics=metrics,
        selftest_batch=selftest_batch(root),
        card=sections,
        weights_dtype="float16",
    )


def selftest_batch(root: Path | None) -> Batch:
    split = api.open_dataset("gap-pcqm4mv2-valid", root).split("test")
    records = [split[row] for row in range(3)]
    return collate([Sample(record, row, record.positions[0]) for row, record in enumerate(records)])


if __name__ == "__main__":
    main()
