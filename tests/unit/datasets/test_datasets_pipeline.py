from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.datasets import DATASETS, check_options, custom, load_dataset
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_records, prepare_rows
from geomformer.datasets.rows import UniqueIds, text_key
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Failure
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule, Record

FAST = {"num_conformers": 1}
SMILES = ["C", "CC", "CCO", "c1ccccc1", "CC(=O)O", "not a smiles", "C1CC1", "CN", "C#N", "O=C=O", "CCCl", "[Na+].[Cl-]"]


class StopError(Exception):
    pass


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def stand_in(raw: RawMolecule) -> Record | MoleculeError | Failure:
    if raw.index % 5 == 4:
        return MoleculeError("unparsable", f"row {raw.index}")
    if raw.index % 11 == 10:
        return Failure(raw.index, "took too long")
    positions = np.full((1, 2, 3), raw.index, np.float32)
    return Record(raw.id, positions, np.zeros(1, np.uint8), np.array([1, 6], np.uint8), targets=dict(raw.targets))


def rows(number: int = 40) -> Iterator[RawMolecule]:
    for i in range(number):
        yield RawMolecule(i, f"m{i}", "C", targets={"gap": float(i)}, split=("train", "valid")[i % 3 == 0])


def run(out: Path, stop: int | None = None, part: tuple[int, int] | None = None) -> list[tuple[int, int | None]]:
    seen: list[tuple[int, int | None]] = []

    def progress(done: int, total: int | None) -> None:
        seen.append((done, total))
        if done == stop:
            raise StopError

    description = DatasetDescription("toy", {"gap": "ev"})
    options = PrepareOptions(workers=0, shard_rows=8, part=part)
    prepare_rows(rows(), out, description, options, build=stand_in, total=40, progress=progress)
    return seen


def test_a_run_stopped_again_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    assert run(tmp_path / "whole")[-1] == (40, 40)
    for stop in (1, 7, 8, 20, 33, 40):
        with pytest.raises(StopError):
            run(tmp_path / "broken", stop)
    assert run(tmp_path / "broken") == []
    assert content(tmp_path / "whole") == content(tmp_path / "broken")
    assert run(tmp_path / "broken") == []


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1)])
def test_parts_make_the_bytes_of_the_whole(tmp_path: Path, order: tuple[int, ...]) -> None:
    run(tmp_path / "whole")
    for i in order:
        assert not (tmp_path / "parts" / "manifest.json").exists()
        run(tmp_path / "parts", part=(i, 3))
    assert content(tmp_path / "whole") == content(tmp_path / "parts")
    assert run(tmp_path / "parts", part=(2, 3)) == [], "nothing is left to do"
    assert not (tmp_path / "parts" / ".building").exists()


def test_a_part_computes_its_own_shards_only(tmp_path: Path) -> None:
    run(tmp_path, part=(2, 3))
    assert sorted(path.name[-13:] for path in tmp_path.glob("train-*")) == ["00001.parquet", "00004.parquet"]
    with pytest.raises(DataError, match="not finished"):
        PreparedDataset(tmp_path)
    run(tmp_path)
    assert sum(PreparedDataset(tmp_path).splits.values()) == 29


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 1 to n, found 0/4"):
        PrepareOptions(part=(0, 4))
    with pytest.raises(ConfigError, match="cannot overwrite"):
        PrepareOptions(part=(1, 4), overwrite=True)
    check_options("custom", PrepareOptions(seed=3, split_scheme="scaffold"))
    with pytest.raises(ConfigError, match="'qm9' does not use --split-scheme; only molecule3d, custom can"):
        check_options("qm9", PrepareOptions(split_scheme="scaffold"))


def test_a_disk_that_is_too_small_is_noticed_first(tmp_path: Path) -> None:
    options = PrepareOptions(workers=0)
    description = DatasetDescription("toy", {"gap": "ev"})
    with pytest.raises(DataError, match="of free disk space for the prepared dataset"):
        prepare_rows(rows(), tmp_path, description, options, build=stand_in, total=40, bytes_per_row=1e15)
    assert not list(tmp_path.glob("*.parquet"))


def test_records_made_here_need_no_worker(tmp_path: Path) -> None:
    made = [("train" if i else "valid", stand_in(RawMolecule(i, f"m{i}", "C"))) for i in range(4)]
    prepare_records(made, tmp_path, DatasetDescription("toy", {}), PrepareOptions(workers=2), total=4)
    assert PreparedDataset(tmp_path).splits == {"train": 3, "valid": 1}


def test_no_row_disappears(tmp_path: Path) -> None:
    run(tmp_path)
    rejected = {item["source_row"]: item for item in pq.read_table(tmp_path / "rejected.parquet").to_pylist()}
    kept = {int(name[1:]) for split in ("train", "valid") for name in PreparedDataset(tmp_path).split(split).ids}
    assert kept | set(rejected) == set(range(40)) and not kept & set(rejected)
    assert rejected[4] == {"id": "m4", "source_row": 4, "reason": "unparsable: row 4"}
    assert rejected[10]["reason"] == "failed: took too long"


def test_a_full_disk_says_that_the_run_can_be_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("geomformer.prepared.storage.pq.write_table", full)
        with pytest.raises(DataError, match=r"No space left on device. What is finished is kept"):
            run(tmp_path)
    assert run(tmp_path)[-1] == (40, 40)


def test_shards_are_small_enough_to_resume() -> None:
    assert [PrepareOptions().rows_per_shard(total) for total in (10, 20_000, 10**7, None)] == [50, 200, 2000, 1000]
    assert PrepareOptions(shard_rows=7).rows_per_shard(10**7) == 7


def test_identifiers_become_unique() -> None:
    names = ["a", "a", "a#2", "b", "a", "a#2", "b", "c"]
    unique = UniqueIds(np.array([text_key(name) for name in names], np.uint64))
    assert [unique(name) for name in names] == ["a", "a#3", "a#2", "b", "a#4", "a#2#2", "b#2", "c"]


def test_registry() -> None:
    assert set(DATASETS) == {"custom", "md17", "molecule3d", "nbody", "oc20", "pcqm4mv2", "qm9", "rmd17"}
    assert load_dataset("custom") is custom.prepare
    with pytest.raises(ConfigError, match="Did you mean 'qm9'"):
        load_dataset("qm8")


def test_options_are_named_as_on_the_command_line() -> None:
    for options, name in (
        (PrepareOptions(chemistry={"num_conformers": 3, "hydrogens": True}), "--conformers, --hydrogens"),
        (PrepareOptions(targets=("gap",)), "--target"),
        (PrepareOptions(split_column="fold"), "--split-column"),
    ):
        with pytest.raises(ConfigError, match=f"'nbody' does not use {name}; only .*custom can"):
            check_options("nbody", options)


def test_values_that_cannot_be_are_refused_first() -> None:
    with pytest.raises(ConfigError, match="Expected 1 to 255 conformers per molecule, found 256"):
        PrepareOptions(chemistry={"num_conformers": 256})
    with pytest.raises(ConfigError, match="no meaning for local processes"):
        PrepareOptions(ray_address="auto")
    assert PrepareOptions(chemistry={"num_conformers": 255}, ray_address="auto", executor="ray").ray_address == "auto"
