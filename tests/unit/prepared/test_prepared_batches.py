from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geomformer.errors import ConfigError, DataError
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.sampler import AtomBudgetSampler, padding_waste
from geomformer.prepared.splits import grouped_split, random_split, split_counts
from geomformer.records import MAX_PATH, Record


def graph(atoms: int, bonds: list[tuple[int, int]], seed: int = 0) -> Record:
    rng = np.random.default_rng(seed)
    both = [pair for i, j in bonds for pair in ((i, j), (j, i))]
    return Record(
        id=f"g{atoms}",
        atomic_numbers=rng.integers(1, 10, atoms).astype(np.uint8),
        positions=rng.normal(size=(1, atoms, 3)).astype(np.float32),
        conformer_source=np.zeros(1, np.uint8),
        atom_features=rng.integers(0, 2, (atoms, 9)).astype(np.uint8),
        bond_index=np.array(both, np.int16).reshape(-1, 2).T,
        bond_features=np.stack([rng.integers(0, n, len(both)) for n in (5, 6, 2)], axis=1).astype(np.uint8),
        orbital_energies=rng.normal(size=8).astype(np.float32),
        orbital_shares=rng.random((atoms, 4)).astype(np.float32),
        targets={"gap": 1.0 + atoms},
    )


def plain_paths(record: Record) -> np.ndarray:
    size = record.num_atoms
    paths = np.full((size, size), MAX_PATH + 1)
    assert record.bond_index is not None
    neighbours = [set(record.bond_index[1][record.bond_index[0] == i].tolist()) for i in range(size)]
    for start in range(size):
        frontier, length, seen = {start}, 0, {start}
        while frontier:
            for atom in frontier:
                paths[start, atom] = min(length, MAX_PATH)
            frontier = {other for atom in frontier for other in neighbours[atom]} - seen
            seen |= frontier
            length += 1
    return paths


RECORDS = [
    graph(1, []),
    graph(6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]),
    graph(5, [(0, 1), (2, 3)]),
    graph(MAX_PATH + 15, [(i, i + 1) for i in range(MAX_PATH + 14)]),
    graph(130, [(i, (i * 7 + 3) % 130) for i in range(0, 130, 2)] + [(i, i + 1) for i in range(60, 129)]),
]


@pytest.mark.parametrize("chosen", [[0], [1, 2], [0, 1, 2, 3], [3], [2, 0], [4, 1]])
def test_collate_equals_a_plain_loop(chosen: list[int]) -> None:
    records = [RECORDS[i] for i in chosen]
    targets = [record.positions[0] + 1 if i % 2 else None for i, record in enumerate(records)]
    batch = collate(
        [Sample(r, 10 + i, r.positions[0], target) for i, (r, target) in enumerate(zip(records, targets, strict=True))]
    )
    largest = max(record.num_atoms for record in records)
    assert batch.positions.shape == (len(records), largest, 3) and batch.positions.dtype == torch.float32
    assert batch.index.tolist() == [10 + i for i in range(len(records))]
    for i, record in enumerate(records):
        n = record.num_atoms
        assert batch.mask[i].tolist() == [True] * n + [False] * (largest - n)
        assert torch.equal(batch.positions[i, :n], torch.from_numpy(record.positions[0]))
        assert not batch.positions[i, n:].any() and not batch.atomic_numbers[i, n:].any()
        assert batch.atomic_numbers[i, :n].tolist() == record.atomic_numbers.tolist()
        assert batch.atom_features[i, :n].tolist() == record.atom_features.tolist()
        assert batch.orbital_energies[i].tolist() == record.orbital_energies.tolist()
        assert batch.orbital_shares[i, :n].tolist() == record.orbital_shares.tolist()
        assert not batch.orbital_shares[i, n:].any()
        np.testing.assert_array_equal(batch.shortest_path[i, :n, :n].numpy(), plain_paths(record))
        bonds = np.zeros((largest, largest), int)
        for (a, b), (kind, stereo, conjugated) in zip(record.bond_index.T, record.bond_features, strict=True):
            bonds[a, b] = 1 + (int(kind) * 6 + int(stereo)) * 2 + int(conjugated)
        np.testing.assert_array_equal(batch.bond_type[i].numpy(), bonds)
        if batch.target_positions is not None:
            found = batch.target_positions[i, :n]
            assert bool(found.isnan().all()) if targets[i] is None else torch.equal(found, torch.from_numpy(targets[i]))
    assert (batch.target_positions is None) == all(target is None for target in targets)
    assert batch.targets["gap"].tolist() == [1.0 + record.num_atoms for record in records]
    assert int(batch.bond_type.max()) <= 5 * 6 * 2


