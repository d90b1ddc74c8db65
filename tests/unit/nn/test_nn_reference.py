"""Blocks, kernels and encodings against the loop reading of their equations."""

from __future__ import annotations

import pytest
import torch
from checks import reference_block as plain
from checks.comparison import relative_error
from checks.systems import NUM_BOND_TYPES, symmetric
from checks.variants import randomise

from geomformer.nn import norms
from geomformer.nn.basis import AtomAffine, GaussianBasis, PairAffine, cosine_cutoff
from geomformer.nn.block import BlockOptions, GeoMFormerBlock
from geomformer.nn.encodings import (
    DIRECTION_EPS,
    AtomEmbedding,
    CentroidInput,
    NeighbourInput,
    StructuralEncoding,
    mask_keys,
)
from geomformer.nn.neighbours import find_edges
from geomformer.records import BOND_FEATURE_SIZES, MAX_PATH

D, H, K = 12, 3, 7
SIZES = (5, 3)
"""Atoms of the two systems of a batch: the second is padded."""


def mask() -> torch.Tensor:
    return torch.arange(max(SIZES))[None] < torch.tensor(SIZES)[:, None]


@pytest.mark.parametrize(
    "change",
    [{}, {"wiring": "parallel"}, {"group": "e3"}, {"norm_eps": 0.03}, {"num_heads": 1}],
    ids=["sequential", "parallel", "e3", "small eps", "one head"],
)
@pytest.mark.parametrize("bias_heads", ["per head", "shared"])
def test_block_is_equation_3(change: dict[str, object], bias_heads: str) -> None:
    options = BlockOptions(**{"dim": D, "ffn_dim": 20, "num_heads": H, **change})  # type: ignore[arg-type]
    block = randomise(GeoMFormerBlock(options)).double()
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    z_inv, z_equ = torch.randn(2, 5, D).double(), torch.randn(2, 5, 3, D).double()
    bias = torch.randn(2, options.num_heads if bias_heads == "per head" else 1, 5, 5).double()
    inv, equ = block(z_inv, z_equ, mask_keys(bias, mask(), torch.float64), mask())
    for row, n in enumerate(SIZES):
        expected = plain.block(block, z_inv[row, :n], z_equ[row, :n], bias[row, :, :n, :n], norms.FLOOR)
        assert relative_error(inv[row, :n], expected[0]) < 1e-12
        assert relative_error(equ[row, :n], expected[1]) < 1e-12


def test_switched_off_modules_leave_the_streams() -> None:
    off = {f"{stream}_{part}": False for stream in ("inv", "equ") for part in ("self_attention", "cross_attention")}
    options = BlockOptions(dim=D, ffn_dim=20, num_heads=H, inv_ffn=False, equ_ffn=False, **off)
    z_inv, z_equ = torch.randn(2, 5, D), torch.randn(2, 5, 3, D)
    inv, equ = GeoMFormerBlock(options)(z_inv, z_equ, torch.zeros(2, 1, 5, 5), mask())
    assert torch.equal(inv, z_inv)
    assert torch.equal(equ, z_equ)


@pytest.mark.parametrize("start", ["spread", "uniform"])
def test_gaussian_basis(start: str) -> None:
    basis = GaussianBasis(K, start).double()
    basis.widths.data[0] *= -1.0
    basis.widths.data[1] = 0.0
    x = torch.linspace(-1.0, 12.0, 40, dtype=torch.float64)
    expected = torch.stack([plain.kernels(value, basis) for value in x])
    assert relative_error(basis(x), expected) < 1e-12


def test_spread_kernels_resolve_every_distance() -> None:
    basis = GaussianBasis(32, "spread", reach=9.0)
    d = torch.linspace(0.0, 9.0, 200)
    assert basis(d).sum(-1).min() > 0.5 * basis(d).sum(-1).max()


def test_affines() -> None:
    types = torch.tensor([[0, 2, 1]])
    d = torch.rand(1, 3, 3).double()
    for factorised in (True, False):
        affine = PairAffine(3, factorised).double()
        both = types[:, :, None], types[:, None, :]
        assert torch.allclose(affine(d, *both), d), "the affine starts as the identity"
        for parameter in affine.parameters():
            parameter.data += torch.randn_like(parameter)
        rows = [
            torch.stack([plain.pair_distance(affine, d[0, i, j], a, b) for j, b in enumerate((0, 2, 1))])
            for i, a in enumerate((0, 2, 1))
        ]
        assert torch.allclose(affine(d, *both)[0], torch.stack(rows), atol=1e-12)
    atoms = AtomAffine(3).double()
    atoms.gamma.data += torch.tensor([0.1, 0.2, 0.3]).double()
    assert torch.allclose(atoms(d[:, 0], types), d[:, 0] * torch.tensor([1.1, 1.3, 1.2]).double(), atol=1e-6)


