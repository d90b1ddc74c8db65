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

from geomformer.errors import DataError
from geomformer.evaluation.checks import check_inputs, check_records
from geomformer.evaluation.forces import in_mev
from geomformer.evaluation.metrics import TargetMetrics, metric_key
from geomformer.evaluation.plots import error_plot, parity_plot
from geomformer.evaluation.rotations import ROTATION_FLOOR, STANDARD_ERROR, rotation_floor
from geomformer.evaluation.structures import energy_scores, mean_scores
from geomformer.evaluation.vectors import (
    VectorScores,
    has_labels,
    in_order,
    mean_predictions,
    write_scores,
    write_thresholds,
)
from geomformer.files import check_writable, write_atomic
from geomformer.inference.averaging import predict_records
from geomformer.inference.predictor import Predictor
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.split import PreparedSplit
from geomformer.tasks import CATALYST, MD17, NBODY
from geomformer.units import unit_label

METRICS = ("mae", "rmse", "mse")
SINGLE = "mae_single_conformer"
MODEL = "model"

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


@dataclass
class SplitResults:
    """What a split was compared with.

    Attributes:
        scalars: by target, those with labels.
        vectors: scores of predicted vectors; None where the model predicts or the split has none.
    """

    scalars: dict[str, SplitResult]
    vectors: VectorScores | None = None