def test_collate_without_features_and_with_missing_targets() -> None:
    plain = Record("p", np.zeros((1, 2, 3), np.float32), np.zeros(1, np.uint8), np.array([1, 1], np.uint8))
    batch = collate([Sample(plain, 0, plain.positions[0])])
    assert batch.atom_features is None and batch.shortest_path is None and batch.targets == {}
    assert batch.orbital_energies is None and batch.orbital_shares is None
    both = collate(
        [Sample(RECORDS[1], 0, RECORDS[1].positions[0]), Sample(plain, 1, plain.positions[0])], features=False
    )
    assert both.targets["gap"][0] == 7.0 and math.isnan(both.targets["gap"][1])
    with pytest.raises(DataError, match="'p' has none"):
        collate([Sample(RECORDS[1], 0, RECORDS[1].positions[0]), Sample(plain, 1, plain.positions[0])])


def sizes(number: int, mean: float, spread: float, most: int) -> np.ndarray:
    return np.clip(np.random.default_rng(0).normal(mean, spread, number).round(), 1, most).astype(np.int32)


@pytest.mark.parametrize(
    ("mean", "spread", "most"), [(18.0, 3.0, 29), (9.0, 1.2, 9), (14.2, 2.5, 20), (25.0, 10.0, 90)]
)
@pytest.mark.parametrize(("batch_size", "max_atoms"), [(64, 4096), (64, 700), (256, 4000)])
def test_batches_cover_all_rows_within_budget_with_little_padding(
    mean: float, spread: float, most: int, batch_size: int, max_atoms: int
) -> None:
    atoms = sizes(30000, mean, spread, most)
    batches = AtomBudgetSampler(atoms, batch_size=batch_size, max_atoms=max_atoms, seed=1).batches(0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(atoms)))
    assert max(len(rows) for rows in batches) <= batch_size
    assert max(len(rows) * atoms[rows].max() for rows in batches) <= max_atoms
    assert padding_waste(atoms, batches) < 0.1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    atoms = sizes(1000, 18.0, 3.0, 29)

    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = AtomBudgetSampler(atoms, batch_size=16, max_atoms=400, seed=seed)
        return [rows.tolist() for rows in sampler.batches(epoch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3) and order(1, 2) != order(2, 2)
    assert {frozenset(rows) for rows in order(1, 2)} != {frozenset(rows) for rows in order(1, 3)}


def test_ranks_share_an_epoch() -> None:
    atoms = sizes(1000, 18.0, 3.0, 29)
    shares = [
        AtomBudgetSampler(atoms, batch_size=16, max_atoms=400, seed=1, world_size=3, rank=rank).batches(0)
        for rank in range(3)
    ]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch in share for row in batch.tolist()]
    assert set(rows) == set(range(1000)) and len(rows) < 1000 + 3 * 16


def test_without_shuffling_rows_stay_in_their_windows() -> None:
    atoms = sizes(3000, 18.0, 3.0, 29)
    sampler = AtomBudgetSampler(atoms, batch_size=4, max_atoms=400, shuffle=False)
    assert [rows.tolist() for rows in sampler.batches(0)] == [rows.tolist() for rows in sampler.batches(5)]
    assert max(sampler.batches(0)[0]) < 64 * 4


def test_sampler_refuses_what_cannot_work() -> None:
    with pytest.raises(DataError, match=r"2 systems have more atoms .* \(20\); the largest has 30"):
        AtomBudgetSampler(np.array([5, 21, 30]), batch_size=4, max_atoms=20)
    with pytest.raises(DataError, match="none"):
        AtomBudgetSampler(np.array([], int), batch_size=4, max_atoms=20)
    with pytest.raises(ConfigError, match="rank"):
        AtomBudgetSampler(np.array([5]), batch_size=4, max_atoms=20, world_size=2, rank=2)


def test_splits() -> None:
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1}
    assert split_counts(1000, shares) == {"train": 800, "valid": 100, "test": 100}
    assert split_counts(3, shares) == {"train": 1, "valid": 1, "test": 1}
    assert split_counts(1, shares) == {"train": 1, "valid": 0, "test": 0}
    labels = random_split(1000, shares, 7)
    assert np.bincount(labels).tolist() == [800, 100, 100]
    assert (labels == random_split(1000, shares, 7)).all() and (labels != random_split(1000, shares, 8)).any()
    with pytest.raises(ConfigError, match="add up to 1"):
        split_counts(10, {"train": 0.8, "valid": 0.1})


def test_equal_molecules_share_a_split() -> None:
    keys = np.random.default_rng(0).integers(0, 200, 1000).astype(np.uint64)
    labels = grouped_split(keys, {"train": 0.5, "test": 0.5}, 1)
    assert all(len(set(labels[keys == key].tolist())) == 1 for key in set(keys.tolist()))
    assert (labels == grouped_split(keys * np.uint64(977), {"train": 0.5, "test": 0.5}, 1)).all()
