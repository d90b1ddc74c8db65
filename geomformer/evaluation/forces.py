"""How close predicted forces come to those of a trajectory.

A system's scores average over its atoms and axes; all frames of a trajectory have the same atoms, so that the mean over
frames is the error of the field's tables, and the root of the mean square over frames that of all components.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geomformer.errors import DataError
from geomformer.evaluation.metrics import metric_key, vector_errors
from geomformer.tasks import FORCES
from geomformer.units import EV_PER

if TYPE_CHECKING:
    from geomformer.records import Record

MEV = "mev"


def force_key(metric: str, unit: str) -> str:
    """Name of a score of forces: "mae" and "kcal_mol_angstrom" -> `forces_mae_kcal_mol_angstrom`."""
    return metric_key(FORCES, metric, unit)


def force_scores(record: Record, forces: np.ndarray, unit: str) -> dict[str, float]:
    """Scores of one system.

    Args:
        record: a system with forces.
        forces: (N, 3), the prediction.
        unit: of both, such as "kcal_mol_angstrom".

    Returns:
        `forces_mae_UNIT` and `forces_rmse_UNIT`, mean absolute error and root of the mean squared error of force
        components; with `_mev_angstrom` the same where the unit is known and another one.

    Raises:
        DataError: the record has no forces.
        ArtifactError: the prediction is not finite.
        ValueError: the shape is not that of the record.
    """
    if record.forces is None:
        raise DataError(f"System {record.id} has no forces to compare with.", "Evaluate on a split with labels.")
    error = vector_errors(FORCES, record.id, forces, record.forces)
    errors = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt(np.square(error).mean()))}
    return {force_key(metric, unit): value for metric, value in errors.items()} | in_mev(FORCES, errors, unit)


def in_mev(name: str, errors: Mapping[str, float], unit: str) -> dict[str, float]:
    """Errors in meV or meV/Angstrom by their keys; none for a unit that is unknown or meV already.

    Args:
        name: of what is predicted.
        errors: by metric ("mae", "rmse"), in `unit`.
        unit: of energy, or of energy and then "_angstrom".
    """
    energy, separator, length = unit.partition("_angstrom")
    if energy == MEV or energy not in EV_PER:
        return {}
    scale = EV_PER[energy] / EV_PER[MEV]
    return {metric_key(name, metric, MEV + separator + length): value * scale for metric, value in errors.items()}


def zero_forces(record: Record) -> Mapping[str, np.ndarray]:
    """What needs no model: no force on any atom."""
    return {FORCES: np.zeros(record.positions.shape[1:])}
