from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from geomformer.errors import DataError
from geomformer.prepared.cache import mappable
from geomformer.prepared.collate import Sample, collate, collate_gathered
from geomformer.prepared.gathered import Gathered
from geomformer.prepared.mapped import MappedFile
from geomformer.prepared.schema import LIST_COLUMNS, schema_for, to_table
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Record


def record(i: int) -> Record:
    """Some have no geometry to predict, some no 2D graph, some no forces."""
    rng = np.random.default_rng(i)
    atoms, bonds, conformers = 1 + i % 5, i % 4, 1 + i % 3
    return Record(
        id=f"m{i}",
        smiles="C" * atoms,
        atomic_numbers=rng.integers(1, 10, atoms).astype(np.uint8),
        positions=rng.normal(size=(conformers, atoms, 3)).astype(np.float32),
        conformer_source=np.full(conformers, 2, np.uint8),
        target_positions=None if i % 4 == 1 else rng.normal(size=(atoms, 3)).astype(np.float32),
        forces=None if i % 7 == 3 else rng.normal(size=(atoms, 3)).astype(np.float32),
        cell=rng.normal(size=(3, 3)).astype(np.float32),
        pbc=np.array([True, False, i % 2 == 0]),
        tags=rng.integers(0, 3, atoms).astype(np.int8),
        fixed=rng.integers(0, 2, atoms).astype(bool),
        atom_features=None if i % 5 == 4 else rng.integers(0, 2, (atoms, 9)).astype(np.uint8),
        bond_index=None if i % 5 == 4 else rng.integers(0, atoms, (2, bonds)).astype(np.int16),
        bond_features=None if i % 5 == 4 else rng.integers(0, 2, (bonds, 3)).astype(np.uint8),
        targets={"gap": float("nan") if i % 6 == 2 else 0.1 * i, "mu": -1.0 * i},
    )


RECORDS = [record(i) for i in range(23)]


