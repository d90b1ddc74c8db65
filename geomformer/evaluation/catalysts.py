"""What an evaluation of catalysts adds: scores of structures, their files, and the splits of OC20 in their order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geomformer.datasets.oc20.sources import VALIDATION
from geomformer.evaluation.plots import threshold_plot
from geomformer.evaluation.structures import DISTANCE, THRESHOLDS, structure_scores
from geomformer.files import write_atomic

if TYPE_CHECKING:
    from geomformer.evaluation.evaluate import SplitResult
    from geomformer.prepared.split import PreparedSplit
    from geomformer.records import Record

POSITIONS = "positions"
"""Name of predicted relaxed structures among the vectors of a task."""

SPLIT_LABELS = dict(zip(VALIDATION, ("ID", "OOD Ads", "OOD Cat", "OOD Both"), strict=True))
"""The validation splits of OC20 as papers name them, in their order."""

_ROWS_AT_ONCE = 1024


@dataclass
class Structures:
    """Scores of the systems of one split that have a relaxed structure; see `structure_scores`.

    Attributes:
        ids: of the systems.
        predicted: scores of the model.
        unmoved: scores of the initial structure, which is what a model that moves no atom predicts.
    """

    ids: list[str] = field(default_factory=list)
    predicted: list[dict[str, float]] = field(default_factory=list)
    unmoved: list[dict[str, float]] = field(default_factory=list)

    def add(self, record: Record, positions: np.ndarray) -> None:
        """Scores one system, if it has a relaxed structure.

        Args:
            record: the system.
            positions: (N, 3) Angstrom, the predicted relaxed structure.
        """
        if record.target_positions is None:
            return
        self.ids.append(record.id)
        self.predicted.append(structure_scores(record, positions))
        self.unmoved.append(structure_scores(record, record.positions[0]))

    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean distances of free atoms, Angstrom, of the model and of the initial structure. (S,), (S,)"""
        predicted, unmoved = (
            np.array([one[DISTANCE] for one in scores], np.float64) for scores in (self.predicted, self.unmoved)
        )
        return predicted, unmoved


def has_relaxed(split: PreparedSplit, rows: int) -> bool:
    """Whether one of the first `rows` systems has a relaxed structure."""
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = split.gather(np.arange(start, min(start + _ROWS_AT_ONCE, rows)))
        if part.target_positions is not None:
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


def write_structures(path: Path, structures: Structures) -> None:
    """One row per system: its scores, and those of its initial structure with `no_move_` in front."""
    names = list(structures.predicted[0])
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["id", *names, *(f"no_move_{name}" for name in names)])
    for name, predicted, unmoved in zip(structures.ids, structures.predicted, structures.unmoved, strict=True):
        writer.writerow([name, *predicted.values(), *unmoved.values()])
    write_atomic(path, table.getvalue())


def write_thresholds(out: Path, distances: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draws the share of structures within each threshold, a line per split; nothing without structures.

    Args:
        out: folder.
        distances: by split, as `Structures.distances` returns them.
    """
    lines = {SPLIT_LABELS.get(name, name): both for name, both in distances.items() if np.isfinite(both[0]).any()}
    if lines:
        threshold_plot(out / f"{POSITIONS}_adwt.png", lines, THRESHOLDS)
