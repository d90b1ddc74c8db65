"""The 26 real OC20 relaxations, learnt by heart: energies (total ones, see the sample's README) and structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geomformer import api
from geomformer.config.load import load_config

SETTINGS = (
    *("model.num_layers=2", "model.embed_dim=64", "model.ffn_dim=64", "model.num_heads=4", "model.num_kernels=24"),
    *("model.attention_dropout=0", "model.neighbour_cutoff=5.0", "task.mixture_probability=0"),
    *("data.dataset=oc20-sample", "optim.learning_rate=3e-3", "train.ema_decay=0.98", "train.validate_every=1000"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "batch_size", "steps"), [("val_id", 6, 250), ("train", 10, 700)])
def test_relaxations_are_learnt(split: str, batch_size: int, steps: int, tmp_path: Path) -> None:
    run = (f"data.train_split={split}", f"data.valid_split={split}", f"data.batch_size={batch_size}")
    config = load_config("is2re-small", [*SETTINGS, *run, f"train.max_steps={steps}"])
    api.train(config, out=tmp_path / "run", root=tmp_path, models=tmp_path / "models", name="known", device="cpu")
    found = api.evaluate("oc20-sample", model="known", splits=[split], root=tmp_path, models=tmp_path / "models")
    values = found["splits"][split]
    unmoved = found["baselines"]["no_move"]["splits"][split]
    spread = api.open_dataset("oc20-sample", tmp_path).split(split).target("energy").std()
    assert values["energy_mae_ev"] < 0.01 * spread
    assert values["positions_distance_angstrom"] < 0.15 * unmoved["positions_distance_angstrom"]
    assert values["positions_adwt_percent"] > 85.0 > 2.0 * unmoved["positions_adwt_percent"]
    assert np.isfinite(list(values.values())).all()
