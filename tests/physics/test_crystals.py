"""What an answer about a crystal may depend on: the crystal, and nothing in how it is written down.

Holds for images as keys and vectors from neighbours, the default of `is2re` and `is2rs`. Images as tokens (`*-paper`)
are tested for what they promise: rotation, translation, order of atoms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from checks.comparison import relative_error
from checks.crystals import Crystal, slab, to_batch
from checks.systems import orthogonal
from checks.variants import build

from geomformer.models.geomformer import GeoMFormer
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.images import ImageOptions
from geomformer.records import Batch, Record

TIGHT = 1e-10
PERIODIC: dict[str, Any] = {
    "images": "keys",
    "equivariant_input": "neighbours",
    "neighbour_cutoff": 5.0,
    "tags": True,
    "pooling": "sum",
    "atom_features": False,
    "bond_encoding": False,
    "path_encoding": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "one bias for all heads, ordered pairs": {"bias_per_head": False, "kernel_affine": "pairwise"},
    "no structural encoding": {"structural_encoding": False},
    "rms": {"norm": "rms"},
    "two passes": {"passes": 2},
}
PBC = [(True, True, True), (True, True, False), (False, True, True), (False, False, True), (False, False, False)]


def answer(model: GeoMFormer, crystal: Crystal) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(to_batch([crystal], model.config))
    return output.scalars[0], output.vectors[0, :, 0]


def assert_same(
    found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor], what: str
) -> None:
    for name, one, other in zip(("scalars", "vectors"), found, expected, strict=True):
        assert relative_error(one, other) < TIGHT, f"{name} change with {what}"


@pytest.mark.parametrize("pbc", PBC, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_answer_depends_on_the_crystal_alone(variant: str, pbc: tuple[bool, bool, bool]) -> None:
    model = build(num_layers=3, **PERIODIC, **VARIANTS[variant])
    crystal, rng = slab(pbc=pbc), np.random.default_rng(1)
    expected = answer(model, crystal)
    assert expected[1].abs().max() > 1e-3
    for determinant in (1, -1):
        matrix = orthogonal(determinant)
        turned = expected[0], expected[1] @ matrix.T
        assert_same(answer(model, crystal.turned(matrix.numpy())), turned, "rotation of cell and atoms")
    order = rng.permutation(len(crystal.numbers))
    assert_same(answer(model, crystal.reordered(order)), (expected[0], expected[1][order]), "order")
    assert_same(answer(model, crystal.moved(np.array([0.7, -11.3, 3.1]))), expected, "translation of the whole")
    assert_same(answer(model, crystal.other_copies(rng)), expected, "lattice shifts of single atoms")


@pytest.mark.parametrize("matrix", [[[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[2, 1, 0], [1, 1, 0], [0, -3, 1]]], ids=str)
@torch.no_grad()
def test_the_basis_of_the_lattice_does_not_matter(matrix: list[list[int]]) -> None:
    model = build(num_layers=3, **PERIODIC)
    crystal = slab()
    other = crystal.other_basis(np.array(matrix, float))
    assert_same(answer(model, other), answer(model, crystal), "the basis of the lattice")


@torch.no_grad()
def test_atoms_half_a_lattice_vector_apart() -> None:
    """Two copies are equally near; a nearest image would have to choose one."""
    cell = np.diag([4.0, 5.0, 6.0])
    positions = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [2.0, 2.5, 3.0]])
    crystal = Crystal(positions, cell, np.array([29, 8, 1]), np.array([1, 2, 2]))
    model = build(num_layers=3, **PERIODIC)
    expected = answer(model, crystal)
    for step in (-4.0, 4.0):
        moved = replace(crystal, positions=positions + np.array([[0.0, 0, 0], [step, 0, 0], [0, 0, 0]]))
        assert_same(answer(model, moved), expected, "the copy of an atom half-way")
    assert expected[1].abs().max() < 1e-12, "every atom sits on a centre of inversion"


@torch.no_grad()
def test_a_supercell_is_the_same_crystal() -> None:
    """Twice the cell with twice the atoms: vectors repeat, a sum over atoms doubles."""
    crystal = slab(atoms=5)
    double = Crystal(
        np.concatenate([crystal.positions, crystal.positions + crystal.cell[0]]),
        crystal.cell * np.array([[2.0], [1.0], [1.0]]),
        np.tile(crystal.numbers, 2),
        np.tile(crystal.tags, 2),
    )
    model = build(num_layers=3, **PERIODIC)
    scalars, vectors = answer(model, crystal)
    assert_same(answer(model, double), (2.0 * scalars, vectors.repeat(2, 1)), "the supercell")


@torch.no_grad()
def test_padding_and_company() -> None:
    model = build(num_layers=3, **PERIODIC)
    crystals = [slab(0, 9), slab(1, 5), slab(2, 1), slab(3, 12, (True, True, False))]
    together = model(to_batch(crystals, model.config))
    for row, crystal in enumerate(crystals):
        n = len(crystal.numbers)
        scalars, vectors = answer(model, crystal)
        assert_same((together.scalars[row], together.vectors[row, :n, 0]), (scalars, vectors), "company")
        assert not together.vectors[row, n:].any()


def test_gradients_are_finite_at_degenerate_geometries() -> None:
    """One atom and its own copies, two atoms at one place, no periodic direction."""
    model = build(num_layers=2, **PERIODIC)
    one = slab(0, 1)
    same = replace(slab(0, 3), positions=np.zeros((3, 3)))
    batch = to_batch([one, same, slab(1, 4, (False, False, False))], model.config)
    positions = batch.positions.clone().requires_grad_()
    output = model(replace(batch, positions=positions))
    (output.scalars.sum() + output.vectors.square().sum()).backward()
    assert torch.isfinite(positions.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_energy_is_continuous_where_a_copy_enters() -> None:
    """An atom crosses the cutoff of another: value and slope change by no step."""
    model = build(num_layers=2, **PERIODIC)
    cell = np.diag([30.0, 30.0, 30.0])
    values = []
    for distance in (4.999999, 5.000001):
        positions = np.array([[0.0, 0.0, 0.0], [0.3, 1.0, 0.2], [distance, 0.0, 0.0]])
        batch = to_batch([Crystal(positions, cell, np.array([29, 8, 1]), np.array([1, 2, 2]))], model.config)
        x = batch.positions.requires_grad_()
        energy = model(batch).scalars[0, 0]
        energy.backward()
        values.append((float(energy.detach()), x.grad.clone()))
    (e1, g1), (e2, g2) = values
    assert abs(e1 - e2) < 1e-5
    assert (g1 - g2).abs().max() < 1e-4


TOKENS: dict[str, Any] = {
    **PERIODIC,
    "images": "tokens",
    "equivariant_input": "centroid",
    "image_cutoff": 6.0,
    "bias_per_head": False,
}


def token_batch(crystal: Crystal, options: ImageOptions) -> Batch:
    record = Record(
        id="slab",
        positions=crystal.positions[None],
        conformer_source=np.zeros(1, np.uint8),
        atomic_numbers=crystal.numbers,
        cell=crystal.cell,
        pbc=np.array(crystal.pbc),
        tags=crystal.tags,
    )
    return collate([Sample(record, 0, crystal.positions)], features=False, images=options).to(dtype=torch.float64)


@torch.no_grad()
def test_images_as_tokens_turn_and_move_with_the_slab() -> None:
    """Float32 positions of a batch bound the agreement here. Lattice shifts of single atoms do change the answer:
    the centroid moves, and an image is looked for in the eight cells around only.
    """
    model = build(num_layers=3, **TOKENS)
    crystal, options = slab(), ImageOptions.of(model.config)
    assert options is not None

    def run(changed: Crystal) -> ModelOutput:
        return model(token_batch(changed, options))

    own = len(crystal.numbers)
    expected = run(crystal)
    assert expected.vectors.shape[1] > own, "there must be images"
    assert not expected.vectors[:, own:].any(), "images do not move"
    matrix = orthogonal(1)
    turned = run(crystal.turned(matrix.numpy()))
    assert relative_error(turned.scalars, expected.scalars) < 1e-5
    assert relative_error(turned.vectors[:, :own], expected.vectors[:, :own] @ matrix.T) < 1e-5
    moved = run(crystal.moved(np.array([1.0, 2.0, 3.0])))
    assert relative_error(moved.scalars, expected.scalars) < 1e-5
    assert relative_error(run(crystal.other_copies(np.random.default_rng(0))).scalars, expected.scalars) > 1e-4


@torch.no_grad()
def test_images_as_tokens_start_with_vectors_of_their_own() -> None:
    """Only the mean leaves images out: an image far from the centroid has a direction like any atom."""
    model = build(num_layers=1, **TOKENS)
    options = ImageOptions.of(model.config)
    assert options is not None
    batch = token_batch(slab(), options)
    pair = model.pairs[0]
    start = pair.vectors(batch, batch.atomic_numbers, None)
    assert batch.copies is not None and batch.copies.any()
    assert start[batch.copies].flatten(1).norm(dim=1).min() > 1e-3
    alone = replace(batch, copies=None, mask=batch.own)
    assert torch.equal(pair.vectors(alone, batch.atomic_numbers, None)[batch.own], start[batch.own])
