"""Predicted vectors of atoms: their scores by task, what needs no model beside them, and their files.

A system's scores are numbers whose mean over a split is the metric of that name (`structures.mean_scores`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geomformer.datasets.oc20.sources import VALIDATION
from geomformer.errors import ConfigError
from geomformer.evaluation.forces import force_key, force_scores, zero_forces
from geomformer.evaluation.particles import MSE, particle_scores, unaided
from geomformer.evaluation.plots import threshold_plot
from geomformer.evaluation.structures import DISTANCE, THRESHOLDS, structure_scores
from geomformer.files import write_atomic
from geomformer.tasks import CATALYST, FORCES, MD17, NBODY, POSITIONS

if TYPE_CHECKING:
    from geomformer.evaluation.evaluate import SplitResult
    from geomformer.prepared.split import PreparedSplit
    from geomformer.records import Record

SPLIT_LABELS = dict(zip(VALIDATION, ("ID", "OOD Ads", "OOD Cat", "OOD Both"), strict=True))
"""The validation splits of OC20 as papers name them, in their order."""

SELECTION = {**dict.fromkeys(CATALYST, DISTANCE), NBODY: MSE}
"""Score that chooses the best weights of a task without scalar targets; lower is better."""

_ROWS_AT_ONCE = 1024


def selection(task: str, units: Mapping[str, str]) -> str | None:
    """Score of vectors that chooses the best weights of a task, lower is better; None where scalars do.

    Args:
        task: name of the task.
        units: of what it predicts.
    """
    return force_key("mae", units[FORCES]) if task == MD17 else SELECTION.get(task)


def vector_scores(
    task: str, record: Record, vectors: Mapping[str, np.ndarray], units: Mapping[str, str]
) -> dict[str, float]:
    """Scores of one system; nothing where it has no label.

    Args:
        task: name of the task.
        record: the system.
        vectors: (N, 3) by name, the prediction.
        units: of what the task predicts.
    """
    if task == MD17:
        return force_scores(record, vectors[FORCES], units[FORCES]) if record.forces is not None else {}
    if task in CATALYST:
        return structure_scores(record, vectors[POSITIONS]) if record.target_positions is not None else {}
    if task == NBODY:
        return particle_scores(record, vectors[POSITIONS]) if record.target_positions is not None else {}
    raise ConfigError(f"Task {task} has no scores of vectors.")


def baseline_vectors(task: str, record: Record) -> dict[str, Mapping[str, np.ndarray]]:
    """What needs no model, by name, as the prediction it would be: "no_move" leaves the atoms where they are,
    "zero_forces" has no force on any, "linear" has particles go on with their velocities.
    """
    if task == MD17:
        return {"zero_forces": zero_forces(record)}
    if task == NBODY:
        return {name: {POSITIONS: positions} for name, positions in unaided(record).items()}
    return {"no_move": {POSITIONS: record.positions[0]}} if task in CATALYST else {}


@dataclass
class VectorScores:
    """Scores of the labelled systems of one split.

    Attributes:
        task: its name.
        units: of what it predicts.
        ids: of the systems.
        predicted: scores of the model.
        baselines: the same of what needs no model, by name.
    """

    task: str
    units: Mapping[str, str] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    predicted: list[dict[str, float]] = field(default_factory=list)
    baselines: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, record: Record, vectors: Mapping[str, np.ndarray]) -> None:
        """Scores the prediction for one system, (N, 3) by name, if the system has a label."""
        scores = vector_scores(self.task, record, vectors, self.units)
        if not scores:
            return
        self.ids.append(record.id)
        self.predicted.append(scores)
        for name, others in baseline_vectors(self.task, record).items():
            self.baselines.setdefault(name, []).append(vector_scores(self.task, record, others, self.units))

    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean distances of free atoms, Angstrom, of relaxed structures and of the initial ones. (S,), (S,)"""
        predicted, unmoved = (
            np.array([one[DISTANCE] for one in scores], np.float64)
            for scores in (self.predicted, self.baselines["no_move"])
        )
        return predicted, unmoved


def has_labels(split: PreparedSplit, name: str, rows: int) -> bool:
    """Whether one of the first `rows` systems has a label of a vector: relaxed positions, or a field of its name."""
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = split.gather(np.arange(start, min(start + _ROWS_AT_ONCE, rows)))
        if name == POSITIONS and part.target_positions is not None:
            return True
        if name in part.fields or name in part.lacking:
            return True
    return False


def in_order(splits: Iterable[str]) -> list[str]:
    """The validation splits of OC20 as papers order them, then all others as they are."""
    names = list(splits)
    return [name for name in SPLIT_LABELS if name in names] + [name for name in names if name not in SPLIT_LABELS]


def mean_predictions(result: SplitResult, mean: float) -> SplitResult:
    """The same rows with one and the same prediction."""
    constant = np.full(len(result.label), mean)
    return replace(result, prediction=constant, spread=np.zeros_like(constant), single=constant)


def write_scores(path: Path, scores: VectorScores) -> None:
    """One row per system: its scores, and those of every baseline with its name in front."""
    methods = {"": scores.predicted, **{f"{name}_": found for name, found in scores.baselines.items()}}
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["id", *(prefix + name for prefix, found in methods.items() for name in found[0])])
    for name, *rows in zip(scores.ids, *methods.values(), strict=True):
        writer.writerow([name, *(value for row in rows for value in row.values())])
    write_atomic(path, table.getvalue())


def write_thresholds(out: Path, distances: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draws the share of structures within each threshold, a line per split; nothing without structures.

    Args:
        out: folder.
        distances: by split, as `VectorScores.distances` returns them.
    """
    lines = {SPLIT_LABELS.get(name, name): both for name, both in distances.items() if np.isfinite(both[0]).any()}
    if lines:
        threshold_plot(out / f"{POSITIONS}_adwt.png", lines, THRESHOLDS)
