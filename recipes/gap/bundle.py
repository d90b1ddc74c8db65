"""Evaluates a trained gap model on the test sets of its levels and stores it, with its card, among the bundled models.

    python recipes/gap/bundle.py gap-geomformer --mixture gap-mixture-third --data-root data
    python recipes/gap/bundle.py gap-geomformer-xtb --mixture gap-alone-xtb --suffix=-xtb
    python recipes/gap/bundle.py gap-geomformer@6

What the model was trained on (`domain.safetensors`) is described from the training rows of the mixture, and expected
errors are fitted to its validation rows; the test sets only measure how good both are. The mixture is named, or given
as a folder. Without one, as in the last line, a bundled model keeps its own and is tested again on the rows of
PCQM4Mv2 alone. The hash that this prints of a bundled model goes into `geomformer/artifacts/pinned.py`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bundle_card import card_sections, rank_correlation

from geomformer import api
from geomformer.artifacts.locate import bundled_root
from geomformer.artifacts.pinned import pin_of
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.evaluation.metrics import bootstrap_interval
from geomformer.inference.domain import OUTSIDE, Domain, describe, read_domain
from geomformer.prepared.collate import Sample, collate
from geomformer.records import ORBITAL_THEORIES, Batch, Record

PCQM4MV2, QM9 = "PCQM4Mv2 validation, from SMILES", "QM9 test, from SMILES"


@dataclass(frozen=True)
class Predictions:
    """Predictions of one target on one split. R rows.

    Attributes:
        metrics: of `api.evaluate`.
        records: the molecules, R of them.
        errors: absolute, in eV. (R,)
        spreads: over conformers and networks. (R,)
    """

    metrics: dict[str, float]
    records: list[Record]
    errors: np.ndarray
    spreads: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--mixture", default=None, help="training data: name or folder; none for a bundled model")
    parser.add_argument("--suffix", default="", help="of the names of the test sets")
    parser.add_argument("--time", default=None, help="what the card says of how long training took, and on what")
    parser.add_argument("--data-root", type=Path, default=None)
    parser.add_argument("--models", type=Path, default=None)
    arguments = parser.parse_args()
    root = arguments.data_root
    source = load_artifact(arguments.model, api.models_root(arguments.models))
    domain = domain_of(source, arguments.mixture, root) if arguments.mixture else own_domain(source)
    metrics: dict[str, Any] = dict(source.manifest.metrics)
    pcqm = predict(source, f"gap-pcqm4mv2-valid{arguments.suffix}", "test", "gap", root)
    metrics[PCQM4MV2] = summary(pcqm, domain) | rank_correlations(pcqm, domain)
    if "gap_qm9" in source.config.task.targets and QM9 not in metrics:
        qm9 = predict(source, f"gap-qm9-test{arguments.suffix}", "test", "gap_qm9", root)
        metrics[QM9] = summary(qm9, domain)
    judged = domain.judge(pcqm.records, pcqm.spreads)
    theory, members = ORBITAL_THEORIES[source.manifest.inputs.orbitals], source.config.model.members
    sections = card_sections(pcqm.records, pcqm.errors, judged, metrics[PCQM4MV2], domain, theory, members)
    if arguments.time:
        sections = {"Time of training": arguments.time, **sections}
    for name, values in metrics.items():
        print(name, values)
    print("\n\n".join(f"{title}\n\n{text}" for title, text in sections.items()))
    artifact = store(source, metrics, sections, domain, bundled_root(), pcqm.records[:3])
    print(artifact.path)
    print(f'    "{artifact.reference}": "{pin_of(artifact.path)}",')


def domain_of(source: Artifact, mixture: str, root: Path | None) -> Domain:
    """Describes the training rows and fits expected errors of `gap` to the validation rows."""
    prepared = api.open_dataset(mixture, root)
    trained = source.manifest.dataset.get("fingerprint")
    if trained != prepared.fingerprint:
        raise SystemExit(f"{source.reference} was trained on {trained}, {mixture} is {prepared.fingerprint}")
    train = prepared.split("train")
    valid = predict(source, mixture, "valid", "gap", root)
    described = describe(train[row] for row in range(len(train)))
    domain = described.fitted(valid.records, valid.spreads, valid.errors)
    print(f"familiar environments: {len(domain.radius_1)} of radius 1, {len(domain.radius_2)} of radius 2")
    print(f"weights {domain.weights.tolist()}, ranges {domain.ranges.tolist()}, {len(domain.to_bytes())} bytes")
    return domain


def own_domain(source: Artifact) -> Domain:
    domain = read_domain(source.path, source.manifest)
    if domain is None:
        raise SystemExit(f"{source.reference} does not know what it was trained on: name it with --mixture")
    return domain


def predict(source: Artifact, dataset: str, split: str, target: str, root: Path | None) -> Predictions:
    with tempfile.TemporaryDirectory() as out:
        found = api.evaluate(dataset, model=str(source.path), splits=[split], root=root, out=Path(out))
        with (Path(out) / f"{split}_{target}.csv").open(newline="", encoding="utf8") as file:
            rows = list(csv.reader(file))[1:]
    prepared = api.open_dataset(dataset, root).split(split)
    position = {name: row for row, name in enumerate(prepared.ids)}
    label, prediction, spread = np.array([row[1:] for row in rows], dtype=float).T
    records = [prepared[position[row[0]]] for row in rows]
    return Predictions(found["splits"][split], records, np.abs(prediction - label), spread)


def summary(found: Predictions, domain: Domain) -> dict[str, float]:
    """Metrics of a test set, with the interval of its error and the errors inside and outside."""
    low, high = bootstrap_interval(found.errors, seed=0)
    values = found.metrics | {"mae_95_percent_low": low, "mae_95_percent_high": high}
    outside = np.array([item.domain == OUTSIDE for item in domain.judge(found.records, found.spreads)])
    for name, rows in (("inside", ~outside), ("outside", outside)):
        values[f"rows_{name}"] = int(rows.sum())
        if rows.any():
            values[f"mae_{name}_ev"] = float(found.errors[rows].mean())
    return values


def rank_correlations(found: Predictions, domain: Domain) -> dict[str, float]:
    """Spearman's rank correlation with the absolute error."""
    expected = [item.expected_error for item in domain.judge(found.records, found.spreads)]
    return {
        "expected_error_rank_correlation": rank_correlation(np.array(expected, dtype=float), found.errors),
        "spread_rank_correlation": rank_correlation(found.spreads, found.errors),
    }


def store(
    source: Artifact,
    metrics: dict[str, Any],
    sections: dict[str, str],
    domain: Domain,
    into: Path,
    examples: list[Record],
) -> Artifact:
    manifest = source.manifest
    data = source.config.data.model_copy(update={"dataset": manifest.dataset["name"]})
    return save_artifact(
        into,
        manifest.name,
        source.model(),
        source.config.model_copy(update={"data": data}),
        **source.facts,
        metrics=metrics,
        selftest_batch=selftest_batch(examples),
        card=sections,
        weights_dtype="float16",
        domain=domain.to_bytes(),
    )


def selftest_batch(examples: list[Record]) -> Batch:
    return collate([Sample(record, row, record.positions[0]) for row, record in enumerate(examples)])


if __name__ == "__main__":
    main()
