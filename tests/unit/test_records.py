"""Moving batches."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from geomformer.records import Batch


def batch() -> Batch:
    return Batch(
        positions=torch.rand(2, 3, 3),
        mask=torch.ones(2, 3, dtype=torch.bool),
        index=torch.arange(2),
        atomic_numbers=torch.ones(2, 3, dtype=torch.long),
        targets={"gap": torch.rand(2)},
    )


def test_only_numbers_with_a_fraction_change_their_type() -> None:
    moved = batch().to("cpu", torch.float64)
    assert moved.positions.dtype == moved.targets["gap"].dtype == torch.float64
    assert (moved.mask.dtype, moved.index.dtype) == (torch.bool, torch.long)
    assert moved.atomic_numbers is not None and moved.atomic_numbers.dtype == torch.long
    assert moved.velocities is None


@pytest.mark.parametrize(("device", "ahead"), [("cpu", False), ("cuda:0", True)])
def test_only_copies_to_a_gpu_run_ahead(device: str, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def copy(tensor: Tensor, **options: object) -> Tensor:
        asked.append(options["non_blocking"])
        return tensor

    monkeypatch.setattr(Tensor, "to", copy)
    batch().to(device)
    assert asked == [ahead] * 5


def test_every_tensor_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    before, after = batch(), batch().pin_memory()
    for item in fields(Batch):
        old, new = getattr(before, item.name), getattr(after, item.name)
        assert (old is None) == (new is None)
    assert after.index.tolist() == [1, 2] and after.targets["gap"].min() >= 1