def test_cutoff_is_smooth_and_ends() -> None:
    d = torch.tensor([0.0, 2.5, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    f = cosine_cutoff(d, 5.0)
    assert torch.allclose(f, torch.tensor([1.0, 0.5, 0.0, 0.0]).double(), atol=1e-12)
    (slope,) = torch.autograd.grad(f.sum(), d)
    assert slope[[0, 2, 3]].abs().max() < 1e-12


@pytest.mark.parametrize("factorised", [True, False])
@pytest.mark.parametrize("outputs", [H, 1])
@pytest.mark.parametrize("graph", [True, False])
def test_structural_encoding(factorised: bool, outputs: int, graph: bool) -> None:
    extra = (BOND_FEATURE_SIZES, MAX_PATH + 2) if graph else ((), 0)
    encoding = randomise(StructuralEncoding(9, GaussianBasis(K), outputs, factorised, *extra)).double()
    x, types = 2.0 * torch.randn(4, 3).double(), torch.randint(9, (4,))
    bond, path = symmetric(torch.randint(NUM_BOND_TYPES, (4, 4))), symmetric(torch.randint(MAX_PATH + 2, (4, 4)))
    bias = encoding(torch.cdist(x, x)[None], types[None], bond[None], path[None])
    assert bias.shape == (1, outputs, 4, 4)
    assert relative_error(bias[0], plain.structural_encoding(encoding, x, types, bond, path)) < 1e-12


def test_every_bond_has_its_value() -> None:
    bond = randomise(StructuralEncoding(2, GaussianBasis(K), H, True, BOND_FEATURE_SIZES)).bond
    assert bond is not None
    with torch.no_grad():
        for table in bond.tables:
            table += torch.randn_like(table)
        values = bond(torch.arange(NUM_BOND_TYPES)[None, None])[0, 0]
        assert torch.allclose(values, torch.stack([plain.bond_value(bond, code) for code in range(NUM_BOND_TYPES)]))


@pytest.mark.parametrize("centre", [True, False])
def test_centroid_input(centre: bool) -> None:
    layer = randomise(CentroidInput(D, 9, GaussianBasis(D), centre)).double()
    x, types = torch.randn(2, 5, 3).double() + 1.0, torch.randint(9, (2, 5))
    out = layer(x, types, mask())
    for row, n in enumerate(SIZES):
        expected = plain.centroid_input(layer, x[row, :n], types[row, :n], DIRECTION_EPS)
        assert relative_error(out[row, :n], expected) < 1e-12


def test_neighbour_input() -> None:
    layer = randomise(NeighbourInput(D, 9, GaussianBasis(K), 3.0)).double()
    x, types = 1.5 * torch.randn(2, 5, 3).double(), torch.randint(9, (2, 5))
    out = layer(find_edges(x, mask(), None, None), types)
    for row, n in enumerate(SIZES):
        expected = plain.neighbour_input(layer, x[row, :n], types[row, :n], DIRECTION_EPS)
        assert relative_error(out[row, :n], expected) < 1e-12


def test_neighbour_input_ignores_far_atoms_and_has_full_rank() -> None:
    layer = NeighbourInput(D, 9, GaussianBasis(K), 5.0).double()
    x, types = torch.randn(1, 6, 3).double(), torch.randint(9, (1, 6))
    near = layer(find_edges(x[:, :5], torch.ones(1, 5, dtype=torch.bool), None, None), types[:, :5])
    x[0, 5] = 100.0
    far = layer(find_edges(x, torch.ones(1, 6, dtype=torch.bool), None, None), types)
    assert torch.allclose(far[:, :5], near, atol=1e-14)
    assert (torch.linalg.matrix_rank(near[0]) == 3).all()


def test_atom_embedding_sums_its_inputs() -> None:
    layer = AtomEmbedding(D, [4, 3, 5], num_numbers=2).double()
    categories, numbers = torch.tensor([[[3, 0, 4], [0, 2, 1]]]), torch.randn(1, 2, 2).double()
    assert layer.tables is not None
    tables = layer.tables.weight.split([4, 3, 5])
    assert layer.numbers is not None
    expected = [
        sum(tables[f][value] for f, value in enumerate(row)) + plain.mapped(numbers[0, i], layer.numbers)
        for i, row in enumerate(categories[0].tolist())
    ]
    assert torch.allclose(layer(categories, numbers)[0], torch.stack(expected), atol=1e-12)


def test_mask_keys_hides_padding_only() -> None:
    bias = torch.randn(2, H, 5, 5)
    masked = mask_keys(bias, mask(), torch.float32)
    assert torch.equal(masked[0], bias[0])
    assert torch.equal(masked[1, :, :, :3], bias[1, :, :, :3])
    assert torch.isneginf(masked[1, :, :, 3:]).all()
    assert mask_keys(None, mask(), torch.float64).shape == (2, 1, 1, 5)
