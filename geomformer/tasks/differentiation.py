"""Running a network so that its answer can be differentiated by the positions, and that derivative by the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from geomformer.records import Batch


def by_positions(batch: Batch) -> Batch:
    """The same batch with positions that remember what is computed from them."""
    return replace(batch, positions=batch.positions.detach().requires_grad_())


@contextmanager
def derivatives() -> Iterator[None]:
    """Records gradients, and has a GPU's attention take the kernel that has a second derivative: fused ones have none.
    On a CPU `nn.ops.attend` is an explicit product in any case.
    """
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


def gradient(values_B: Tensor, positions_BN3: Tensor, *, train: bool) -> Tensor:
    """Gradient of each system's value by its own positions. (B, N, 3)

    Args:
        values_B: one value per system, which reads no other system.
        positions_BN3: what they were computed from, see `by_positions`.
        train: the result is to be differentiated again.

    Raises:
        ValueError: the values were computed without recording how they depend on the positions.
    """
    if not (positions_BN3.requires_grad and values_B.requires_grad):
        raise ValueError("the network ran without recording how its answer depends on the positions")
    (found,) = torch.autograd.grad(values_B.sum(), positions_BN3, create_graph=train, retain_graph=True)
    return found
