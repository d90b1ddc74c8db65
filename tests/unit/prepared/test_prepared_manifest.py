"""Damaged manifests and folders that are no dataset: each a sentence, never an unexpected error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_records
from geomformer.errors import ConfigError, DataError
from geomformer.files import file_sha256
from geomformer.prepared.check import check_dataset
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.folder import check_folder
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Record

DESCRIPTION = DatasetDescription("toy", {"gap": "ev"})
OTHER = DatasetDescription("toy", {"gap": "ev"}, seed=4)


def record(name: str) -> Record:
    return Record(name, np.zeros((1, 2, 3), np.float32), np.zeros(1, np.uint8), np.full(2, 6, np.uint8))


def write(folder: Path, schemes: bool = False) -> Path:
    division = (lambda files, rejected: {"random": np.zeros(4, np.uint8)}) if schemes else None
    description = DatasetDescription("toy", {"gap": "ev"}, divide=division)
    rows = [("all" if schemes else "train", record(f"m{i}")) for i in range(4)]
    return prepare_records(rows, folder, description, PrepareOptions(), total=4)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda m: m.pop("targets"), "it has no proper 'targets'"),
        (lambda m: m.update(splits={}), "it has no split"),
        (lambda m: m.update(splits=[1]), "it has no proper 'splits'"),
        (lambda m: m["splits"].update(train={}), "split train has no proper 'rows'"),
        (lambda m: m["splits"]["all"].update(rows="x"), "split all has no proper 'rows'"),
        (lambda m: m["splits"]["all"].update(files=["x"]), "a file of split all has no proper 'file'"),
        (lambda m: m["splits"]["all"]["files"][0].pop("sha256"), "a file of split all has no proper 'sha256'"),
        (lambda m: m["splits"]["all"]["files"][0].update(file="../x"), "'../x' is not the name of a file"),
        (lambda m: m["schemes"]["random"].pop("file"), "scheme random has no proper 'file'"),
        (lambda m: m["schemes"]["random"]["splits"].update(test=3), "split test of scheme random has no proper 'rows'"),
        (lambda m: m.update(default_scheme="zzz"), "its list of schemes has no proper 'zzz'"),
        (lambda m: m.update(format_version=99), "update geomformer"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, edit: Callable[[dict[str, Any]], object], text: str) -> None:
    write(tmp_path, schemes=True)
    change(tmp_path, edit)
    with pytest.raises(DataError, match=text):
        PreparedDataset(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{}", "[" * 100_000])
def test_something_else_is_no_manifest(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="is not the manifest of a prepared dataset"):
        PreparedDataset(tmp_path)


@pytest.mark.parametrize("column", ["positions", "id", "num_conformers"])
def test_shards_without_a_column(tmp_path: Path, column: str) -> None:
    write(tmp_path)
    shard = tmp_path / "train-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns([column]), shard)
    change(tmp_path, lambda m: m["splits"]["train"]["files"][0].update(sha256=file_sha256(shard)))
    assert check_dataset(tmp_path) == [f"train-00000.parquet has no column {column}"]
    with pytest.raises(DataError, match=f"Expected the columns {column} in"):
        PreparedDataset(tmp_path).split("train")


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    write(tmp_path)
    shard = tmp_path / "train-00000.parquet"
    shard.write_bytes(b"PAR1")
    (tmp_path / "rejected.parquet").write_bytes(b"PAR1")
    change(tmp_path, lambda m: m["splits"]["train"]["files"][0].update(sha256=file_sha256(shard)))
    found = check_dataset(tmp_path)
    assert [problem.split(":")[0] for problem in found] == [
        f"{shard.name} cannot be read",
        "rejected.parquet cannot be read",
    ]


def test_a_folder_of_datasets_names_them(tmp_path: Path) -> None:
    write(tmp_path / "md17" / "ethanol")
    with pytest.raises(DataError, match=r"a folder of several.*: ethanol"):
        PreparedDataset(tmp_path / "md17")


def test_a_start_that_did_nothing_is_no_obstacle(tmp_path: Path) -> None:
    PreparedWriter(tmp_path, DESCRIPTION)
    with pytest.raises(ConfigError, match="seed: 0 there, 4 now"):
        PreparedWriter(tmp_path, OTHER, part=(1, 2))
    writer = PreparedWriter(tmp_path, OTHER)
    writer.write_shard(0, [Row(0, "a", "train", record("a"))])
    with pytest.raises(ConfigError, match="seed: 4 there, 0 now"):
        PreparedWriter(tmp_path, DESCRIPTION)


def test_a_folder_taken_by_another_run_is_left_alone(tmp_path: Path) -> None:
    first = PreparedWriter(tmp_path, DESCRIPTION)
    PreparedWriter(tmp_path, OTHER)
    with pytest.raises(DataError, match="Another run began"):
        first.write_shard(0, [Row(0, "a", "train", record("a"))])
    assert not list(tmp_path.glob("*.parquet"))


def test_a_damaged_sidecar_costs_its_shard(tmp_path: Path) -> None:
    row = Row(0, "a", "train", record("a"))
    PreparedWriter(tmp_path, DESCRIPTION).write_shard(0, [row])
    (tmp_path / ".building" / "00000.json").write_text("{")
    writer = PreparedWriter(tmp_path, DESCRIPTION)
    assert not writer.finished and writer.wants(0)
    writer.write_shard(0, [row])
    assert PreparedDataset(writer.finish(1)).splits == {"train": 1}


def test_places_that_are_not_free(tmp_path: Path) -> None:
    check_folder(tmp_path / "new")
    check_folder(tmp_path)
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match=r"found other files in .*, such as thesis.doc"):
        check_folder(tmp_path)
    with pytest.raises(ConfigError, match="found the file"):
        check_folder(tmp_path / "thesis.doc")
