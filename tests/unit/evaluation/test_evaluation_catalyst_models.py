"""Networks of catalysts, untrained, on real relaxations of OC20."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geomformer import api
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.artifacts.store import save_artifact
from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.datasets.oc20 import prepare
from geomformer.datasets.options import PrepareOptions
from geomformer.evaluation.structures import ADWT, DISTANCE, structure_scores
from geomformer.inference.averaging import predict_records
from geomformer.inference.predictor import Predictor
from geomformer.models import build_model
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.images import ImageOptions

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "oc20" / "is2re_oc20_derived.lmdb"
TINY = {"num_layers": 1, "embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "num_kernels": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("data")
    options = PrepareOptions(workers=0, limit=6)
    return PreparedDataset(prepare(raw=[SAMPLE], out=root / "oc20", data_root=root, options=options))


def catalyst_predictor(config: RunConfig, root: Path, dataset: PreparedDataset) -> Predictor:
    torch.manual_seed(3)
    images = ImageOptions.of(config.model)
    record = next(iter(dataset.split(next(iter(dataset.splits)))))
    network = build_model(config.model)
    with torch.no_grad():
        for parameter in network.parameters():  # fresh heads are zero and would move nothing
            parameter.add_(0.1 * torch.randn_like(parameter))
    units = {"energy": "ev", "positions": "angstrom"}
    names = (*config.task.targets, "positions")
    save_artifact(
        root,
        config.task.name,
        network,
        config,
        targets=[Target(name=name, unit=units[name], scale=0.2) for name in names],
        inputs=Inputs(hydrogens=True, geometry=config.task.input_geometry, features=False, periodic=True),
        elements={},
        dataset={"name": "oc20"},
        training={},
        metrics={},
        selftest_batch=collate([Sample(record, 0, record.positions[0])], features=False, images=images),
    )
    return api.load_model(config.task.name, models=root, geometry="input", device="cpu")


@pytest.mark.parametrize("task", ["is2re", "is2rs"])
def test_scores_of_a_network_are_those_of_its_structures(task: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    config = load_config(f"{task}-small", [f"model.{key}={value}" for key, value in TINY.items()])
    predictor = catalyst_predictor(config, tmp_path / "models", dataset)
    found = api.evaluate(dataset.path, model=task, models=tmp_path / "models", out=tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "positions_adwt.png").is_file()
    (name,) = found["splits"]
    split = dataset.split(name)
    structures = predict_records(predictor.model, predictor.task, enumerate(split), predictor.settings)
    scores: list[dict[str, Any]] = []
    for prediction, record in zip(structures, split, strict=True):
        positions = prediction.vectors["positions"][0]
        assert (positions[np.asarray(record.fixed)] == record.positions[0][np.asarray(record.fixed)]).all()
        scores.append(structure_scores(record, positions))
    for key in (ADWT, DISTANCE):
        assert found["splits"][name][key] == pytest.approx(np.mean([one[key] for one in scores]), rel=1e-9)
    assert found["splits"][name][DISTANCE] != found["baselines"]["no_move"]["splits"][name][DISTANCE], "atoms moved"
    assert ("energy_mae_ev" in found["splits"][name]) == (task == "is2re")
    assert list(found["baselines"]) == ["no_move", "mean_energy"][: 2 if task == "is2re" else 1]
