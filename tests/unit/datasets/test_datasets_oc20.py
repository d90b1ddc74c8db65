"""OC20: the official tree, its archive and relaxation trajectories become one prepared dataset."""

from __future__ import annotations

import gc
import gzip
import io
import json
import logging
import lzma
import os
import pickle
import shutil
import sys
import tarfile
import types
import warnings
from pathlib import Path
from typing import Any

import ase.io
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from geomformer.datasets.oc20 import prepare
from geomformer.datasets.oc20 import sources as oc20_sources
from geomformer.datasets.oc20.records import System, build, nearest_image, to_record
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.io import lmdb as lmdb_reader
from geomformer.io.structures import read_relaxation, relaxations
from geomformer.records import Record

SAMPLES = Path(__file__).parents[3] / "data" / "samples" / "oc20"
NEW, OLD = SAMPLES / "is2re_oc20_derived.lmdb", SAMPLES / "is2re_oc20_derived_pyg1.lmdb"
TRAJECTORIES = SAMPLES / "relaxations.extxyz"


def tree(root: Path, **splits: Path) -> Path:
    """The official layout; a name such as all_val_id is size and split."""
    for name, source in splits.items():
        folder = root / "is2re" / name.split("_", 1)[0].removeprefix("s") / name.split("_", 1)[1]
        folder.mkdir(parents=True)
        shutil.copy(source, folder / "data.lmdb")
    return root


def run(tmp_path: Path, *raw: Path, out: str = "out", **options: Any) -> dict[str, pa.Table]:
    folder = prepare(
        raw=raw,
        out=tmp_path / out,
        data_root=tmp_path / "data",
        options=PrepareOptions(**{"workers": 0, **options}),
    )
    tables: dict[str, list[pa.Table]] = {}
    for path in sorted(folder.glob("*.parquet")):
        tables.setdefault(path.stem.rsplit("-", 1)[0], []).append(pq.read_table(path))
    return {split: pa.concat_tables(parts) for split, parts in tables.items()}


def test_both_generations_give_the_same_golden_dataset(tmp_path: Path) -> None:
    new = run(tmp_path, tree(tmp_path / "new", all_train=NEW, all_val_id=OLD))
    old = run(tmp_path, tree(tmp_path / "old", all_train=OLD, all_val_id=NEW), out="old_out")
    assert new.keys() == {"train", "val_id", "rejected"}
    assert new["rejected"].num_rows == 0
    assert new["train"].equals(old["train"]) and new["val_id"].equals(old["val_id"])
    assert new["train"].equals(new["val_id"])
    rows = new["train"].to_pylist()
    assert len(rows) == 26
    assert sum(row["energy"] for row in rows) == pytest.approx(-9498.24446492, abs=1e-6)
    assert sum(row["energy_initial"] for row in rows) == pytest.approx(-9334.53741074, abs=1e-6)
    assert sum(len(row["atomic_numbers"]) for row in rows) == 1997
    assert sum(map(sum, (row["positions"] for row in rows))) == pytest.approx(60017.7438, abs=1e-2)
    assert sum(sum(row["fixed"]) for row in rows) == sum(row["tags"].count(0) for row in rows) > 0
    first = rows[0]
    assert (first["id"], first["num_conformers"], first["conformer_source"], first["pbc"]) == (
        "1000100",
        1,
        [0],
        [True] * 3,
    )
    assert len(first["positions"]) == len(first["target_positions"]) == 99 and len(first["cell"]) == 9
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [source["file"] for source in manifest["sources"]] == ["train/data.lmdb", "val_id/data.lmdb"]


def test_displacements_are_below_half_a_cell_and_congruent(tmp_path: Path) -> None:
    moved = 0
    for row in run(tmp_path, NEW)["train"].to_pylist():
        cell = np.array(row["cell"]).reshape(3, 3)
        shift = np.array(row["target_positions"]) - np.array(row["positions"])
        fractions = shift.reshape(-1, 3) @ np.linalg.inv(cell)
        assert np.abs(fractions).max() < 0.5 + 1e-5
        moved += np.abs(shift).max() > 0.05
        assert np.abs(shift.reshape(-1, 3)[np.array(row["fixed"])]).max() < 1e-4
    assert moved > 20


