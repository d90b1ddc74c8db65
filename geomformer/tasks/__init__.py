"""Prediction tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomformer.config.run import TaskConfig
    from geomformer.prepared.split import PreparedSplit
    from geomformer.tasks.base import Scaling, Task


CATALYST = ("is2re", "is2rs")
MD17 = "md17"
NBODY = "nbody"

POSITIONS, FORCES = "positions", "forces"
"""Names of vectors per atom that tasks predict, and of their scales among the scalings of a model."""


def build_task(config: TaskConfig, scaling: Mapping[str, Scaling]) -> Task:
    """Builds the task a configuration names.

    Args:
        config: the task.
        scaling: by scalar target, and by the vectors of `measured_scalings`.
    """
    if config.name in CATALYST:
        from geomformer.tasks.catalyst import CatalystTask

        return CatalystTask(config, scaling)
    if config.name == MD17:
        from geomformer.tasks.md17 import MD17Task

        return MD17Task(config, scaling)
    if config.name == NBODY:
        from geomformer.tasks.nbody import NBodyTask

        return NBodyTask(config, scaling)
    from geomformer.tasks.gap import GapTask

    return GapTask(config, scaling)


def measured_scalings(config: TaskConfig, train: PreparedSplit, seed: int) -> dict[str, Scaling]:
    """Scales of the task's vectors, measured on the train split, and of scalars that share them; nothing for a task
    without any.
    """
    if config.name == MD17:
        from geomformer.tasks.md17 import force_scalings

        return force_scalings(config, train)
    from geomformer.tasks.base import Scaling

    if config.name == NBODY:
        from geomformer.tasks import nbody

        return {POSITIONS: Scaling(scale=nbody.displacement_scale(config, train))}
    if config.name not in CATALYST:
        return {}
    from geomformer.tasks.catalyst import displacement_scale

    return {POSITIONS: Scaling(scale=displacement_scale(config, train, seed))}


def vector_unit(config: TaskConfig, units: Mapping[str, str]) -> str:
    """Unit of the task's vectors; "none" for particles, whose coordinates are numbers.

    Args:
        config: the task.
        units: of its scalars.
    """
    if config.name == NBODY:
        return "none"
    return f"{units[config.targets[0]]}_angstrom" if config.name == MD17 else "angstrom"
