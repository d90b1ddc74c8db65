"""Prediction tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geomformer.errors import ConfigError

if TYPE_CHECKING:
    from geomformer.config.run import TaskConfig
    from geomformer.prepared.split import PreparedSplit
    from geomformer.tasks.base import Scaling, Task


CATALYST = ("is2re", "is2rs")
TRAINABLE = ("gap", *CATALYST)


def check_task(config: TaskConfig) -> None:
    """Raises ConfigError for a task that has a configuration but no training in this version."""
    if config.name not in TRAINABLE:
        raise ConfigError(
            f"task '{config.name}' is configured, but this version trains and evaluates {', '.join(TRAINABLE)} only.",
            f"`geomformer config show {config.name}-paper` prints its model.",
        )


def build_task(config: TaskConfig, scaling: Mapping[str, Scaling]) -> Task:
    """Builds the task a configuration names (ConfigError: see `check_task`).

    Args:
        config: the task.
        scaling: by scalar target, and by the vectors of `measured_scalings`.
    """
    check_task(config)
    if config.name in CATALYST:
        from geomformer.tasks.catalyst import CatalystTask

        return CatalystTask(config, scaling)
    from geomformer.tasks.gap import GapTask

    return GapTask(config, scaling)


def measured_scalings(config: TaskConfig, train: PreparedSplit, seed: int) -> dict[str, Scaling]:
    """Scales of the task's vectors, measured on the train split; nothing for a task without any."""
    if config.name not in CATALYST:
        return {}
    from geomformer.tasks.base import Scaling
    from geomformer.tasks.catalyst import POSITIONS, displacement_scale

    return {POSITIONS: Scaling(scale=displacement_scale(config, train, seed))}
