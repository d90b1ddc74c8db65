from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError, DataError
from geomformer.prepared.dataset import SIMULATED, PreparedDataset
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Record

DESCRIPTION = DatasetDescription("toy", {"gap": "ev", "mu": "debye"}, options={"num_conformers": 2}, seed=3)


def record(i: int, *, full: bool = True) -> Record:
    rng = np.random.default_rng(i)
    atoms, bonds = 1 + i % 5, i % 4
    result = Record(
        id=f"m{i}",
        smiles="C" * atoms if full else None,
        atomic_numbers=rng.integers(1, 10, atoms).astype(np.uint8),
        positions=rng.normal(size=(1 + i % 2, atoms, 3)).astype(np.float32),
        conformer_source=np.full(1 + i % 2, 2, np.uint8),
        targets={"gap": float(i) if full else math.nan, "mu": 0.5},
    )
    if full:
        result.target_positions = rng.normal(size=(atoms, 3)).astype(np.float32)
        result.atom_features = rng.integers(0, 2, (atoms, 9)).astype(np.uint8)
        result.bond_index = rng.integers(0, atoms, (2, bonds)).astype(np.int16)
        result.bond_features = rng.integers(0, 2, (bonds, 3)).astype(np.uint8)
        result.orbital_energies = rng.normal(size=8).astype(np.float32)
        result.orbital_shares = rng.random((atoms, 4)).astype(np.float32)
        result.fixed = rng.integers(0, 2, atoms).astype(bool)
        result.cell = rng.normal(size=(3, 3)).astype(np.float32)
        result.pbc = np.array([True, False, True])
    return result


def row(i: int) -> Row:
    if i % 7 == 3:
        return Row(i, f"m{i}", reason="unparsable: no")
    return Row(i, f"m{i}", split="valid" if i % 4 == 0 else "train", record=record(i, full=i % 3 > 0))


def write(out: Path, num_rows: int = 25, shard_rows: int = 10, stop: int | None = None) -> None:
    writer = PreparedWriter(out, DESCRIPTION, shard_rows=shard_rows)
    for number in range(-(-num_rows // shard_rows)):
        if number == stop:
            return
        if number not in writer.finished and not writer.complete:
            writer.write_shard(
                number, [row(i) for i in range(number * shard_rows, min(num_rows, (number + 1) * shard_rows))]
            )
    if not writer.complete:
        writer.finish(num_rows)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def same(a: Record, b: Record) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and value.shape == other.shape, name
            np.testing.assert_array_equal(value, other)
        elif name == "targets":
            np.testing.assert_equal(value, other)
        else:
            assert value == other, name


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    write(tmp_path)
    dataset = PreparedDataset(tmp_path)
    rows = {"train": [], "valid": []}
    for i in range(25):
        if row(i).split is not None:
            rows[str(row(i).split)].append(record(i, full=i % 3 > 0))
    assert dataset.splits == {name: len(records) for name, records in rows.items()}
    for name, records in rows.items():
        split = dataset.split(name)
        assert len(split) == len(records) and split.ids == [item.id for item in records]
        for found, expected in zip(split, records, strict=True):
            same(found, expected)
        np.testing.assert_array_equal(split.num_atoms, [item.num_atoms for item in records])
        np.testing.assert_array_equal(split.target("gap"), [item.targets["gap"] for item in records])
        same(split[-1], records[-1])
        with pytest.raises(IndexError):
            split[len(records)]
    again = pickle.loads(pickle.dumps(dataset.split("valid")))
    same(again[2], rows["valid"][2])


def test_rows_of_several_arrow_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geomformer.prepared.cache.BATCH_ROWS", 4)
    write(tmp_path, shard_rows=3)
    split = PreparedDataset(tmp_path).split("train")
    assert len(split._file.starts) > 3
    for found in split:
        same(found, record(int(found.id[1:]), full=int(found.id[1:]) % 3 > 0))


def test_files_follow_the_contract(tmp_path: Path) -> None:
    write(tmp_path)
    schema = pq.read_schema(tmp_path / "train-00000.parquet")
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "id": "string",
        "smiles": "string",
        "num_conformers": "uint8",
        "atomic_numbers": "list<element: uint8>",
        "positions": "list<element: float>",
        "conformer_source": "list<element: uint8>",
        "target_positions": "list<element: float>",
        "velocities": "list<element: float>",
        "forces": "list<element: float>",
        "cell": "list<element: float>",
        "pbc": "list<element: bool>",
        "tags": "list<element: int8>",
        "fixed": "list<element: bool>",
        "atom_features": "list<element: uint8>",
        "bond_index": "list<element: int16>",
        "bond_features": "list<element: uint8>",
        "orbital_energies": "list<element: float>",
        "orbital_shares": "list<element: float>",
        "gap": "double",
        "mu": "double",
    }
    assert schema.field("mu").metadata == {b"unit": b"debye"}
    assert json.loads(schema.metadata[b"conformer_sources"])[2] == "etkdg"
    table = pq.read_table(tmp_path / "train-00000.parquet")
    assert table.column("gap").null_count > 0 and table.column("velocities").null_count == table.num_rows
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert rejected[1] == {"id": "m10", "source_row": 10, "reason": "unparsable: no"}


def test_manifest_statistics(tmp_path: Path) -> None:
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    train = [item.record for item in map(row, range(25)) if item.split == "train"]
    gaps = np.array([item.targets["gap"] for item in train])
    gaps = gaps[~np.isnan(gaps)]
    found = manifest["targets"]["gap"]
    assert found["unit"] == "ev" and found["count"] == len(gaps)
    assert found["mean_abs_dev"] == pytest.approx(np.abs(gaps - gaps.mean()).mean())
    carbon = sum(bool((item.atomic_numbers == 6).any()) for item in train)
    assert manifest["training_molecules_per_element"].get("6", 0) == carbon
    rows = [item.record for item in map(row, range(25)) if item.record]
    assert manifest["conformer_sources"]["etkdg"] == sum(item.num_conformers for item in rows)
    assert manifest["atoms"]["max"] == 5 and manifest["rejected"] == 4 and manifest["input_rows"] == 25


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    write(tmp_path / "whole")
    write(tmp_path / "broken", stop=stop)
    with pytest.raises(DataError, match="again; it continues"):
        PreparedDataset(tmp_path / "broken")
    if stop == 2:
        (tmp_path / "broken" / "train-00001.parquet").write_bytes(b"half")
    write(tmp_path / "broken")
    assert content(tmp_path / "whole") == content(tmp_path / "broken")
    assert not (tmp_path / "broken" / ".building").exists()


@pytest.mark.parametrize("stop", [1, None])
def test_other_options_need_overwrite(tmp_path: Path, stop: int | None) -> None:
    write(tmp_path, stop=stop)
    other = DatasetDescription("toy", dict(DESCRIPTION.targets), options={"num_conformers": 8}, seed=3)
    with pytest.raises(ConfigError, match=r"options\.num_conformers: 2 there, 8 now"):
        PreparedWriter(tmp_path, other, shard_rows=10)
    writer = PreparedWriter(tmp_path, other, shard_rows=10, overwrite=True)
    assert not writer.complete and not writer.finished and not list(tmp_path.glob("*.parquet"))


def test_orbitals_of_an_older_dataset_have_the_name_of_their_theory(tmp_path: Path) -> None:
    """It said only whether there were any; it is continued, and read as what it is."""
    old, now, other = (
        DatasetDescription("toy", dict(DESCRIPTION.targets), options={"chemistry": {"orbitals": value}}, seed=3)
        for value in (True, "huckel", "xtb")
    )
    PreparedWriter(tmp_path, old, shard_rows=10).write_shard(0, [row(i) for i in range(10)])
    writer = PreparedWriter(tmp_path, now, shard_rows=10)
    assert writer.finished
    with pytest.raises(ConfigError, match=r"options\.chemistry\.orbitals: huckel there, xtb now"):
        PreparedWriter(tmp_path, other, shard_rows=10)
    assert PreparedDataset(writer.finish(10)).orbitals == "huckel"


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match="found other files"):
        PreparedWriter(tmp_path, DESCRIPTION, overwrite=True)
    assert (tmp_path / "thesis.doc").exists()


