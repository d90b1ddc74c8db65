"""How close predicted positions of particles come to the simulated ones, in the benchmark's own units.

A metric of a split is the plain mean of its systems' scores (`structures.mean_scores`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geomformer.errors import DataError
from geomformer.evaluation.metrics import vector_errors
from geomformer.tasks import POSITIONS
from geomformer.tasks.nbody import HORIZON

if TYPE_CHECKING:
    from geomformer.records import Record

MSE = "positions_mse"


def particle_scores(record: Record, positions: np.ndarray) -> dict[str, float]:
    """Scores of one predicted system.

    Args:
        record: a system with `target_positions`.
        positions: (N, 3), the prediction.

    Returns:
        `positions_mse`: mean over particles and coordinates of the squared error, as the benchmark reports it.

    Raises:
        DataError: the record has no target.
        ArtifactError: the prediction is not finite.
        ValueError: the shape is not that of the record.
    """
    if record.target_positions is None:
        raise DataError(
            f"System {record.id} has no target positions to compare with.", "Evaluate on a split with labels."
        )
    error = vector_errors(POSITIONS, record.id, positions, record.target_positions)
    return {MSE: float(np.square(error).mean())}


def unaided(record: Record) -> dict[str, np.ndarray]:
    """Positions that need no model, (N, 3) by name: "no_move" has the particles stay where they are, "linear" has them
    go on with their velocities.

    Raises:
        DataError: the record has no velocities.
    """
    if record.velocities is None:
        raise DataError(
            f"System {record.id} has no velocities.", "Name a dataset that `geomformer preprocess nbody` made."
        )
    here = np.asarray(record.positions[0], np.float64)
    return {"no_move": here, "linear": here + HORIZON * np.asarray(record.velocities, np.float64)}
