from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geomformer.errors import DataError
from geomformer.prepared.cache import _mappable
from geomformer.prepared.schema import schema_for, to_table
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Record

RECORD_FIELDS = ("positions", "conformer_source", "atomic_numbers", "target_positions", "atom_features", "bond_index")


def record(i: int) -> Record:
    rng = np.random.default_rng(i)
    atoms, bonds, conformers = 1 + i % 5, i % 4, 1 + i % 3
    return Record(
        id=f"m{i}",
        smiles="C" * atoms,
        atomic_numbers=rng.integers(1, 10, atoms).astype(np.uint8),
        positions=rng.normal(size=(conformers, atoms, 3)).astype(np.float32),
        conformer_source=np.full(conformers, 2, np.uint8),
        target_positions=None if i % 4 == 1 else rng.normal(size=(atoms, 3)).astype(np.float32),
        atom_features=rng.integers(0, 2, (atoms, 9)).astype(np.uint8),
        bond_index=rng.integers(0, atoms, (2, bonds)).astype(np.int16),
        bond_features=rng.integers(0, 2, (bonds, 3)).astype(np.uint8),
        targets={"gap": float("nan") if i % 6 == 2 else 0.1 * i, "mu": -1.0 * i},
    )


RECORDS = [record(i) for i in range(23)]


def mapped(path: Path, records: list[Record], block_rows: int) -> Path:
    """Writes records as a split's Arrow file of blocks of a few rows."""
    schema = schema_for({"gap": "ev", "mu": "debye"})
    tables = [
        _mappable(to_table(records[start : start + block_rows], schema)) for start in range(0, len(records), block_rows)
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