def test_nearest_image_as_the_metric_defines_it() -> None:
    draw = np.random.default_rng(0)
    cell = np.array([[8.0, 0, 0], [-3, 9, 0], [1, 2, 20]])
    start = draw.normal(0, 5, (50, 3))
    end = start + draw.normal(0, 1, (50, 3)) + draw.integers(-2, 3, (50, 3)) @ cell
    fractions = np.linalg.solve(cell.T, (end - start).T).T % 1 % 1
    fractions[fractions > 0.5] -= 1
    np.testing.assert_allclose(nearest_image(end, start, cell) - start, fractions @ cell, atol=1e-12)
    near = start + draw.normal(0, 0.1, (50, 3))
    np.testing.assert_array_equal(nearest_image(near, start, cell), near)


def test_sizes_take_their_own_train_split_and_all_others_from_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path / "is2res_train_val_test_lmdbs" / "data", s10k_train=OLD, all_train=NEW, all_val_ood_ads=NEW)
    with caplog.at_level(logging.INFO):
        tables = run(tmp_path, root.parents[1], size="10k", limit=2)
    assert {name: table.num_rows for name, table in tables.items()} == {"train": 2, "val_ood_ads": 2, "rejected": 0}
    assert "left out: val_id, val_ood_cat" in caplog.text
    sources = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]
    assert [source["bytes"] for source in sources] == [OLD.stat().st_size, NEW.stat().st_size]
    with pytest.raises(DataError, match=r"100k/train.*found that of 10k, all"):
        run(tmp_path, root, size="100k")
    with pytest.raises(ConfigError, match="found '10'"):
        run(tmp_path, root, size="10")


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = shutil.copy(NEW, tmp_path / "data.lmdb")
    run(tmp_path, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(tmp_path, path, out="again")
        lmdb_reader._open.clear()
        gc.collect()
    assert not [warning for warning in caught if issubclass(warning.category, ResourceWarning)]


def test_workers_give_the_same_bytes(tmp_path: Path) -> None:
    root = tree(tmp_path / "raw", all_train=NEW, all_val_id=OLD)
    run(tmp_path, root, out="one", shard_rows=7)
    run(tmp_path, root, out="two", shard_rows=7, workers=2)
    for path in sorted((tmp_path / "one").iterdir()):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_several_files_of_a_split_and_layouts_without_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "val_id"
    folder.mkdir(parents=True)
    shutil.copy(NEW, folder / "data.0000.lmdb")
    shutil.copy(OLD, folder / "data.0001.lmdb")
    (folder / "data.0000.lmdb-lock").write_bytes(b"of another machine")
    assert run(tmp_path, tmp_path / "mine")["val_id"].num_rows == 52
    assert run(tmp_path, folder, out="b")["val_id"].num_rows == 52
    assert run(tmp_path, folder / "data.0001.lmdb", out="c")["val_id"].num_rows == 26


def archive_of(root: Path, path: Path, *extra: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root / "is2re", "is2res_train_val_test_lmdbs/data/is2re")
        for name in extra:
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"owned"))
    return path


def test_the_archive_gives_what_the_tree_gives(tmp_path: Path) -> None:
    root = tree(tmp_path / "raw", s10k_train=OLD, s100k_train=NEW, all_train=NEW, all_val_id=OLD)
    archive = archive_of(root, tmp_path / oc20_sources.ARCHIVE.name)
    whole = run(tmp_path, root, size="10k")
    found = run(tmp_path, archive, size="10k", out="b")
    assert found["train"].equals(whole["train"]) and found["val_id"].equals(whole["val_id"])
    unpacked = tmp_path / "data" / "raw" / "oc20" / "is2re"
    assert sorted(str(path.relative_to(unpacked)) for path in unpacked.rglob("*.lmdb")) == [
        "10k/train/data.lmdb",
        "all/val_id/data.lmdb",
    ]
    kept = (unpacked / "all/val_id/data.lmdb").stat().st_mtime_ns
    assert run(tmp_path, archive, out="c").keys() == {"train", "val_id", "rejected"}
    assert (unpacked / "all/train/data.lmdb").exists()
    assert (unpacked / "all/val_id/data.lmdb").stat().st_mtime_ns == kept