def mapped(path: Path, records: list[Record], block_rows: int) -> Path:
    """Writes records as a split's Arrow file of blocks of a few rows."""
    schema = schema_for({"gap": "ev", "mu": "debye"})
    tables = [
        mappable(to_table(records[start : start + block_rows], schema)) for start in range(0, len(records), block_rows)
    ]
    with pa.ipc.new_file(str(path), tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
    return path


def index_file(path: Path, rows: list[int]) -> Path:
    np.save(path, np.array(rows, np.int64))
    return path


@pytest.mark.parametrize("block_rows", [4, 100])
def test_a_split_can_be_some_rows_of_a_file(tmp_path: Path, block_rows: int) -> None:
    rows = [20, 3, 3, 0, 11]
    arrow = mapped(tmp_path / "all.arrow", RECORDS, block_rows)
    split = PreparedSplit(arrow, "test", index_file(tmp_path / "test.npy", rows))
    for again in (split, pickle.loads(pickle.dumps(split))):
        assert len(again) == 5 and again.name == "test" and again.ids == [f"m{row}" for row in rows]
        assert [found.id for found in again] == again.ids and again[-1].id == "m11"
        assert again.num_atoms.tolist() == [RECORDS[row].num_atoms for row in rows]
        np.testing.assert_array_equal(again.target("gap"), [RECORDS[row].targets["gap"] for row in rows])
        np.testing.assert_array_equal(again[1].positions, RECORDS[3].positions)
        with pytest.raises(IndexError, match="row 5 of 5"):
            again[5]
    assert len(pickle.dumps(split)) < 1000


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arrow = mapped(tmp_path / "all.arrow", RECORDS, 10)
    with pytest.raises(DataError, match=r"from 0 to 22 in .*rows.npy, found 1 to 23"):
        PreparedSplit(arrow, "test", index_file(tmp_path / "rows.npy", [1, 23]))
    np.save(tmp_path / "rows.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"found float64 of shape \(2, 2\)"):
        PreparedSplit(arrow, "test", tmp_path / "rows.npy")
    with pytest.raises(DataError, match="Cannot read the rows"):
        PreparedSplit(arrow, "test", tmp_path / "absent.npy")
    (tmp_path / "rows.npy").write_bytes(b"PK")
    with pytest.raises(DataError, match="Cannot read the rows"):
        PreparedSplit(arrow, "test", tmp_path / "rows.npy")
    assert len(PreparedSplit(arrow, "none", index_file(tmp_path / "empty.npy", []))) == 0


def same(found: Gathered, records: list[Record], rows: list[int], conformer: list[int]) -> None:
    """Compares with the records, field by field, joined in a plain way."""
    assert found.index.tolist() == rows
    assert found.num_atoms.tolist() == [item.num_atoms for item in records]
    expected = [item.positions[c] for item, c in zip(records, conformer, strict=True)]
    np.testing.assert_array_equal(found.positions, np.concatenate(expected))
    labels = [item.target_positions for item in records]
    if all(label is None for label in labels):
        assert found.target_positions is None
    else:
        filled = [np.full((r.num_atoms, 3), np.nan) if p is None else p for p, r in zip(labels, records, strict=True)]
        np.testing.assert_array_equal(found.target_positions, np.concatenate(filled))
    for name in set(LIST_COLUMNS) - {"positions", "conformer_source", "target_positions"}:
        values = [getattr(item, name) for item in records]
        without = [item.id for item, value in zip(records, values, strict=True) if value is None]
        assert found.lacking.get(name) == (without[0] if 0 < len(without) < len(values) else None), name
        assert (name in found.fields) == (not without), name
        if not without:
            joined = {"bond_index": np.hstack, "cell": np.stack, "pbc": np.stack}.get(name, np.concatenate)(values)
            assert found.fields[name].dtype == joined.dtype
            np.testing.assert_array_equal(found.fields[name], joined, err_msg=name)
    if "bond_index" in found.fields:
        assert found.num_bonds is not None
        assert found.num_bonds.tolist() == [item.bond_index.shape[1] for item in records]
    for target in ("gap", "mu"):
        np.testing.assert_array_equal(found.targets[target], [item.targets[target] for item in records])


@pytest.mark.parametrize("block_rows", [3, 8, 100])
@pytest.mark.parametrize("seed", range(10))
def test_gathered_rows_are_those_of_the_records(tmp_path: Path, block_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    subset = rng.permutation(23)[:15].tolist()
    arrow = mapped(tmp_path / "all.arrow", RECORDS, block_rows)
    for split, of in (
        (PreparedSplit(arrow, "all"), list(range(23))),
        (PreparedSplit(arrow, "some", index_file(tmp_path / "some.npy", subset)), subset),
    ):
        for count in (1, 2, 40):
            rows = rng.integers(len(split), size=count)
            records = [RECORDS[of[row]] for row in rows.tolist()]
            counts = split.num_conformers(rows)
            assert counts.tolist() == [item.num_conformers for item in records]
            conformer = rng.integers(counts)
            same(split.gather(rows, conformer), records, rows.tolist(), conformer.tolist())
            same(split.gather(rows), records, rows.tolist(), [0] * count)


@pytest.mark.parametrize("rows", [[0, 5, 6, 15], [12, 12, 2], [1, 5]])
def test_collated_rows_are_those_of_collated_records(tmp_path: Path, rows: list[int]) -> None:
    split = PreparedSplit(mapped(tmp_path / "all.arrow", RECORDS, 4), "all")
    records = [RECORDS[row] for row in rows]
    expected = collate(
        [Sample(r, row, r.positions[0], r.target_positions) for r, row in zip(records, rows, strict=True)]
    )
    found = collate_gathered(split.gather(np.array(rows)))
    assert found.shortest_path is not None and (found.target_positions is None) == (rows == [1, 5])
    for name, value in vars(expected).items():
        if name == "targets":
            torch.testing.assert_close(found.targets, value, rtol=0, atol=0, equal_nan=True)
        elif value is None:
            assert getattr(found, name) is None
        else:
            torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_batch_in_which_only_some_have_a_field_is_refused(tmp_path: Path) -> None:
    systems = PreparedSplit(mapped(tmp_path / "all.arrow", RECORDS, 4), "all").gather(np.array([0, 9, 4]))
    with pytest.raises(DataError, match=r"Expected 'atom_features' .* 'm9' has none"):
        collate_gathered(systems)
    assert collate_gathered(systems, features=False).atom_features is None
    systems = PreparedSplit(tmp_path / "all.arrow", "all").gather(np.array([0, 17]))
    with pytest.raises(DataError, match=r"Expected 'forces' .* 'm17' has none"):
        collate_gathered(systems, features=False)


def test_rows_and_conformers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    split = PreparedSplit(mapped(tmp_path / "all.arrow", RECORDS, 4), "all")
    for rows in ([0, 23], [-1]):
        with pytest.raises(IndexError, match="of 23"):
            split.gather(np.array(rows))
    for conformer in ([0, 2], [-1, 0]):
        with pytest.raises(IndexError, match="no conformer"):
            split.gather(np.array([2, 1]), np.array(conformer))
    assert len(split.gather(np.zeros(0, int)).positions) == 0


def test_lists_beyond_the_reach_of_32_bits_are_found(tmp_path: Path) -> None:
    far = MappedFile(mapped(tmp_path / "all.arrow", RECORDS, 8))
    column = far.lists["forces"]
    column._value_begins = column._value_begins + 2**31
    begins, lengths = column.bounds(*far.locate(np.array([0, 9, 22])))
    assert begins.dtype == np.int64 and begins.min() >= 2**31 and lengths.tolist() == [3, 15, 9]


def test_random_access_keeps_no_memory(tmp_path: Path) -> None:
    split = PreparedSplit(mapped(tmp_path / "all.arrow", RECORDS * 400, 1000), "all")
    rng = np.random.default_rng(0)
    split.gather(rng.integers(len(split), size=64))
    tracemalloc.start()
    for _ in range(50):
        split.gather(rng.integers(len(split), size=64))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000


def test_a_block_without_any_value_of_a_column(tmp_path: Path) -> None:
    order = [3, 10, 17, 0, 1, 2, 4, 9, 14]
    split = PreparedSplit(mapped(tmp_path / "all.arrow", [RECORDS[i] for i in order], 3), "all")
    rows = [4, 3, 5]
    same(split.gather(np.array(rows)), [RECORDS[order[row]] for row in rows], rows, [0, 0, 0])
    rows = [1, 0, 8, 2]
    same(split.gather(np.array(rows)), [RECORDS[order[row]] for row in rows], rows, [0, 0, 0, 0])
    assert [found.forces is None for found in split] == [True] * 3 + [False] * 6
    assert [found.atom_features is None for found in split] == [False] * 6 + [True] * 3


@pytest.mark.parametrize("keep", [0, 4, -20])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = mapped(tmp_path / "all.arrow", RECORDS, 4)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"all\.arrow is damaged"):
        PreparedSplit(path, "all")
