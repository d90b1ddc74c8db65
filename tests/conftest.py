"""Shared by all tests: the folder on the path (`from checks...`), a fixed seed, precisions with their tolerances."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from checks.comparison import TOLERANCES, Tolerance


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20240722)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def tolerance(request: pytest.FixtureRequest) -> Tolerance:
    return TOLERANCES[request.param]
