"""A plan that takes seconds, and data for it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from checks.ablation import Heard

from geomformer import api
from geomformer.ablation.plan import Plan
from geomformer.ablation.run import Options
from geomformer.datasets.options import PrepareOptions

TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Feed-forward networks",
    "task": "nbody",
    "data": "nbody",
    "base": {
        "extends": "nbody-small",
        "model": {"num_layers": 1, "embed_dim": 8, "ffn_dim": 8, "num_heads": 2, "num_kernels": 4},
        "data": {"batch_size": 10},
        "train": {"max_steps": 4, "validate_every": 2, "log_every": 1},
    },
    "variants": {"no-ffn": {"model": {"inv_ffn": False, "equ_ffn": False}}},
    "seeds": 2,
    "metrics": ["test/positions_mse"],
    "quick": {"seeds": 1, "limit": 5, "changes": {"train": {"max_steps": 2}}},
}


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """The tiny plan as plain values."""
    return copy.deepcopy(TINY)


@pytest.fixture
def values() -> dict[str, Any]:
    """A copy of them to be changed."""
    return copy.deepcopy(TINY)


@pytest.fixture
def plan(values: dict[str, Any]) -> Plan:
    return Plan.model_validate(values)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of data that holds a small N-body dataset."""
    root = tmp_path_factory.mktemp("data")
    api.prepare("nbody", root=root, options=PrepareOptions(num_systems=(30, 12, 14)))
    return root


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def options(root: Path) -> Options:
    return Options(root=root, device="cpu")
