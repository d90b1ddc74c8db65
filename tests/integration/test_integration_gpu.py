"""Training on a GPU: what a CPU cannot show."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from checks.molecules import toy_config, toy_splits, write_dataset

from geomformer.models import build_model
from geomformer.prepared.dataset import PreparedDataset
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling
from geomformer.training.batches import training_batches
from geomformer.training.loop import Trainer
from geomformer.training.run import launched_fabric, train
from geomformer.training.run_folder import RunFolder

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return write_dataset(tmp_path / "prepared" / "toy", toy_splits())


def test_no_step_waits_for_the_gpu(dataset: PreparedDataset, tmp_path: Path) -> None:
    config = toy_config()
    fabric = launched_fabric(config, "cuda", 1, 1)
    split, folder = dataset.split("train"), RunFolder(tmp_path / "run", resume=False)
    folder.create(config, {})
    task = build_task(config.task, {"gap": Scaling(6.0, 1.0)})
    units = {"gap": "ev"}
    trainer = Trainer(config, task, build_model(config.model), split, split, units, folder, fabric, lambda line: None)
    trainer.model.train()
    batches = training_batches(split, task, trainer.sampler, 1, 0, 0, features=True, workers=0)
    first, *others = (batch.to(fabric.device) for batch in batches)
    trainer.step(first)  # allocates, and moves what moves once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in others:
            trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert others


@pytest.mark.parametrize("precision", ["auto", "32-true", "bf16-mixed"])
def test_every_precision_trains(dataset: PreparedDataset, tmp_path: Path, precision: str) -> None:
    config = toy_config(train={"precision": precision, "max_steps": 6})
    result = train(config, dataset, out=tmp_path / "run", models=tmp_path / "models", name="toy", device="cuda")
    assert math.isfinite(result.metrics["gap_mae_ev"])
