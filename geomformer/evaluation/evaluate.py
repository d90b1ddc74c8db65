"""`evaluate`: a model on the labelled splits of a prepared dataset."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomformer.artifacts.manifest import Manifest
from geomformer.errors import ArtifactError, DataError
from geomformer.evaluation.metrics import TargetMetrics, metric_key
from geomformer.evaluation.plots import error_plot, parity_plot
from geomformer.files import check_writable, write_atomic
from geomformer.inference.averaging import predict_records
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks.base import has_reference
from geomformer.units import unit_label

METRICS = ("mae", "rmse", "mse")
SINGLE = "mae_single_conformer"

Progress = Callable[[int, int | None], None]


@dataclass
class SplitResult:
    """Predictions of one target on one split; rows without a label are left out.

    Attributes:
        ids: of the rows.
        label, prediction, spread, single: (R,) float64, in the target's unit; `single` is the first conformer alone.
    """

    ids: list[str]
    label: np.ndarray
    prediction: np.ndarray
    spread: np.ndarray
    single: np.ndarray


def evaluate_dataset(
    predictor: Predictor,
    dataset: PreparedDataset,
    *,
    splits: Sequence[str] = (),
    out: Path | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates on every split that is asked for (by default all labelled ones but "train").

    Args:
        predictor: the model, ready to run.
        dataset: prepared with labels of at least one of the model's targets.
        splits: names.
        out: folder for metrics.json, predictions and plots; None writes nothing.
        limit: only the first rows of each split.
        progress: called with the rows done and their number.

    Returns:
        {"model", "dataset", "rows", "splits": {split: {metric: value}}, "average": {metric: value}}; the average is
        the plain mean over splits. With "split_scheme" where the dataset has several.

    Raises:
        DataError: no such split, or no label of any target.
        ArtifactError: the dataset is not what the model was trained to read.
    """
    check_inputs(predictor.manifest, dataset)
    if out is not None:
        check_writable(out)
    names = list(splits) or default_splits(predictor, dataset)
    counts = {name: min(limit or rows, rows) for name, rows in dataset.splits.items()}
    total, done = sum(counts.get(name, 0) for name in names), 0
    summary: dict[str, Any] = {
        "model": predictor.manifest.reference,
        "dataset": str(dataset.manifest.get("dataset", dataset.path.name)),
        "rows": {name: counts.get(name, 0) for name in names},
        "splits": {},
    }
    if dataset.scheme is not None:
        summary["split_scheme"] = dataset.scheme
    for name in names:
        split = dataset.split(name)
        check_records(predictor.manifest, dataset, split)

        def advance(rows: int, before: int = done) -> None:
            if progress is not None:
                progress(before + rows, total)

        results = predict_split(predictor, split, counts[name], advance)
        done += counts[name]
        summary["splits"][name] = {
            key: value
            for target, result in results.items()
            for key, value in metrics(predictor, target, result).items()
        }
        if out is not None:
            write_split(predictor, out, name, results)
    summary["average"] = average(summary["splits"].values())
    if out is not None:
        write_atomic(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    return summary


def default_splits(predictor: Predictor, dataset: PreparedDataset) -> list[str]:
    """The splits that have labels, without "train" if there are others; all where none has labels."""
    labelled = [name for name in dataset.splits if labels_of(predictor, dataset.split(name))]
    return [name for name in labelled if name != "train"] or labelled or list(dataset.splits)


def labels_of(predictor: Predictor, split: PreparedSplit) -> dict[str, np.ndarray]:
    """Labels (R,) of the targets that the model predicts and the split has, NaN where a row has none."""
    labels = {target: split.target(target) for target in predictor.task.targets if target in split.target_names}
    return {target: values for target, values in labels.items() if not np.isnan(values).all()}


def predict_split(
    predictor: Predictor, split: PreparedSplit, rows: int, advance: Callable[[int], None]
) -> dict[str, SplitResult]:
    """Predicts the first `rows` rows and collects what is labelled, by target."""
    labels = {target: values[:rows] for target, values in labels_of(predictor, split).items()}
    targets = [target for target, values in labels.items() if not np.isnan(values).all()]
    if not targets:
        raise DataError(
            f"The first {rows} rows of split '{split.name}' have no label of {', '.join(predictor.task.targets)}; "
            f"the dataset's targets are {', '.join(split.target_names) or 'none'}.",
            "Prepare the dataset with the target the model predicts.",
        )
    found = {target: np.full((3, rows), np.nan) for target in targets}
    records = ((row, split[row]) for row in range(rows))
    for prediction in predict_records(predictor.model, predictor.task, records, predictor.settings):
        for target in targets:
            values = prediction.values[target]
            found[target][:, prediction.index] = values.mean(), values.std(), values[0]
        advance(prediction.index + 1)
    ids = split.ids[:rows]
    results = {}
    for target in targets:
        known = np.flatnonzero(~np.isnan(labels[target]))
        mean, spread, single = found[target][:, known]
        results[target] = SplitResult([ids[row] for row in known], labels[target][known], mean, spread, single)
    return results


def metrics(predictor: Predictor, target: str, result: SplitResult) -> dict[str, float]:
    """Metrics of one target by their keys, `<target>_<metric>_<unit>`."""
    unit = predictor.manifest.target(target).unit
    accumulator = TargetMetrics()
    accumulator.update(result.prediction, result.label)
    values = accumulator.compute()
    found = {metric_key(target, metric, unit): float(values[metric]) for metric in METRICS}
    return found | {metric_key(target, SINGLE, unit): float(np.abs(result.single - result.label).mean())}


def write_split(predictor: Predictor, out: Path, split: str, results: dict[str, SplitResult]) -> None:
    """Predictions as CSV, parity and error plots as PNG."""
    for target, result in results.items():
        unit = predictor.manifest.target(target).unit
        stem = f"{split}_{target}"
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(["id", f"{target}_{unit}", f"pred_{target}_{unit}", f"spread_{target}_{unit}"])
        writer.writerows(zip(result.ids, result.label, result.prediction, result.spread, strict=True))
        write_atomic(out / f"{stem}.csv", table.getvalue())
        label = f"{target.replace('_', ' ')}, {split}"
        parity_plot(out / f"{stem}_parity.png", result.prediction, result.label, label, unit_label(unit))
        error_plot(out / f"{stem}_error.png", result.prediction - result.label, label, unit_label(unit))


def average(splits: Iterable[dict[str, float]]) -> dict[str, float]:
    """Plain mean over splits of the metrics that all of them have."""
    values = list(splits)
    shared = [key for key in values[0] if all(key in other for other in values)]
    return {key: float(np.mean([value[key] for value in values])) for key in shared}


def check_inputs(manifest: Manifest, dataset: PreparedDataset) -> None:
    """Refuses a dataset that the model cannot be judged on."""
    options = dataset.manifest.get("options", {})
    hydrogens = options.get("chemistry", {}).get("hydrogens")
    if hydrogens is not None and hydrogens != manifest.inputs.hydrogens:
        kinds = {True: "explicit hydrogens", False: "heavy atoms only"}
        raise ArtifactError(
            f"{manifest.reference} reads {kinds[manifest.inputs.hydrogens]}, {dataset.path} has {kinds[hydrogens]}.",
            f"Prepare the dataset with {'--hydrogens' if manifest.inputs.hydrogens else '--no-hydrogens'}.",
        )
    level = dataset.manifest.get("level_of_theory")
    labelled = dataset.manifest["targets"]
    for target in manifest.targets:
        if level and target.name in labelled and target.level_of_theory not in (None, level):
            raise ArtifactError(
                f"{manifest.reference} predicts {target.name} at {target.level_of_theory}, "
                f"the labels of {dataset.path} are {level}.",
                "Errors between two levels of theory are not errors of the model.",
            )


def check_records(manifest: Manifest, dataset: PreparedDataset, split: PreparedSplit) -> None:
    """Refuses records that lack what the model reads."""
    if not len(split):
        return
    first = split[0]
    if manifest.inputs.features and first.atom_features is None:
        raise ArtifactError(
            f"{manifest.reference} reads the 2D graph, {dataset.path} has none.",
            "Prepare the dataset with 2D features.",
        )
    if manifest.inputs.geometry == "reference" and not has_reference(first):
        raise ArtifactError(
            f"{manifest.reference} reads reference (DFT) geometries, {dataset.path} has generated conformers only.",
            "Prepare the dataset with its reference geometries.",
        )
