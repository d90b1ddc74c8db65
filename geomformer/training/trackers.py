"""Where metrics go besides `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from geomformer.errors import ConfigError


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Scalars for TensorBoard, in the run folder (extra `tensorboard`)."""

    def __init__(self, path: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "The tensorboard tracker is not installed.", "pip install 'geomformer[tensorboard]'"
            ) from error
        self.writer = SummaryWriter(str(path))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def build_trackers(names: tuple[str, ...], folder: Path) -> list[Tracker]:
    builders = {"tensorboard": lambda: TensorBoardTracker(folder / "tensorboard")}
    return [builders[name]() for name in names]
