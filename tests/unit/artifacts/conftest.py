from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from geomformer.artifacts import locate, pinned
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.artifacts.store import Artifact, save_artifact
from geomformer.config.load import validate
from geomformer.config.run import RunConfig
from geomformer.models import build_model
from geomformer.records import Batch


def tiny_config(**model: object) -> RunConfig:
    small = {"num_layers": 1, "embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "num_kernels": 4, **model}
    return validate({"model": small}, "test")


def tiny_batch() -> Batch:
    """Two molecules of three and two atoms, all fields that a 2D-graph model reads."""
    generator = torch.Generator().manual_seed(7)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    numbers = torch.tensor([[6, 6, 8], [6, 7, 0]])
    features = torch.zeros(2, 3, 9, dtype=torch.int64)
    features[..., 0] = numbers
    bonds = torch.zeros(2, 3, 3, dtype=torch.int64)
    bonds[:, 0, 1] = bonds[:, 1, 0] = 1
    paths = torch.tensor([[0, 1, 2], [1, 0, 1], [2, 1, 0]]).repeat(2, 1, 1)
    return Batch(
        positions=torch.randn(2, 3, 3, generator=generator) * mask[..., None],
        mask=mask,
        index=torch.arange(2),
        atomic_numbers=numbers,
        atom_features=features,
        bond_type=bonds,
        shortest_path=paths,
        targets={"gap": torch.tensor([5.0, float("nan")])},
    )


def save_tiny(root: Path, name: str = "tiny", *, seed: int = 0, **changes: object) -> Artifact:
    config = tiny_config()
    torch.manual_seed(seed)
    model = changes.pop("model", None) or build_model(config.model)
    arguments: dict = {
        "targets": [Target(name="gap", unit="ev", level_of_theory="B3LYP/6-31G*", mean=5.5, scale=1.25)],
        "inputs": Inputs(hydrogens=False, geometry="conformer", features=True, periodic=False, max_atoms=64),
        "elements": {"C": 1000, "N": 20, "O": 400, "Br": 19},
        "dataset": {"name": "toy", "fingerprint": "abc", "splits": {"train": 1000, "valid": 100}},
        "training": {"steps": 10},
        "metrics": {"test": {"gap_mae_ev": 0.25}},
        "selftest_batch": tiny_batch(),
        **changes,
    }
    return save_artifact(root, name, model, config, **arguments)


@pytest.fixture
def save() -> Callable[..., Artifact]:
    return save_tiny


@pytest.fixture
def batch() -> Batch:
    return tiny_batch()


@pytest.fixture(autouse=True)
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for bundled models, none of them pinned, so that tests do not depend on those that ship."""
    root = tmp_path / "bundled"
    root.mkdir()
    monkeypatch.setattr(locate, "BUNDLED", root)
    monkeypatch.setattr(pinned, "PINNED", {})
    return root
