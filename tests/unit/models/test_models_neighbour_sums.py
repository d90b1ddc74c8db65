"""What PaiNN, TorchMD-Net ET and harmonics promise as sums over neighbours: cutoffs, pair lists, periodic copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks.architectures import build_network
from checks.comparison import relative_error
from checks.crystals import Crystal, slab, to_batch
from checks.systems import orthogonal, stack, system
from pydantic import ValidationError

from geomformer.config.harmonics import HarmonicsConfig
from geomformer.config.network import PairListConfig
from geomformer.config.painn import PaiNNConfig
from geomformer.config.torchmd_et import TorchMDETConfig

SIZE: dict[str, Any] = {"num_layers": 2, "embed_dim": 16, "num_heads": 4, "num_kernels": 8, "neighbour_cutoff": 4.0}
CONFIGS: dict[str, type[PairListConfig]] = {
    "painn": PaiNNConfig,
    "torchmd-et": TorchMDETConfig,
    "harmonics": HarmonicsConfig,
}
NAMES = pytest.mark.parametrize("name", CONFIGS)


@NAMES
def test_continuous_where_an_atom_enters(name: str) -> None:
    model = build_network(CONFIGS[name](**SIZE))
    start = torch.tensor([[0.0, 0, 0], [1.1, 0.4, 0], [0.2, 1.3, 0.3]]).double()
    batches = [
        stack([system(torch.cat([start, torch.tensor([[x, 0.0, 0.0]]).double()]))])
        for x in (3.5, 4.0 - 1e-7, 4.0 + 1e-7)
    ]
    for batch in batches:
        batch.atomic_numbers, batch.atom_features = batches[0].atomic_numbers, batches[0].atom_features
    with torch.no_grad():
        near, before, after = (model(batch).scalars for batch in batches)
    assert relative_error(before, after) < 1e-6
    assert relative_error(near, after) > 1e-6


@NAMES
def test_far_atoms_do_not_matter(name: str) -> None:
    model = build_network(CONFIGS[name](**SIZE, pooling="sum"))
    positions = torch.randn(4, 3).double()
    one, other = (stack([system(positions + shift)]) for shift in (0.0, 50.0))
    both = stack([system(torch.cat([positions, positions + 50.0]))])
    both.atomic_numbers = torch.cat([one.atomic_numbers, other.atomic_numbers], 1)  # type: ignore[list-item]
    both.atom_features = torch.cat([one.atom_features, other.atom_features], 1)  # type: ignore[list-item]
    with torch.no_grad():
        total = model(one).scalars + model(other).scalars
        assert relative_error(model(both).scalars, total) < 1e-12


@NAMES
def test_pair_lists_with_far_pairs_give_the_same(name: str) -> None:
    """A list may hold pairs beyond the cutoff: whoever made it looked further."""
    changes = {"vector_cutoff": False} if name == "torchmd-et" else {}
    model = build_network(CONFIGS[name](**SIZE, **changes))
    batch = stack([system(2.5 * torch.randn(6, 3).double())])
    distances = torch.cdist(batch.positions[0], batch.positions[0])
    assert bool((distances > 4.0).any())
    with torch.no_grad():
        everything = model(batch)
        batch.pairs = (distances < 4.0).nonzero().T
        batch.pair_shifts = torch.zeros(batch.pairs.shape[1], 3).double()
        listed = model(batch)
    assert relative_error(listed.scalars, everything.scalars) < 1e-12
    assert relative_error(listed.vectors, everything.vectors) < 1e-12


@NAMES
def test_an_answer_depends_on_the_crystal_alone(name: str) -> None:
    config = CONFIGS[name](**SIZE, images="keys", tags=True, atom_features=False, pooling="sum")
    model, crystal, rng = build_network(config), slab(), np.random.default_rng(1)
    turn = orthogonal(-1)
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, -3, 1]])
    same = {
        "other copies": crystal.other_copies(rng),
        "translation": crystal.moved(np.array([0.7, -11.3, 3.1])),
        "basis": crystal.other_basis(basis),
    }
    with torch.no_grad():
        expected = model(to_batch([crystal], config))
        for what, other in same.items():
            found = model(to_batch([other], config))
            assert relative_error(found.scalars, expected.scalars) < 1e-10, what
            assert relative_error(found.vectors, expected.vectors) < 1e-10, what
        found = model(to_batch([crystal.turned(turn.numpy())], config))
        assert relative_error(found.scalars, expected.scalars) < 1e-10
        assert relative_error(found.vectors, expected.vectors @ turn.T) < 1e-10
        single = model(to_batch([Crystal(crystal.positions, 20 * crystal.cell, crystal.numbers, crystal.tags)], config))
        assert relative_error(single.scalars, expected.scalars) > 1e-4, "copies must count"


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValidationError, match="must be a multiple of num_heads 3"):
        TorchMDETConfig(embed_dim=16, num_heads=3)
