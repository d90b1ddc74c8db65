"""Prediction tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from geomformer.errors import ConfigError

if TYPE_CHECKING:
    from geomformer.config.run import TaskConfig
    from geomformer.tasks.base import Scaling, Task


def build_task(config: TaskConfig, scaling: Mapping[str, Scaling]) -> Task:
    """Builds the task a configuration names.

    Raises:
        ConfigError: this version has no training for it.
    """
    if config.name != "gap":
        raise ConfigError(
            f"task '{config.name}': this version trains and evaluates 'gap'.",
            f"`geomformer config show {config.name}-paper` prints its model.",
        )
    from geomformer.tasks.gap import GapTask

    return GapTask(config, scaling)
