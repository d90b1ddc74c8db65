from __future__ import annotations

import hashlib
import logging
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer import api
from geomformer.datasets import md17
from geomformer.datasets.md17 import rmd17
from geomformer.datasets.md17.splits import published_split, seeded_split
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.raw import download
from geomformer.datasets.raw.npz import read_rows
from geomformer.errors import ConfigError, DataError
from geomformer.prepared.dataset import PreparedDataset

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "rmd17"
NPZ = SAMPLE / "npz_data" / "rmd17_ethanol.npz"
OLD_NAMES = {"nuclear_charges": "z", "coords": "R", "energies": "E", "forces": "F"}
ENERGY_SUM = -5824535.684394739
FORCE_SUM = 32723.210993103683
"""Of all 60 frames, forces by their absolute values."""

VALID = ["ethanol-26", "ethanol-50"]
SEEDED = {
    (1100, 1): "593a729f92aeec59",
    (211762, 1): "293587b863ed74e2",
    (211762, 2): "896298ac4ea39d95",
}


def prepare(name: str, raw: Path, out: Path, **options: object) -> PreparedDataset:
    return PreparedDataset(api.prepare(name, raw=[raw], out=out, root=out, options=PrepareOptions(**options)))  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def digest(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]


def trajectory(path: Path, frames: int = 1100, **changes: object) -> Path:
    """A made-up trajectory of water."""
    generator = np.random.default_rng(0)
    arrays = {
        "z": np.array([8, 1, 1]),
        "R": generator.normal(size=(frames, 3, 3)),
        "E": generator.normal(size=(frames, 1)),
        "F": generator.normal(size=(frames, 3, 3)),
        "name": np.array("water"),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]
    return path


def test_rmd17_of_the_real_sample(tmp_path: Path) -> None:
    dataset = prepare("rmd17", SAMPLE, tmp_path)
    assert dataset.path == tmp_path / "ethanol" and dataset.splits == {"train": 38, "valid": 2, "test": 20}
    records = {name: list(dataset.split(name)) for name in dataset.splits}
    with np.load(NPZ) as raw:
        for record in (record for split in records.values() for record in split):
            frame = int(record.id.removeprefix("ethanol-"))
            np.testing.assert_array_equal(record.positions[0], raw["coords"][frame])
            np.testing.assert_array_equal(record.forces, raw["forces"][frame])
            assert record.targets["energy"] == raw["energies"][frame]
    everything = [record for split in records.values() for record in split]
    assert sorted(int(record.id[8:]) for record in everything) == list(range(60))
    assert sum(record.targets["energy"] for record in everything) == pytest.approx(ENERGY_SUM, abs=1e-6)
    assert sum(np.abs(record.forces).astype(np.float64).sum() for record in everything) == pytest.approx(
        FORCE_SUM, abs=1e-6
    )
    test = {int(line) for line in (SAMPLE / "splits" / "index_test_01.csv").read_text().split()}
    assert {int(record.id[8:]) for record in records["test"]} == test
    assert [record.id for record in records["valid"]] == VALID
    first = everything[0]
    assert first.atomic_numbers.tolist() == [6, 6, 8, 1, 1, 1, 1, 1, 1] and first.conformer_source.tolist() == [0]


def test_units_level_and_origin_are_recorded(tmp_path: Path) -> None:
    dataset = prepare("rmd17", NPZ, tmp_path)
    assert dataset.manifest["targets"]["energy"]["unit"] == "kcal_mol"
    assert dataset.manifest["level_of_theory"] == "PBE/def2-SVP" and dataset.manifest["seed"] == 1
    assert dataset.manifest["options"] == {"limit": None, "molecule": "ethanol", "split": "published 01"}
    files = [source["file"] for source in dataset.manifest["sources"]]
    assert files == ["rmd17_ethanol.npz", "index_train_01.csv", "index_test_01.csv"]
    schema = pq.read_schema(next(dataset.path.glob("train-*.parquet")))
    assert schema.field("forces").metadata == {b"unit": b"kcal_mol/angstrom"}


def test_split_indices_inside_the_file(tmp_path: Path) -> None:
    with np.load(NPZ) as raw:
        arrays = dict(raw)
    for part in ("train", "test"):
        lines = (SAMPLE / "splits" / f"index_{part}_01.csv").read_text().split()
        arrays[f"{part}_idx_01"] = np.array(lines, np.int32)
    np.savez_compressed(tmp_path / "rmd17_ethanol.npz", **arrays)
    inside = prepare("rmd17", tmp_path / "rmd17_ethanol.npz", tmp_path / "a")
    beside = prepare("rmd17", NPZ, tmp_path / "b")
    one, other = content(inside.path), content(beside.path)
    assert [name for name in one if one[name] != other[name]] == ["manifest.json"]
    with pytest.raises(DataError, match="Expected an array 'train_idx_02'"):
        prepare("rmd17", tmp_path / "rmd17_ethanol.npz", tmp_path / "c", seed=2)
    with pytest.raises(ConfigError, match="1 to 5, found 6"):
        prepare("rmd17", NPZ, tmp_path / "c", seed=6)


