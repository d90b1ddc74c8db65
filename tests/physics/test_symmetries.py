"""Symmetries of the whole model at 12 layers, for every switch and every kind of geometry."""

from __future__ import annotations

import pytest
import torch
from checks.comparison import Tolerance
from checks.equivariance import assert_symmetries
from checks.systems import all_geometries, stack, system
from checks.variants import VARIANTS, build


@pytest.mark.parametrize("name", VARIANTS)
def test_symmetries(name: str, tolerance: Tolerance) -> None:
    model = build(dtype=tolerance.dtype, **VARIANTS[name])
    assert_symmetries(model, all_geometries(), tolerance)


@pytest.mark.parametrize("change", [{}, {"norm": "rms"}], ids=["whitening", "rms"])
def test_thin_slab(change: dict[str, str], tolerance: Tolerance) -> None:
    """Between flat and generic there is no thickness at which a symmetry is lost."""
    flat = 2.0 * torch.randn(10, 3, dtype=torch.float64)
    slabs = [flat * torch.tensor([1.0, 1.0, 10.0**power]) for power in range(-8, 0)]
    assert_symmetries(build(dtype=tolerance.dtype, **change), stack([system(slab) for slab in slabs]), tolerance)