def test_an_interrupted_unpacking_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(tree(tmp_path / "raw", all_train=OLD, all_val_id=NEW), tmp_path / oc20_sources.ARCHIVE.name)
    home = tmp_path / "data" / "raw" / "oc20"
    home.mkdir(parents=True)
    shutil.move(archive, home / archive.name)
    save, calls = oc20_sources.save_member, []

    def stop_at_second(handle: Any, size: int, out: Path) -> Path:
        calls.append(out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save(handle, size, out)

    monkeypatch.setattr(oc20_sources, "save_member", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert {name: table.num_rows for name, table in run(tmp_path).items()} == {
        "train": 26,
        "val_id": 26,
        "rejected": 0,
    }
    assert len(calls) == 3 and calls[1] == calls[2]


def test_an_archive_that_leads_out_or_ends_early_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path / "raw", all_train=OLD)
    bad = archive_of(root, tmp_path / "bad.tar.gz", "../../is2re/all/val_id/data.lmdb")
    with pytest.raises(DataError, match="refused"):
        run(tmp_path, bad)
    assert not (tmp_path.parent / "is2re").exists()
    short = tmp_path / "short.tar.gz"
    short.write_bytes(archive_of(root, tmp_path / "whole.tar.gz").read_bytes()[:-2000])
    with pytest.raises(DataError, match="ends early"):
        run(tmp_path, short)


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("a/is2re/all/train/data.lmdb", "b/is2re/all/train/data.lmdb"):
            archive.add(OLD, name)
    with pytest.raises(DataError, match=r"is2re/all/train/data\.lmdb once .* found it twice"):
        run(tmp_path, path)


def test_files_of_another_archive_do_not_pass_for_unpacked_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two archives with members of the same length; the unpacking of the second one is interrupted."""
    changed = tmp_path / "changed.lmdb"
    changed.write_bytes(NEW.read_bytes().replace(b"pos_relaxed", b"pos_rotaxed"))
    first = archive_of(tree(tmp_path / "a", all_train=NEW, all_val_id=NEW), tmp_path / "a.tar.gz")
    second = archive_of(tree(tmp_path / "c", all_train=changed, all_val_id=changed), tmp_path / "b.tar.gz")
    run(tmp_path, first)
    save = oc20_sources.save_member

    def stop(handle: Any, size: int, out: Path) -> Path:
        save(handle, size, out)
        out.with_name(f"{out.name}.1.tmp").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(oc20_sources, "save_member", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, second, out="b")
    run(tmp_path, second, out="b")
    home = tmp_path / "data" / "raw" / "oc20"
    assert {path.read_bytes() for path in home.rglob("data.lmdb")} == {changed.read_bytes()}
    assert not list(home.rglob("*.tmp"))


def test_checksums_are_made_once_for_an_unfinished_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "raw", all_train=OLD, all_val_id=NEW)
    whole = run(tmp_path, root, shard_rows=10)
    hashed: list[Path] = []
    describe_file = oc20_sources.describe_file
    monkeypatch.setattr(oc20_sources, "describe_file", lambda path: hashed.append(path) or describe_file(path))
    for part in (1, 2, 3):
        run(tmp_path, root, out="parts", shard_rows=10, part=(part, 3))
    assert len(hashed) == 2
    assert run(tmp_path, root, out="parts", shard_rows=10)["train"].equals(whole["train"])
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("out", "parts")]
    assert manifests[0] == manifests[1] and not (tmp_path / "parts" / ".building").exists()
    changed = root / "is2re" / "all" / "train" / "data.lmdb"
    run(tmp_path, root, out="more", shard_rows=10, part=(1, 3))
    os.utime(changed, ns=(1, 1))
    hashed.clear()
    run(tmp_path, root, out="more", shard_rows=10, part=(2, 3))
    assert hashed == [changed]


def test_a_folder_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="Expected an empty folder"):
        run(tmp_path, NEW)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_energies_of_different_kinds_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found both"):
        run(tmp_path, NEW, TRAJECTORIES)


def test_the_same_file_in_two_splits_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, tree(tmp_path / "a", all_train=NEW, all_val_id=OLD))
    assert "the same systems" not in caplog.text
    run(tmp_path, tree(tmp_path / "b", all_train=NEW, all_val_id=NEW), out="again")
    assert "train/data.lmdb and val_id/data.lmdb hold the same systems" in caplog.text


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for path in (tmp_path / "data.lmdb", tmp_path / "tree" / "is2re" / "all" / "train" / "data.lmdb"):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    for path, message in ((tmp_path / "data.lmdb", "no regular file"), (tmp_path / "tree", "found no file")):
        with pytest.raises(DataError, match=message):
            run(tmp_path, path)


def test_no_room_is_said_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10**10))
    with pytest.raises(DataError, match=r"91\.1 GB.*OC20"):
        run(tmp_path)


def written(path: Path, *values: Any, length: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = lmdb.open(str(path), subdir=False, map_size=2**24, lock=False)
    with opened as environment, environment.begin(write=True) as transaction:
        for index, value in enumerate(values):
            transaction.put(str(index).encode(), value)
        if length is not None:
            transaction.put(b"length", pickle.dumps(length))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"<html>not found</html>" * 1000, "begins with a web page"),
        (lambda data: b"x", "begins with b'x'"),
        (lambda data: data[:4096] + bytes(len(data) - 4096), "second header"),
        (lambda data: data[:140], "cut short"),
        (lambda data: data[:3000], "cut short"),
        (lambda data: data[:9000], "cut short or damaged: expected at least 217088 bytes, found 9000"),
        (lambda data: data[:-8000], "cut short"),
        (lambda data: data[:20] + b"\2" + data[21:], "format version 1 .* found version 2"),
        (lambda data: data[:8192] + bytes(len(data) - 8192), "page .* is none of"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "data.lmdb"
    path.write_bytes(change(NEW.read_bytes()))
    with pytest.raises(DataError, match=message):
        run(tmp_path, path)


def test_missing_files_and_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        run(tmp_path, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is2re/all/train/data\.lmdb"):
        run(tmp_path, tmp_path / "empty")
    with pytest.raises(DataError, match="Expected 3 values"):
        run(tmp_path, written(tmp_path / "short.lmdb", b"", b"", length=3))
    with pytest.raises(DataError, match="archive or a trajectory"):
        run(tmp_path, Path(__file__))


class _Evil:
    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('owned').touch()",)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_hostile_value_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "data.lmdb", pickle.dumps({"unused": [_Evil()]}), length=1)
    with pytest.raises(DataError, match=r"Refused: the value of key '0' in .*data\.lmdb asks for builtins\.exec"):
        run(tmp_path, path, workers=workers)
    assert not (tmp_path / "owned").exists()


def fields(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pos": np.array([[0.0, 0, 0], [1, 0, 0]], np.float32),
        "pos_relaxed": np.array([[0.0, 0, 0], [1, 0, 4.9]], np.float32),
        "cell": np.eye(3, dtype=np.float32)[None] * 5,
        "atomic_numbers": np.array([1.0, 78.0], np.float32),
        "tags": np.array([2, 0]),
        "fixed": np.array([0.0, 1.0], np.float32),
        "natoms": 2,
        "sid": 7,
    }
    return found | changes


def test_a_record_without_labels_has_none() -> None:
    record = to_record(fields(), "x")
    assert record.id == "7" and np.isnan(list(record.targets.values())).all()
    np.testing.assert_allclose(record.target_positions[1], [1, 0, -0.1], atol=1e-6)  # type: ignore[index]
    assert (
        to_record({key: value for key, value in fields().items() if key != "pos_relaxed"}, "x").target_positions is None
    )
    assert to_record(fields(sid=np.array([9])), "x").id == "9"
    assert to_record(fields(y_relaxed=np.array([-1.5])), "x").targets["energy"] == -1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos": np.zeros((3, 3))}, "pos has the shape"),
        ({"pos": np.full((2, 3), np.nan)}, "pos is not finite"),
        ({"pos_relaxed": np.zeros((1, 3))}, "pos_relaxed has the shape"),
        ({"cell": np.zeros((1, 3, 3))}, "no volume"),
        ({"cell": np.zeros(9)}, "cell has the shape"),
        ({"atomic_numbers": np.array([0.0, 1.0])}, "atomic_numbers holds 0.0"),
        ({"atomic_numbers": np.array([1.5, 1.0])}, "atomic_numbers holds 1.5"),
        ({"atomic_numbers": np.array([119, 1])}, "atomic_numbers holds 119"),
        ({"atomic_numbers": [1, 2]}, "no array"),
        ({"atomic_numbers": np.zeros(0), "natoms": 0}, "0 atom"),
        ({"tags": np.array([3, 0])}, "tags holds 3"),
        ({"tags": np.array([0])}, "tags has the shape"),
        ({"fixed": np.array([0.5, 0])}, "fixed holds 0.5"),
        ({"natoms": 3}, "3 atoms announced"),
        ({"y_relaxed": float("inf")}, "energy is no number"),
        ({"y_init": "1"}, "energy_initial is no number"),
        ({"y_relaxed": 10**400}, "energy is no number up to"),
        ({"natoms": 10**400}, "natoms is no number up to"),
        ({"sid": 1.5}, "sid is neither"),
        ({"sid": "\ud800"}, "sid is neither"),
    ],
)
def test_unusable_systems_are_rejected_with_a_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MoleculeError, match=message):
        to_record(fields(**changes), "x")


def test_a_rejected_system_stands_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("torch_geometric.data.data")
    kind = type("Data", (), {"__module__": module.__name__})
    module.Data = kind  # type: ignore[attr-defined]
    for name in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def value(**changes: Any) -> bytes:
        data = kind()
        data.__dict__.update(fields(**changes))
        return pickle.dumps(data)

    path = written(tmp_path / "data.lmdb", value(), value(natoms=3), value(sid=8))
    tables = run(tmp_path, path)
    assert tables["train"].column("id").to_pylist() == ["7", "8"]
    assert tables["rejected"].to_pylist() == [
        {
            "id": "train/data/1",
            "source_row": 1,
            "reason": "unparsable: 3 atoms announced, 2 atomic numbers found",
        }
    ]
    data = kind()
    data.__dict__.update(pos=np.zeros((2, 3)))
    other = written(tmp_path / "other.lmdb", pickle.dumps(data))
    with pytest.raises(DataError, match="no cell, atomic_numbers, fixed, tags among pos"):
        run(tmp_path, other, out="other")


def same(first: Record | MoleculeError, second: Record | MoleculeError) -> None:
    assert isinstance(first, Record) and isinstance(second, Record)
    assert (first.id, first.targets) == (second.id, second.targets)
    for name in ("atomic_numbers", "tags", "fixed", "pbc"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name in ("positions", "target_positions", "cell"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=2e-6)


@pytest.mark.parametrize("suffix", ["extxyz", "extxyz.gz", "extxyz.xz"])
def test_trajectories_give_the_records_of_the_lmdb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    text = TRAJECTORIES.read_bytes()
    path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}.get(suffix[-2:], bytes)(text))
    found = list(relaxations(path))
    assert [item.name for item in found] == ["1000100", "1000102"]
    for key, item in enumerate(found):
        same(build(System(0, "x", "train", relaxation=item)), build(System(0, "x", "train", str(NEW), str(key))))


def test_a_folder_of_trajectories_is_prepared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = ase.io.read(TRAJECTORIES, ":6")
    for frame in frames:
        frame.set_tags(None)
        frame.arrays.pop("tags", None)
    for split, name in (("train", "random5"), ("val_id", "mine")):
        (tmp_path / "raw" / split).mkdir(parents=True)
        ase.io.write(tmp_path / "raw" / split / f"{name}.traj", frames)
    tables = run(tmp_path, tmp_path / "raw")
    first = tables["train"].to_pylist()[0]
    assert first["id"] == "5" and tables["val_id"].column("id").to_pylist() == ["mine"]
    assert first["tags"] == [0 if fixed else 1 for fixed in first["fixed"]]
    assert "has no tags" in caplog.text
    assert first["energy_initial"] == pytest.approx(-57.74908337)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "total energies" in manifest["level_of_theory"]


def test_damaged_trajectories(tmp_path: Path) -> None:
    text = TRAJECTORIES.read_text()
    contents = {
        "a.extxyz": "",
        "b.extxyz": text[: len(text) // 2].rsplit("\n", 1)[0] + "\n",
        "c.extxyz": "hello\n",
        "d.traj": "- of Ulmfalse",
        "e.extxyz.gz": "no gzip",
        "f.extxyz.xz": "no xz",
        "g.traj": "",
        "i.extxyz": text.replace("Lattice", "\n\nLattice", 1),
        "j.extxyz": text + "\n\n" + text,
        "k.extxyz": "0\n\n",
        "l.extxyz": f"{2**40}\n\nH 0 0 0\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match="Expected"):
            run(tmp_path, tmp_path / name)
    (tmp_path / "h.extxyz").write_text(text.replace("Au ", "Qq ", 1))
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path, tmp_path / "h.extxyz")


def test_frames_of_different_atoms_are_rejected(tmp_path: Path) -> None:
    frames = [Atoms("H2", cell=[5, 5, 5], pbc=True), Atoms("HO", cell=[5, 5, 5], pbc=True)]
    frames[0].calc = SinglePointCalculator(frames[0], energy=1.0)
    path = tmp_path / "a.extxyz"
    ase.io.write(path, frames)
    (item,) = relaxations(path)
    with pytest.raises(MoleculeError, match="different atoms"):
        read_relaxation(item)
    assert isinstance(build(System(0, "x", "train", relaxation=item)), MoleculeError)