def test_both_namings_give_the_same(tmp_path: Path) -> None:
    trajectory(tmp_path / "md17_water.npz")
    with np.load(tmp_path / "md17_water.npz") as raw:
        arrays = {name: raw[old] for name, old in OLD_NAMES.items()}
    arrays["energies"] = arrays["energies"][:, 0]
    (tmp_path / "new").mkdir()
    np.savez_compressed(tmp_path / "new" / "water_dft.npz", **arrays)
    first = prepare("md17", tmp_path / "md17_water.npz", tmp_path / "a")
    second = prepare("md17", tmp_path / "new", tmp_path / "b", shard_rows=first.manifest["shard_rows"])
    assert first.splits == {"train": 950, "valid": 50, "test": 100}
    one, other = content(first.path), content(second.path)
    assert {name for name in one if one[name] != other[name]} == {"manifest.json"}


def test_the_seeded_split_is_that_of_torchmd_net() -> None:
    for (frames, seed), expected in SEEDED.items():
        numbers = seeded_split(frames, seed)
        assert np.bincount(numbers).tolist() == [950, 50, frames - 1000]
        assert digest(numbers) == expected
        order = np.random.default_rng(seed).permutation(frames)
        assert set(order[950:1000]) == set(np.flatnonzero(numbers == 1))
    with pytest.raises(DataError, match="more than 1000 frames to split, found 1000"):
        seeded_split(1000, 1)


def test_published_indices_are_checked() -> None:
    train, test = np.arange(40), np.arange(40, 60)
    numbers = published_split(100, train, test, 1, NPZ)
    assert [(numbers == i).sum() for i in (-1, 0, 1, 2)] == [40, 38, 2, 20]
    for wrong in (np.arange(39, 60), np.array([100]), np.array([-1]), np.array([], np.int64), np.array([0.5])):
        with pytest.raises(DataError, match="distinct frames from 0 to 99"):
            published_split(100, train, wrong, 1, NPZ)


def test_several_molecules_and_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("md17_toluene", "benzene_old_dft", "rmd17_water"):
        trajectory(tmp_path / f"{name}.npz")
    seen: list[tuple[int, int | None]] = []
    with caplog.at_level(logging.WARNING):
        out = api.prepare(
            "md17",
            raw=[tmp_path],
            out=tmp_path / "out",
            options=PrepareOptions(limit=3),
            progress=lambda done, total: seen.append((done, total)),
        )
    assert out == tmp_path / "out" and sorted(path.name for path in out.iterdir()) == ["benzene", "toluene"]
    assert PreparedDataset(out / "benzene").splits == {"train": 3, "valid": 3, "test": 3}
    assert seen == [(i, 18) for i in range(1, 19)]
    assert "has 1100 frames, the official file 627983" in caplog.text
    with pytest.raises(DataError, match=r"Expected one of benzene, toluene, found 'tolene'. Did you mean 'toluene'"):
        prepare("md17", tmp_path, tmp_path / "x", molecules=("tolene",))
    trajectory(tmp_path / "toluene_dft.npz")
    with pytest.raises(DataError, match="one file for toluene"):
        prepare("md17", tmp_path, tmp_path / "x")


