from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.datasets import DATASETS, check_options, custom, load_dataset
from geomformer.datasets.pipeline import PrepareOptions, UniqueIds, prepare_records, prepare_rows, text_key
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Failure
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import RawMolecule, Record
from geomformer.units import KCAL_PER_MOL_IN_EV

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
    with pytest.raises(ConfigError, match="'qm9' has no option split-scheme; molecule3d, custom have it"):
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


def table(path: Path, header: str = "name,smiles,gap_kcal_mol,mu") -> Path:
    lines = [f"m{i},{text},{i + 1},{'' if i % 2 else 0.5}" for i, text in enumerate(SMILES)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def prepare(out: Path, *files: Path, progress: object = None, **options: object) -> Path:
    chosen: dict[str, object] = {"chemistry": FAST, "workers": 0, "targets": ("gap_kcal_mol",), "shard_rows": 5}
    return custom.prepare(
        raw=files, out=out, data_root=out, options=PrepareOptions(**(chosen | options)), progress=progress
    )  # type: ignore[arg-type]


def test_custom_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv")
    for workers in (0, 2):
        prepare(tmp_path / str(workers), file, workers=workers)
    assert content(tmp_path / "0") == content(tmp_path / "2")
    dataset = PreparedDataset(tmp_path / "0")
    assert sum(dataset.splits.values()) == len(SMILES) - 1 and set(dataset.splits) == {"train", "valid", "test"}
    found = next(item for name in dataset.splits for item in dataset.split(name) if item.id == "m2")
    assert found.targets["gap"] == pytest.approx(3 * KCAL_PER_MOL_IN_EV) and found.smiles == "CCO"
    assert dataset.manifest["targets"]["gap"]["unit"] == "ev"
    assert dataset.manifest["sources"][0]["file"] == "in.csv"


def test_custom_split_column_limit_and_duplicate_ids(tmp_path: Path) -> None:
    lines = ["id,smiles,gap_ev,set", *(f"x,{'C' * (i + 1)},1,{'Val' if i % 2 else 'train'}" for i in range(8))]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    prepare(tmp_path / "out", tmp_path / "in.csv", targets=("gap_ev",), split_column="set", limit=2)
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.splits == {"train": 2, "valid": 2}
    assert dataset.split("train").ids == ["x", "x#3"] and dataset.split("valid").ids == ["x#2", "x#4"]
    assert dataset.manifest["options"]["limit"] == 2


def test_custom_mixes_files_with_different_targets(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,gap_ev\n" + "C,1\nCC,2\nCCC,3\n")
    (tmp_path / "b.smi").write_text("O\nN\n")
    (tmp_path / "c.csv").write_text("smiles,gap_b3lyp\nCO,5\n")
    files = [tmp_path / name for name in ("a.csv", "b.smi", "c.csv")]
    prepare(tmp_path / "out", *files, targets=("gap_ev", "gap_b3lyp"), fractions={"train": 1.0})
    split = PreparedDataset(tmp_path / "out").split("train")
    nan = float("nan")
    np.testing.assert_equal(split.target("gap"), [1, 2, 3, nan, nan, nan])
    np.testing.assert_equal(split.target("gap_b3lyp"), [nan] * 5 + [5])
    with pytest.raises(ConfigError, match="Did you mean 'gap_ev'"):
        prepare(tmp_path / "x", *files, targets=("gap_v",))


def test_custom_says_what_is_wrong(tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv")
    with pytest.raises(ConfigError, match="target column"):
        prepare(tmp_path / "x", file, targets=())
    with pytest.raises(ConfigError, match="add up to 1"):
        prepare(tmp_path / "x", file, fractions={"train": 0.5})
    with pytest.raises(DataError, match="not numeric"):
        prepare(tmp_path / "x", file, targets=("name",))
    (tmp_path / "empty.csv").write_text("smiles,gap_ev\nC,\n")
    with pytest.raises(DataError, match="'gap' has no label"):
        prepare(tmp_path / "x", tmp_path / "empty.csv", targets=("gap_ev",))
    assert not (tmp_path / "x").exists()
    (tmp_path / "bad.csv").write_text("smiles,gap_ev\nxyz,1\n")
    with pytest.raises(DataError, match="None of the 1 input rows"):
        prepare(tmp_path / "x", tmp_path / "bad.csv", targets=("gap_ev",))
    prepare(tmp_path / "y", file)
    with pytest.raises(ConfigError, match=r"options.chemistry.num_conformers: 1 there, 2 now"):
        prepare(tmp_path / "y", file, chemistry={"num_conformers": 2})


def test_custom_takes_an_sdf_geometry_as_the_reference_on_request(tmp_path: Path) -> None:
    atoms = "    0.0000    0.0000    0.0000 O   0  0\n    0.9600    0.0000    0.1000 H   0  0\n"
    atoms += "   -0.2400    0.9300    0.3000 H   0  0\n"
    block = f"water\n  test            3D\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n{atoms}"
    block += "  1  2  1  0\n  1  3  1  0\nM  END\n"
    (tmp_path / "a.sdf").write_text(block + "> <gap_ev>\n7\n\n$$$$\n")
    hydrogens = {"num_conformers": 1, "hydrogens": True}
    shared = {"targets": ("gap_ev",), "fractions": {"train": 1.0}, "chemistry": hydrogens}
    prepare(tmp_path / "with", tmp_path / "a.sdf", use_geometry=True, **shared)
    found = PreparedDataset(tmp_path / "with").split("train")[0]
    assert found.id == "water" and found.target_positions is not None
    lengths = np.linalg.norm(found.target_positions[1:] - found.target_positions[0], axis=1)
    np.testing.assert_allclose(np.sort(lengths), [0.9652, 1.0061], atol=1e-3)
    prepare(tmp_path / "without", tmp_path / "a.sdf", **shared)
    assert PreparedDataset(tmp_path / "without").split("train")[0].target_positions is None
    assert json.loads((tmp_path / "with" / "manifest.json").read_text())["options"]["use_geometry"] is True
