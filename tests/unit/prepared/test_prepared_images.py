"""Near pairs against ASE's neighbour list and against brute force; images as atoms against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from checks.crystals import slab

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.errors import DataError
from geomformer.prepared.images import ADSORBATE, ImageOptions, copies_near_adsorbate, most_tokens, near_pairs, tokens

PBC = [(True, True, True), (True, False, True), (False, False, True), (False, False, False)]


@pytest.mark.parametrize("pbc", PBC, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_near_pairs_are_those_of_ase(seed: int, pbc: tuple[bool, bool, bool]) -> None:
    neighborlist = pytest.importorskip("ase.neighborlist")
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 2.0 + np.diag([4.0, 3.0, 6.0])
    positions = (rng.random((7, 3)) * 5.0 - 2.0) @ cell
    query, key, shift = near_pairs(positions, cell, np.array(pbc), 4.5)
    steps = np.rint(shift @ np.linalg.inv(cell)).astype(int)
    found = {(int(i), int(j), *s) for i, j, s in zip(query, key, steps.tolist(), strict=True)}
    i, j, s = neighborlist.primitive_neighbor_list("ijS", pbc, cell, positions, 4.5, self_interaction=False)
    expected = {(int(a), int(b), *c) for a, b, c in zip(i, j, s.tolist(), strict=True)}
    assert found - {(a, a, 0, 0, 0) for a in range(7)} == expected
    assert len(found) == len(query) == len(expected) + 7
    assert (np.diff(query) >= 0).all(), "ordered by query"
    length = np.linalg.norm(positions[key] + shift - positions[query], axis=1)
    assert (length < 4.5).all()


def test_molecules_have_pairs_without_copies() -> None:
    positions = np.array([[0.0, 0, 0], [0, 0, 1.0], [0, 0, 9.0]], np.float32)
    query, key, shift = near_pairs(positions, None, None, 2.0)
    assert list(zip(query.tolist(), key.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    assert not shift.any()
    assert shift.dtype == np.float32


def test_a_cell_without_volume_is_refused() -> None:
    with pytest.raises(DataError, match="independent lattice vectors"):
        near_pairs(np.zeros((2, 3)), np.ones((3, 3)), np.ones(3, bool), 3.0)


def test_a_flat_cell_is_refused_instead_of_filling_the_memory() -> None:
    with pytest.raises(DataError, match="too many periodic copies"):
        near_pairs(np.zeros((600, 3)), np.diag([10.0, 10.0, 1e-3]), np.ones(3, bool), 6.0)


def test_overlapping_atoms_are_refused() -> None:
    with pytest.raises(DataError, match="atoms overlap"):
        near_pairs(np.random.default_rng(0).random((33, 3)), np.eye(3) * 0.5, np.ones(3, bool), 6.0)


def test_images_near_the_adsorbate() -> None:
    crystal = slab(atoms=6)
    parent, shift = copies_near_adsorbate(crystal.positions, crystal.cell, np.ones(3, bool), crystal.tags, 5.0)
    expected = set()
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            for i in np.flatnonzero(crystal.tags != ADSORBATE):
                place = crystal.positions[i] + a * crystal.cell[0] + b * crystal.cell[1]
                near = min(np.linalg.norm(place - x) for x in crystal.positions[crystal.tags == ADSORBATE])
                if (a or b) and near < 5.0:
                    expected.add((int(i), a, b))
    steps = np.rint(shift @ np.linalg.inv(crystal.cell)).astype(int)
    assert (steps[:, 2] == 0).all()
    assert {(int(i), int(a), int(b)) for i, (a, b, _) in zip(parent, steps, strict=True)} == expected
    assert len(parent) == len(expected) > 0


def test_a_crop_keeps_what_moves_and_then_the_nearest() -> None:
    crystal = slab(atoms=12)
    pbc, options = np.ones(3, bool), ImageOptions(token_cutoff=8.0)
    everything = tokens(crystal.positions, crystal.cell, pbc, crystal.tags, options)
    kept, parent, shift = tokens(
        crystal.positions, crystal.cell, pbc, crystal.tags, ImageOptions(token_cutoff=8.0, max_tokens=20)
    )
    assert len(everything[0]) + len(everything[1]) > 20 == len(kept) + len(parent)
    assert set(np.flatnonzero(crystal.tags > 0)) <= set(kept.tolist())
    adsorbate = crystal.positions[crystal.tags == ADSORBATE]

    def nearest(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - adsorbate, axis=-1).min(1)

    chosen = nearest(
        np.concatenate([crystal.positions[kept][crystal.tags[kept] == 0], crystal.positions[parent] + shift])
    )
    of_all = nearest(
        np.concatenate([crystal.positions[crystal.tags == 0], crystal.positions[everything[1]] + everything[2]])
    )
    assert chosen.max() <= np.sort(of_all)[len(chosen) - 1] + 1e-9


def test_sizes_for_the_budget_bound_what_a_batch_holds() -> None:
    atoms = np.array([10, 40, 300])
    assert most_tokens(atoms, None).tolist() == [10, 40, 300]
    assert most_tokens(atoms, ImageOptions(pair_cutoff=5.0)).tolist() == [10, 40, 300]
    assert most_tokens(atoms, ImageOptions(token_cutoff=8.0)).tolist() == [90, 360, 2700]
    assert most_tokens(atoms, ImageOptions(token_cutoff=8.0, max_tokens=256)).tolist() == [90, 256, 300]


def test_options_follow_the_configuration() -> None:
    assert ImageOptions.of(GeoMFormerConfig()) is None
    keys = GeoMFormerConfig(images="keys", neighbour_cutoff=4.0)
    assert ImageOptions.of(keys) == ImageOptions(pair_cutoff=4.0)
    paper = GeoMFormerConfig(images="tokens", max_tokens=99, image_cutoff=7.0)
    assert ImageOptions.of(paper) == ImageOptions(token_cutoff=7.0)
    assert ImageOptions.of(paper, training=True) == ImageOptions(token_cutoff=7.0, max_tokens=99)
