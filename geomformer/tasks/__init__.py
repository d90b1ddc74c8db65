"""Prediction tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geomformer.errors import ConfigError

if TYPE_CHECKING:
    from geomformer.config.run import TaskConfig
    from geomformer.tasks.base import Scaling, Task


TRAINABLE = ("gap",)


def check_task(config: TaskConfig) -> None:
    """Raises ConfigError for a task that has a configuration but no training in this version."""
    if config.name not in TRAINABLE:
        raise ConfigError(
            f"task '{config.name}' is configured, but this version trains and evaluates {', '.join(TRAINABLE)} only.",
            f"`geomformer config show {config.name}-paper` prints its model.",
        )


def build_task(config: TaskConfig, scaling: Mapping[str, Scaling]) -> Task:
    """Builds the task a configuration names (ConfigError: see `check_task`)."""
    check_task(config)
    from geomformer.tasks.gap import GapTask

    return GapTask(config, scaling)
