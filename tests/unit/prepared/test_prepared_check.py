from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_records
from geomformer.errors import DataError
from geomformer.files import file_sha256
from geomformer.prepared.check import check_dataset
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import Record


def record(name: str, atoms: int = 3) -> Record:
    positions = np.arange(3.0 * atoms, dtype=np.float32).reshape(1, atoms, 3)
    return Record(name, positions, np.zeros(1, np.uint8), np.full(atoms, 6, np.uint8), target_positions=positions[0])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = [("valid" if i % 4 == 0 else "train", record(f"m{i}", 1 + i % 3)) for i in range(20)]
    options = PrepareOptions(shard_rows=8)
    return prepare_records(rows, tmp_path / "toy", DatasetDescription("toy", {"gap": "ev"}), options, total=20)


def rewrite(dataset: Path, name: str, table: object) -> None:
    """Replaces a shard and its checksum, as somebody would who edits a dataset by hand."""
    pq.write_table(table, dataset / name)
    manifest = json.loads((dataset / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for item in split["files"]:
            if item["file"] == name:
                item["sha256"] = file_sha256(dataset / name)
    (dataset / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_dataset_has_no_problem(dataset: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert check_dataset(dataset, lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (6, 6)


def test_damage_is_named(dataset: Path) -> None:
    with (dataset / "train-00001.parquet").open("r+b") as file:
        file.seek(10)
        file.write(b"x")
    (dataset / "valid-00002.parquet").unlink()
    (dataset / "train-00009.parquet").write_bytes(b"")
    problems = check_dataset(dataset)
    assert "train-00001.parquet is not the file that the manifest lists (sha256)" in problems
    assert "valid-00002.parquet is missing" in problems
    assert "train-00009.parquet is not listed in the manifest" in problems


def test_rows_that_are_lost_are_noticed(dataset: Path) -> None:
    rewrite(dataset, "train-00000.parquet", pq.read_table(dataset / "train-00000.parquet").slice(1))
    assert "train-00000.parquet has 5 rows, the manifest says 6" in check_dataset(dataset)
    (dataset / "rejected.parquet").unlink()
    manifest = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**manifest, "rejected": 2}))
    problems = check_dataset(dataset)
    assert "rejected.parquet has 0 rows, the manifest says 2" in problems


def test_content_that_does_not_fit_is_noticed(dataset: Path) -> None:
    table = pq.read_table(dataset / "train-00000.parquet")
    rows = table.to_pylist()
    rows[0]["id"] = rows[1]["id"]
    rows[2]["target_positions"] = rows[2]["target_positions"][:-1]
    rows[3]["positions"][0] = float("nan")
    rewrite(dataset, "train-00000.parquet", type(table).from_pylist(rows, schema=table.schema))
    problems = check_dataset(dataset)
    assert "split train: 1 identifiers occur more than once" in problems
    assert "train-00000.parquet: row 2: target_positions does not fit the number of atoms" in problems
    assert "train-00000.parquet: positions has values that are no numbers" in problems


def test_an_unfinished_dataset_is_not_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        check_dataset(tmp_path / "absent")
