"""A toy dataset, and training on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checks.molecules import toy_config, toy_splits, write_dataset

from geomformer.config.run import RunConfig
from geomformer.prepared.dataset import PreparedDataset
from geomformer.training.run import TrainResult, train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data") / "toy", toy_splits())


@pytest.fixture
def fit(dataset: PreparedDataset, tmp_path: Path) -> Callable[..., TrainResult]:
    def run(config: RunConfig | None = None, out: str = "run", data: PreparedDataset = dataset, **options: Any) -> Any:
        settings = {"models": tmp_path / "models", "name": "toy", "device": "cpu", **options}
        return train(config or toy_config(), data, out=tmp_path / out, **settings)

    return run