def test_parts_make_the_bytes_of_the_whole(tmp_path: Path) -> None:
    trajectory(tmp_path / "water.npz")
    whole = prepare("md17", tmp_path / "water.npz", tmp_path / "whole", shard_rows=100)
    for i in (2, 1):
        options = PrepareOptions(shard_rows=100, part=(i, 2))
        api.prepare("md17", raw=[tmp_path / "water.npz"], out=tmp_path / "parts", options=options)
    assert content(whole.path) == content(tmp_path / "parts" / "water")


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    path = trajectory(tmp_path / "water.npz", E=np.array([1.0] * 1100, object))
    with pytest.raises(DataError, match=r"'E' of .*water.npz, found Python objects"):
        prepare("md17", path, tmp_path / "out")
    path = trajectory(tmp_path / "water.npz", name=np.array({"a": 1}, object))
    assert prepare("md17", path, tmp_path / "out").splits["test"] == 100, "what is not needed is not looked at"
    with pytest.raises(DataError, match="Python objects"):
        next(read_rows(path, "name", 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"F": np.zeros((1100, 3, 2))}, "found z int64.*F float64"),
        ({"R": np.zeros((1099, 3, 3))}, "Expected numbers z"),
        ({"E": np.full(1100, "a")}, "Expected numbers z"),
        ({"E": np.full(1100, np.nan)}, "finite numbers, found others in 'E' of .* frame 0"),
        ({"z": np.array([8, 0, 1])}, "atomic numbers from 1 to 118"),
        ({"R": np.asfortranarray(np.zeros((1100, 3, 3)))}, "column by column"),
    ],
)
def test_arrays_that_are_no_trajectory(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = trajectory(tmp_path / "water.npz", **changes)
    with pytest.raises(DataError, match=message):
        prepare("md17", path, tmp_path / "out")


def test_damaged_files_say_what_they_are(tmp_path: Path) -> None:
    path = trajectory(tmp_path / "water.npz")
    whole = path.read_bytes()
    cases = {
        b"": "found an empty file",
        b"<!DOCTYPE html><html>": "begins with a web page",
        whole[: len(whole) // 2]: "ends early",
        whole[:200_00] + b"\xff" * 64 + whole[20_064:]: "damaged",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            prepare("md17", path, tmp_path / "out")
    np.savez(path, R=np.zeros(3))
    with pytest.raises(DataError, match="Expected the arrays z, R, E, F or nuclear_charges"):
        prepare("md17", path, tmp_path / "out")
    with pytest.raises(DataError, match="found nothing at"):
        prepare("md17", tmp_path / "none.npz", tmp_path / "out")


def test_memory_does_not_grow_with_the_trajectory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, R=np.zeros((40_000, 9, 3)))
    tracemalloc.start()
    try:
        assert sum(len(piece) for piece in read_rows(path, "R", 1000)) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000 < path.stat().st_size / 2
    finally:
        tracemalloc.stop()


def test_the_archive_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmd17, "FRAMES", {"ethanol": 60})
    folder = tmp_path / "raw" / "rmd17"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "rmd17.tar.bz2", "w:bz2") as archive:
        archive.add(NPZ, "rmd17/npz_data/rmd17_ethanol.npz")
        archive.add(NPZ, "rmd17/npz_data/rmd17_other.npz")
        for part in ("train", "test"):
            for number in range(1, 6):
                archive.add(SAMPLE / "splits" / f"index_{part}_01.csv", f"rmd17/splits/index_{part}_{number:02d}.csv")
    options = PrepareOptions(molecules=("ethanol",))
    out = api.prepare("rmd17", root=tmp_path, options=options)
    assert out == tmp_path / "prepared" / "rmd17" / "ethanol"
    assert PreparedDataset(out).splits == {"train": 38, "valid": 2, "test": 20}
    assert [path.name for path in (folder / "npz_data").iterdir()] == ["rmd17_ethanol.npz"]
    (folder / "rmd17.tar.bz2").write_bytes(b"BZh")
    assert api.prepare("rmd17", root=tmp_path, options=PrepareOptions()) == out
    with pytest.raises(ConfigError, match="Did you mean 'ethanol'"):
        api.prepare("rmd17", root=tmp_path, options=PrepareOptions(molecules=("ethano",)))


def test_missing_molecules_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "raw" / "md17"
    folder.mkdir(parents=True)
    trajectory(folder / "uracil_dft.npz")
    asked: list[str] = []

    def fetch_all(files: list[download.RemoteFile], place: Path) -> None:
        for file in files:
            asked.append(file.name)
            trajectory(place / file.name)

    monkeypatch.setattr(md17, "fetch_all", fetch_all)
    options = PrepareOptions(molecules=("uracil", "benzene"), limit=2)
    out = api.prepare("md17", root=tmp_path, options=options)
    assert asked == ["md17_benzene2017.npz"]
    assert sorted(path.name for path in out.iterdir()) == ["benzene", "uracil"]
    with pytest.raises(ConfigError, match="Did you mean 'aspirin'"):
        api.prepare("md17", root=tmp_path, options=PrepareOptions(molecules=("asprin",)))
    assert md17.FILES["aspirin"].urls[0] == "https://www.quantum-machine.org/gdml/data/npz/md17_aspirin.npz"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npz_data").mkdir()
    (tmp_path / "splits").mkdir()
    path = trajectory(tmp_path / "npz_data" / "rmd17_water.npz")
    for part, first in (("train", 0), ("test", 500)):
        lines = "".join(f"{first + i}\n" for i in range(100))
        (tmp_path / "splits" / f"index_{part}_02.csv").write_text(lines)
    assert prepare("rmd17", path, tmp_path / "out", seed=2).splits == {"train": 95, "valid": 5, "test": 100}
    with pytest.raises(DataError, match=r"index_train_04.csv and index_test_04.csv in .*splits, found index_test_02"):
        prepare("rmd17", path, tmp_path / "x", seed=4)
    (tmp_path / "splits" / "index_test_02.csv").write_text("5000\n")
    with pytest.raises(DataError, match=r"in split 2 of .*splits, found others"):
        prepare("rmd17", path, tmp_path / "x", seed=2)
    with pytest.raises(DataError, match=r"npz files of md17 molecules in .*, found none. .* called rmd17_\*.npz"):
        prepare("md17", tmp_path, tmp_path / "x")
    monkeypatch.setattr(download, "fetch_all", lambda *args: pytest.fail("nothing is to be fetched"))
    options = PrepareOptions(molecules=("aspirn",))
    with pytest.raises(ConfigError, match="Did you mean 'aspirin'"):
        api.prepare("rmd17", out=tmp_path / "x", root=tmp_path / "root", options=options)