def evaluate_dataset(
    predictor: Predictor,
    dataset: PreparedDataset,
    *,
    splits: Sequence[str] = (),
    out: Path | None = None,
    limit: int | None = None,
    baselines: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates on every split that is asked for (by default all labelled ones but "train").

    Args:
        predictor: the model, ready to run.
        dataset: prepared with labels of at least one of the model's targets.
        splits: names.
        out: folder for metrics.json, predictions and plots; None writes nothing.
        limit: only the first rows of each split.
        baselines: whether to score what needs no model, too; it takes longer than small models do.
        progress: called with the rows done and their number.

    Returns:
        {"model", "dataset", "rows", "splits": {split: {metric: value}}, "average": {metric: value}}; the average is
        the plain mean over splits. With "split_scheme" where the dataset has several, and for catalysts with
        "baselines": {name: {"splits", "average"}}, see `baseline_metrics`; for particles that were simulated here with
        "rotation_floor" among them, see `evaluation.rotations`.

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
    measured: dict[str, dict[str, dict[str, float]]] = {}
    distances = {}
    for name in names:
        split = dataset.split(name)
        check_records(predictor.manifest, dataset, split)

        def advance(rows: int, before: int = done) -> None:
            if progress is not None:
                progress(before + rows, total)

        results = predict_split(predictor, split, counts[name], advance)
        done += counts[name]
        measured[name] = {MODEL: split_metrics(predictor, results)}
        if baselines:
            measured[name] |= baseline_metrics(predictor, results)
        if baselines and predictor.manifest.task == NBODY and (floor := rotation_floor(dataset, name, counts[name])):
            measured[name][ROTATION_FLOOR] = floor
        if results.vectors is not None and predictor.manifest.task in CATALYST:
            distances[name] = results.vectors.distances()
        if out is not None:
            write_split(predictor, out, name, results)
    summary = summarise(predictor, dataset, {name: counts[name] for name in names}, measured)
    if out is not None:
        write_thresholds(out, distances)
        write_atomic(out / "metrics.json", json.dumps(summary, indent=2) + "\n")
    return summary


def summarise(
    predictor: Predictor,
    dataset: PreparedDataset,
    rows: dict[str, int],
    measured: dict[str, dict[str, dict[str, float]]],
) -> dict[str, Any]:
    """Puts metrics by split and method, of which `MODEL` is one, into the form `evaluate_dataset` returns."""
    methods = dict.fromkeys(method for values in measured.values() for method in values)
    found = {}
    for method in methods:
        splits = {name: values[method] for name, values in measured.items() if method in values}
        found[method] = {"splits": splits, "average": average(splits.values())}
    summary: dict[str, Any] = {
        "model": predictor.manifest.reference,
        "dataset": str(dataset.manifest.get("dataset", dataset.path.name)),
        "rows": rows,
        "splits": found[MODEL]["splits"],
    }
    if dataset.scheme is not None:
        summary["split_scheme"] = dataset.scheme
    summary["average"] = found.pop(MODEL)["average"]
    return summary | ({"baselines": found} if found else {})


def default_splits(predictor: Predictor, dataset: PreparedDataset) -> list[str]:
    """The splits that have labels, without "train" if there are others; all where none has labels.

    Vectors are labels too, for models that predict them.
    """
    labelled = [name for name in dataset.splits if is_labelled(predictor, dataset.split(name))]
    names = [name for name in labelled if name != "train"] or labelled or list(dataset.splits)
    return in_order(names)


def is_labelled(predictor: Predictor, split: PreparedSplit) -> bool:
    return bool(labels_of(predictor, split)) or has_vectors(predictor, split, len(split))


def has_vectors(predictor: Predictor, split: PreparedSplit, rows: int) -> bool:
    """Whether one of the first rows has a label of a vector that the model predicts."""
    return any(has_labels(split, name, rows) for name in predictor.task.vectors)


def labels_of(predictor: Predictor, split: PreparedSplit) -> dict[str, np.ndarray]:
    """Labels (R,) of the targets that the model predicts and the split has, NaN where a row has none."""
    labels = {target: split.target(target) for target in predictor.task.targets if target in split.target_names}
    return {target: values for target, values in labels.items() if not np.isnan(values).all()}


def predict_split(
    predictor: Predictor, split: PreparedSplit, rows: int, advance: Callable[[int], None]
) -> SplitResults:
    """Predicts the first `rows` rows and collects what is labelled. Of vectors only scores are kept."""
    labels = {target: values[:rows] for target, values in labels_of(predictor, split).items()}
    targets = [target for target, values in labels.items() if not np.isnan(values).all()]
    units = {target.name: target.unit for target in predictor.manifest.targets}
    vectors = VectorScores(predictor.manifest.task, units) if has_vectors(predictor, split, rows) else None
    if not targets and vectors is None:
        raise DataError(
            f"The first {rows} rows of split '{split.name}' have no label of "
            f"{', '.join((*predictor.task.targets, *predictor.task.vectors))}; "
            f"the dataset's targets are {', '.join(split.target_names) or 'none'}.",
            "Prepare the dataset with the target the model predicts.",
        )
    found = {target: np.full((3, rows), np.nan) for target in targets}
    records = ((row, split[row]) for row in range(rows))
    for prediction in predict_records(predictor.model, predictor.task, records, predictor.settings):
        for target in targets:
            mean, spread = prediction.mean(target), prediction.spread(target)
            found[target][:, prediction.index] = mean, spread, prediction.values[target][0]
        if vectors is not None:
            vectors.add(split[prediction.index], {name: found[0] for name, found in prediction.vectors.items()})
        advance(prediction.index + 1)
    ids = split.ids[:rows]
    results = {}
    for target in targets:
        known = np.flatnonzero(~np.isnan(labels[target]))
        results[target] = SplitResult([ids[row] for row in known], labels[target][known], *found[target][:, known])
    return SplitResults(results, vectors)


def split_metrics(predictor: Predictor, results: SplitResults) -> dict[str, float]:
    """Metrics of all targets of a split, then those of its vectors."""
    found = {
        key: value
        for target, result in results.scalars.items()
        for key, value in metrics(predictor, target, result).items()
    }
    return found | (mean_scores(results.vectors.predicted) if results.vectors else {})


def metrics(predictor: Predictor, target: str, result: SplitResult) -> dict[str, float]:
    """Metrics of one target by their keys, `<target>_<metric>_<unit>`.

    Only molecules have conformers, of which the first is compared with all; energies of catalysts have the share that
    OC20 counts as right.
    """
    unit = predictor.manifest.target(target).unit
    accumulator = TargetMetrics()
    accumulator.update(result.prediction, result.label)
    values = accumulator.compute()
    found = {metric_key(target, metric, unit): float(values[metric]) for metric in METRICS}
    if not predictor.task.vectors:
        return found | {metric_key(target, SINGLE, unit): float(np.abs(result.single - result.label).mean())}
    if predictor.manifest.task == MD17:
        return found | in_mev(target, {metric: float(values[metric]) for metric in ("mae", "rmse")}, unit)
    if unit != "ev" or predictor.manifest.task not in CATALYST:
        return found
    return found | mean_scores(energy_scores(target, error) for error in result.prediction - result.label)


def baseline_metrics(predictor: Predictor, results: SplitResults) -> dict[str, dict[str, float]]:
    """Metrics on the same rows of what needs no model.

    Returns:
        those of `vectors.baseline_vectors`, and "mean_energy", where every energy is the mean of the train labels; each
        where there are labels to compare with. Nothing for models of scalars alone.
    """
    if not predictor.task.vectors:
        return {}
    found = {}
    if results.vectors is not None:
        found = {name: mean_scores(scores) for name, scores in results.vectors.baselines.items()}
    if results.scalars:
        means = {name: predictor.manifest.target(name).mean for name in results.scalars}
        constant = {name: mean_predictions(result, means[name]) for name, result in results.scalars.items()}
        found["mean_energy"] = split_metrics(predictor, SplitResults(constant))
    return found


def write_split(predictor: Predictor, out: Path, split: str, results: SplitResults) -> None:
    """Predictions as CSV, parity and error plots as PNG; of vectors their scores."""
    spreads = not predictor.task.vectors
    for target, result in results.scalars.items():
        unit = predictor.manifest.target(target).unit
        stem = f"{split}_{target}"
        columns = {"id": result.ids, f"{target}_{unit}": result.label, f"pred_{target}_{unit}": result.prediction}
        if spreads:
            columns[f"spread_{target}_{unit}"] = result.spread
        table = io.StringIO(newline="")
        writer = csv.writer(table)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_atomic(out / f"{stem}.csv", table.getvalue())
        label = f"{target.replace('_', ' ')}, {split}"
        parity_plot(out / f"{stem}_parity.png", result.prediction, result.label, label, unit_label(unit))
        error_plot(out / f"{stem}_error.png", result.prediction - result.label, label, unit_label(unit))
    if results.vectors is not None and results.vectors.ids:
        write_scores(out / f"{split}_{'_'.join(predictor.task.vectors)}.csv", results.vectors)


def average(splits: Iterable[dict[str, float]]) -> dict[str, float]:
    """Plain mean over splits of the metrics that all of them have; of standard errors there is none."""
    values = list(splits)
    shared = [key for key in values[0] if not key.endswith(STANDARD_ERROR) and all(key in other for other in values)]
    return {key: float(np.mean([value[key] for value in values])) for key in shared}
