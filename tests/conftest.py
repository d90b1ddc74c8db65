"""Shared by all tests: the folder on the path (`from checks...`), a fixed seed, precisions with tolerances, logging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Commands that run inside of a test set how much the library logs; other tests want to see all of it."""
    yield
    logger = logging.getLogger("geomformer")
    logger.setLevel(logging.NOTSET)
    logger.handlers.clear()
