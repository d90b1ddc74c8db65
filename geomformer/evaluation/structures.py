"""How close predicted relaxed structures and energies of catalysts come to DFT, by the measures of OC20.

Every function scores one system; a metric of a split is the plain mean of its systems' scores (`mean_scores`). ADwT
(average distance within threshold) of the benchmark is the share of structures whose mean distance lies below a
threshold, averaged over thresholds; per structure that is the share of thresholds above its distance. The two looser
readings of the name are scored beside it, because papers describe the metric less precisely than the benchmark's code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from geomformer.errors import DataError
from geomformer.evaluation.metrics import vector_errors

if TYPE_CHECKING:
    from geomformer.records import Record

THRESHOLDS = np.arange(0.01, 0.5, 0.001)
"""(490,) Angstrom, 0.010 to 0.499: the distances that ADwT averages over."""

ENERGY_THRESHOLD = 0.02
"""eV: EwT (energy within threshold) counts errors smaller than this."""

ADWT = "positions_adwt_percent"
ADWT_ALL_ATOMS = "positions_adwt_all_atoms_percent"
ADWT_MAE = "positions_adwt_mae_percent"
DISTANCE = "positions_distance_angstrom"


def minimum_image(difference: np.ndarray, cell: np.ndarray | None, pbc: np.ndarray | None) -> np.ndarray:
    """Moves differences between positions of one atom to its near periodic image, as the benchmark does.

    Fractional coordinates are rounded to (-0.5, 0.5]. In a strongly skewed cell another image can be nearer still; the
    benchmark's numbers hold with this rounding, so it is not refined.

    Args:
        difference: (N, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are lattice vectors; None leaves everything unchanged.
        pbc: (3,) bool, axes that repeat; None for none.

    Returns:
        (N, 3) float64.

    Raises:
        DataError: the cell of a periodic system has no volume.
    """
    difference = np.asarray(difference, np.float64)
    periodic = np.zeros(3, bool) if pbc is None else np.asarray(pbc, bool)
    if cell is None or not periodic.any():
        return difference
    rows = np.asarray(cell, np.float64)
    try:
        fractional = np.linalg.solve(rows.T, difference.T).T
    except np.linalg.LinAlgError:
        raise DataError(
            f"A periodic system needs three independent lattice vectors, found the cell {rows.tolist()}.",
            "Give the cell of the structure, or switch periodicity off.",
        ) from None
    inside = fractional[:, periodic] % 1.0
    # The remainder of a tiny negative number rounds to 1.0 itself; the second one makes it 0.
    inside %= 1.0
    inside[inside > 0.5] -= 1.0
    fractional[:, periodic] = inside
    moved: np.ndarray = fractional @ rows
    return moved


def structure_scores(record: Record, positions: np.ndarray) -> dict[str, float]:
    """Scores of one predicted relaxed structure; all are NaN for a system whose atoms are all frozen.

    The benchmark treats every system as periodic along all three axes; here the record's own `pbc` decides, which is
    three times True in every record of OC20.

    Args:
        record: a system with `target_positions`; without `fixed` every atom is free.
        positions: (N, 3) Angstrom, the prediction.

    Returns:
        `positions_adwt_percent`, the benchmark's: share of `THRESHOLDS` that the mean distance of free atoms lies
        below (strictly); `positions_adwt_all_atoms_percent`, with the mean over all atoms;
        `positions_adwt_mae_percent`, with the mean absolute error of the coordinates of free atoms;
        `positions_distance_angstrom`, the mean distance of free atoms.

    Raises:
        DataError: the record has no relaxed structure.
        ArtifactError: the prediction is not finite.
        ValueError: the shape is not that of the record.
    """
    if record.target_positions is None:
        raise DataError(
            f"System {record.id} has no relaxed structure to compare with.", "Evaluate on a split with labels."
        )
    difference = vector_errors("positions", record.id, positions, record.target_positions)
    free = np.ones(len(positions), bool) if record.fixed is None else np.asarray(record.fixed) == 0
    if not free.any():
        return dict.fromkeys((ADWT, ADWT_ALL_ATOMS, ADWT_MAE, DISTANCE), math.nan)
    moved = minimum_image(difference, record.cell, record.pbc)
    distances = np.linalg.norm(moved, axis=1)
    distance = float(distances[free].mean())
    return {
        ADWT: within_thresholds(distance),
        ADWT_ALL_ATOMS: within_thresholds(float(distances.mean())),
        ADWT_MAE: within_thresholds(float(np.abs(moved[free]).mean())),
        DISTANCE: distance,
    }


def within_thresholds(distance: float) -> float:
    """Share of `THRESHOLDS` in percent that a distance (Angstrom) lies strictly below."""
    return 100.0 * float((distance < THRESHOLDS).mean())


def energy_scores(target: str, error_ev: float) -> dict[str, float]:
    """Scores of one predicted energy.

    Args:
        target: its name, in front of the metrics' names.
        error_ev: prediction minus label, eV.

    Returns:
        `TARGET_mae_ev`, and `TARGET_ewt_percent`: 100 for an error strictly below `ENERGY_THRESHOLD`, else 0. A
        missing label (NaN) gives NaN for both.
    """
    size = abs(float(error_ev))
    within = math.nan if math.isnan(size) else 100.0 * (size < ENERGY_THRESHOLD)
    return {f"{target}_mae_ev": size, f"{target}_ewt_percent": within}


def mean_scores(scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every score over the systems that have it (NaN is left out); a score nobody has is absent.

    The mean is plain, but for scores with "_rmse" in their name: of those it is the root of the mean of squares.
    """
    total: dict[str, float] = {}
    count: dict[str, int] = {}
    for one in scores:
        for key, value in one.items():
            if not math.isnan(value):
                total[key] = total.get(key, 0.0) + (value * value if "_rmse" in key else value)
                count[key] = count.get(key, 0) + 1
    means = {key: value / count[key] for key, value in total.items()}
    return {key: math.sqrt(mean) if "_rmse" in key else mean for key, mean in means.items()}
