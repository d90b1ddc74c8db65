"""Six real OC20 relaxations, learnt by heart: energies (total ones, see the sample's README) and relaxed structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geomformer import api
from geomformer.config.load import load_config

SETTINGS = (
    *("model.num_layers=2", "model.embed_dim=64", "model.ffn_dim=64", "model.num_heads=4", "model.num_kernels=24"),
    *("model.attention_dropout=0", "model.neighbour_cutoff=5.0", "task.mixture_probability=0"),
    *("data.dataset=oc20-sample", "data.train_split=val_id", "data.valid_split=val_id", "data.batch_size=6"),
    *("optim.learning_rate=3e-3", "train.max_steps=250", "train.ema_decay=0.98", "train.validate_every=250"),
)


@pytest.mark.slow
def test_six_relaxations_are_learnt(tmp_path: Path) -> None:
    config = load_config("is2re-small", SETTINGS)
    api.train(config, out=tmp_path / "run", root=tmp_path, models=tmp_path / "models", name="known", device="cpu")
    found = api.evaluate("oc20-sample", model="known", splits=["val_id"], root=tmp_path, models=tmp_path / "models")
    values = found["splits"]["val_id"]
    unmoved = found["baselines"]["no_move"]["splits"]["val_id"]
    spread = api.open_dataset("oc20-sample", tmp_path).split("val_id").target("energy").std()
    assert values["energy_mae_ev"] < 0.01 * spread
    assert values["positions_distance_angstrom"] < 0.15 * unmoved["positions_distance_angstrom"]
    assert values["positions_adwt_percent"] > 85.0 > 2.0 * unmoved["positions_adwt_percent"]
    assert np.isfinite(list(values.values())).all()