def test_nothing_valid_is_an_error(tmp_path: Path) -> None:
    writer = PreparedWriter(tmp_path, DESCRIPTION)
    writer.write_shard(0, [Row(0, "a", reason="unparsable: x")])
    with pytest.raises(DataError, match=r"None of the 1 input rows.*unparsable: x"):
        writer.finish(1)


@pytest.mark.parametrize(("name", "switches"), SIMULATED.items())
def test_simulated_datasets_are_named_as_they_are_made(tmp_path: Path, name: str, switches: tuple[str, ...]) -> None:
    changes: dict[str, Any] = dict.fromkeys(switches, True)
    assert f"nbody{PrepareOptions(**changes).variant}" == name
    flags = " ".join(("nbody", *(f"--{switch.replace('_', '-')}" for switch in switches)))
    with pytest.raises(DataError, match=rf"`geomformer preprocess {flags}`"):
        PreparedDataset(tmp_path / name)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="geomformer preprocess qm9"):
        PreparedDataset(tmp_path / "qm9")
    write(tmp_path / "a")
    dataset = PreparedDataset(tmp_path / "a")
    with pytest.raises(DataError, match="Did you mean 'train'"):
        dataset.split("trian")
    shard = tmp_path / "a" / "train-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-00001.parquet is damaged"):
        dataset.split("train")
    with pytest.raises(DataError, match="Did you mean 'gap'"):
        dataset.split("valid").target("gaps")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    (tmp_path / "a" / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    with pytest.raises(DataError, match="update geomformer"):
        PreparedDataset(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not the manifest"):
        PreparedDataset(tmp_path / "a")


def test_the_cache_follows_the_manifest(tmp_path: Path) -> None:
    write(tmp_path)
    first = PreparedDataset(tmp_path)
    path = first.split("train").path
    assert first.split("train").path == path and path.parent.parent.name == ".cache"
    other = DatasetDescription("toy", dict(DESCRIPTION.targets), seed=4)
    writer = PreparedWriter(tmp_path, other, overwrite=True)
    writer.write_shard(0, [row(1), row(2)])
    writer.finish(2)
    assert PreparedDataset(tmp_path).fingerprint != first.fingerprint
    assert PreparedDataset(tmp_path).split("train").ids == ["m1", "m2"]
