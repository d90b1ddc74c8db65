"""Symmetries that hold for every architecture of the project.

A model is a module called on a `Batch` that returns scalars (B, T) and vectors (B, N, V, 3). Scalars are invariant
and vectors turn with the input under rotations and reflections; both ignore translations, order and padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from checks.comparison import Tolerance, assert_same
from checks.systems import alone, orthogonal, reorder, shifted, turned, with_garbage

from geomformer.models.network import ModelOutput
from geomformer.records import Batch

Model = Callable[[Batch], ModelOutput]


def vectors_mapped(output: ModelOutput, change: Callable[[torch.Tensor], torch.Tensor]) -> ModelOutput:
    return replace(output, vectors=None if output.vectors is None else change(output.vectors))


def assert_rotation(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    for name, determinant in (("rotation", 1), ("reflection", -1)):
        matrix = orthogonal(determinant)
        expected = vectors_mapped(model(batch), lambda v, m=matrix: v @ m.to(v.dtype).T)  # type: ignore[misc]
        assert_same(model(turned(batch, matrix)), expected, tolerance, name)


def assert_translation(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    assert_same(model(shifted(batch, torch.tensor([3.1, -4.7, 2.3]))), model(batch), tolerance, "translation")


def assert_permutation(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    order = torch.randperm(batch.mask.shape[1])
    expected = vectors_mapped(model(batch), lambda v: v[:, order])
    assert_same(model(reorder(batch, order)), expected, tolerance, "permutation")


def assert_padding(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    n = batch.mask.shape[1]
    output = model(with_garbage(batch, extra=3))
    if output.vectors is not None:
        assert not output.vectors[:, n:].any(), "padding: vectors of padded atoms are not zero"
    assert_same(vectors_mapped(output, lambda v: v[:, :n]), model(batch), tolerance, "padding")


def assert_alone(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    """A system alone gives what it gives inside the batch; errors are relative to the whole batch."""
    together = model(batch)
    for row in range(batch.num_systems):
        real = batch.mask[row]
        expected = ModelOutput(
            None if together.scalars is None else together.scalars[row : row + 1],
            None if together.vectors is None else together.vectors[row : row + 1, real],
            [],
            [],
        )
        assert_same(model(alone(batch, row)), expected, tolerance, f"system {row} alone", scale=together)


def assert_symmetries(model: Model, batch: Batch, tolerance: Tolerance) -> None:
    """All of the above, without gradients."""
    batch = batch.to(dtype=tolerance.dtype)
    with torch.no_grad():
        for check in (assert_rotation, assert_translation, assert_permutation, assert_padding, assert_alone):
            check(model, batch, tolerance)
