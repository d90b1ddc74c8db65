"""What loops over atoms need that check a network summing over neighbours: pairs one by one, and a comparison with it.

Nothing here is taken from the networks but their weights, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import pi

import torch
from checks.comparison import relative_error
from checks.systems import alone
from torch import Tensor
from torch.nn import functional as F

from geomformer.models.network import Network
from geomformer.records import Batch

Weights = dict[str, Tensor]

Streams = tuple[Tensor, Tensor]
"""z_inv (n, D) and z_equ (n, 3, D) of one system."""

REACH = 3
"""Copies along every lattice vector on either side; the cells of the tests are no thinner than half a cutoff."""


@dataclass(frozen=True)
class Pair:
    """Atom i and one copy of atom j: distance, unit vector from i to it, and whether it is i itself."""

    i: int
    j: int
    d: Tensor
    u: Tensor
    itself: bool


def pairs_within(cutoff: float, x_N3: Tensor, cell_33: Tensor | None = None) -> list[Pair]:
    """All of them, found by trying every copy."""
    reach, found = (0 if cell_33 is None else REACH), []
    for i, j, *step in product(range(len(x_N3)), range(len(x_N3)), *[range(-reach, reach + 1)] * 3):
        if i == j and not any(step):
            found.append(Pair(i, j, x_N3.new_zeros(()), x_N3.new_zeros(3), True))
            continue
        shift = 0.0 if cell_33 is None else x_N3.new_tensor(step) @ cell_33
        r = x_N3[j] + shift - x_N3[i]
        if float(r.detach().norm()) < cutoff:
            d = r.square().sum().sqrt()
            found.append(Pair(i, j, d, r / d, False))
    return found


def cosine(d: Tensor, cutoff: float) -> Tensor:
    """The cutoff function of a distance inside the cutoff."""
    return (torch.cos(pi * d / cutoff) + 1.0) / 2.0


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """The map of that name, with its bias if it has one."""
    y = w[f"{name}.weight"] @ x
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def two_maps(w: Weights, name: str, x: Tensor) -> Tensor:
    """Linear, SiLU, linear."""
    return linear(w, f"{name}.2", F.silu(linear(w, f"{name}.0", x)))


def embedded(w: Weights, name: str, model: Network, batch: Batch, atom: int) -> Tensor:
    """The sum of a row for each category of an atom and a map of its numbers. (D,)"""
    config, total, used = model.config, torch.zeros(model.config.embed_dim, dtype=torch.float64), 0
    categories = [] if config.particles else [(int(batch.atomic_numbers[0, atom]), 119)]
    if config.atom_features:
        sizes = (119, 7, 12, 12, 10, 6, 6, 2, 2)
        categories += list(zip(batch.atom_features[0, atom].tolist(), sizes, strict=True))
    if config.tags:
        categories.append((int(batch.tags[0, atom]), 3))
    for value, size in categories:
        total = total + w[f"{name}.tables.weight"][used + value]
        used += size
    if config.particles:
        numbers = torch.stack([batch.particle_charges[0, atom], batch.velocities[0, atom].norm()])
        total = total + linear(w, f"{name}.numbers", numbers)
    return total


def first_vectors(w: Weights, model: Network, batch: Batch, atom: int) -> Tensor:
    """(3, D): zero, or v w for particles."""
    if not model.config.particles:
        return torch.zeros(3, model.config.embed_dim, dtype=torch.float64)
    return torch.outer(batch.velocities[0, atom], w["velocity_input.weight"])


def assert_same_as_loops(model: Network, batch: Batch, loops: Callable[[Weights, Batch], Streams]) -> None:
    """Streams, their derivatives by positions, and by weights of those derivatives too, of every system of a batch.

    Values agree to 1e-12, derivatives to 1e-11, relative to the largest of each tensor.
    """
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    batch = replace(batch, positions=batch.positions.clone().requires_grad_())
    output = model(batch)
    found, expected = [], []
    for row in range(batch.num_systems):
        n = int(batch.mask[row].sum())
        assert bool(batch.mask[row, :n].all()), "padding comes last"
        wanted = loops(weights, batch if batch.num_systems == 1 else alone(batch, row))
        for z, other in zip((output.z_inv[0][row, :n], output.z_equ[0][row, :n]), wanted, strict=True):
            assert relative_error(z, other) < 1e-12
            found.append(z)
            expected.append(other)
    ours = derivatives(found, batch.positions, list(model.parameters()))
    theirs = derivatives(expected, batch.positions, list(weights.values()))
    for name, mine, loop in zip(["positions", *weights], ours, theirs, strict=True):
        assert (mine is None) == (loop is None) == name.split(".")[0].endswith("_head"), name
        if mine is not None and loop is not None:
            assert relative_error(mine, loop) < 1e-11, name


def derivatives(streams: list[Tensor], positions: Tensor, weights: list[Tensor]) -> list[Tensor | None]:
    """Slopes s = dT/dx of a fixed random combination T of the streams, then dT/dw + d|s|^2/dw of every weight."""
    generator = torch.Generator().manual_seed(3)
    total = torch.stack([(z * torch.randn(z.shape, generator=generator, dtype=z.dtype)).sum() for z in streams]).sum()
    (slopes,) = torch.autograd.grad(total, positions, create_graph=True)
    assert bool(slopes.abs().max() > 1e-3)
    return [slopes, *torch.autograd.grad(total + slopes.square().sum(), weights, allow_unused=True)]
