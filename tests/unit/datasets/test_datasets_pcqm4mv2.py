from __future__ import annotations

import csv
import gzip
import io
import logging
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from geomformer.chem.build import ChemistryOptions
from geomformer.chem.composition import block_composition, formula, smiles_composition
from geomformer.chem.drawing import MAX_DRAWN, MAX_STORED, flat_record, spiral
from geomformer.datasets import pcqm4mv2
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pcqm4mv2 import prepare
from geomformer.datasets.pcqm4mv2 import review as pcqm4mv2_review
from geomformer.datasets.pcqm4mv2.review import Review
from geomformer.datasets.pcqm4mv2.sources import Files, find, lost_from, sdf_records, table_rows
from geomformer.datasets.pcqm4mv2.split import read_splits
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Failure
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import CONFORMER_SOURCES, RawMolecule, Record

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "pcqm4mv2"
OPTIONS: dict[str, Any] = {"chemistry": {"num_conformers": 1}, "workers": 0, "shard_rows": 30}
FLAT = CONFORMER_SOURCES.index("flat_2d")
TABLE = gzip.decompress((SAMPLE / "raw" / "data.csv.gz").read_bytes()).decode()
SDF = gzip.decompress((SAMPLE / "pcqm4m-v2-train.sdf.gz").read_bytes()).decode()
SPLITS = {name: rows.tolist() for name, rows in read_splits(SAMPLE / "split_dict.pt").items()}


def run(raw: Path, out: Path, **changes: Any) -> PreparedDataset:
    options = PrepareOptions(**{**OPTIONS, **changes})
    return PreparedDataset(prepare(raw=[raw], out=out, data_root=out.parent / "data", options=options))


def read(raw: Path) -> list[RawMolecule]:
    """Reads all rows without any chemistry."""
    files = find([raw], geometry=True)
    assert isinstance(files, Files)
    return list(pcqm4mv2.molecules(files, read_splits(files.splits), None))


def saved(splits: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(splits, buffer)
    return buffer.getvalue()


def archives(
    folder: Path, table: str | bytes = TABLE, sdf: str = SDF, splits: bytes | dict[str, Any] | None = None
) -> Path:
    """Writes the two archives as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(splits, bytes):
        splits = saved({name: np.array(rows) for name, rows in (splits or SPLITS).items()})
    with zipfile.ZipFile(folder / "pcqm4m-v2.zip", "w") as archive:
        archive.writestr("pcqm4m-v2/RELEASE_v1.txt", "")
        packed = table if isinstance(table, bytes) else gzip.compress(table.encode(), mtime=0)
        archive.writestr("pcqm4m-v2/raw/data.csv.gz", packed)
        archive.writestr("pcqm4m-v2/split_dict.pt", splits)
    with tarfile.open(folder / "pcqm4m-v2-train.sdf.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("pcqm4m-v2-train.sdf")
        member.size = len(sdf)
        archive.addfile(member, io.BytesIO(sdf.encode()))
    return folder


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.parquet")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return run(SAMPLE, tmp_path_factory.mktemp("pcqm4mv2") / "out")


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def rmsd(moved: np.ndarray, fixed: np.ndarray) -> float:
    """Root mean square distance of two centred geometries (N, 3) after the best rotation."""
    left, scale, right = np.linalg.svd(moved.T.astype(float) @ fixed)
    scale[-1] *= np.sign(np.linalg.det(left @ right))
    return float(np.sqrt(max(0.0, (moved**2).sum() + (fixed**2).sum() - 2 * scale.sum()) / len(moved)))


def test_golden_counts_and_sums(prepared: PreparedDataset) -> None:
    assert prepared.splits == {"train": 60, "valid": 20, "test-challenge": 4, "test-dev": 6}
    assert prepared.manifest["rejected"] == 0
    assert (prepared.manifest["dataset"], prepared.manifest["level_of_theory"]) == ("pcqm4mv2", "B3LYP/6-31G*")
    assert prepared.manifest["targets"]["gap"]["unit"] == "ev"
    rows = {int(row["idx"]): row for row in csv.DictReader(io.StringIO(TABLE))}
    atoms = {}
    for name in prepared.splits:
        split = prepared.split(name)
        assert [int(i) for i in split.ids] == SPLITS[name]
        labels = [float(rows[i]["homolumogap"] or "nan") for i in SPLITS[name]]
        assert np.array_equal(split.target("gap"), labels, equal_nan=True)
        atoms[name] = int(split.num_atoms.sum())
    assert prepared.split("train").target("gap").sum() == pytest.approx(321.254891, abs=1e-6)
    assert np.isnan(prepared.split("test-dev").target("gap")).all()
    assert atoms == {"train": 879, "valid": 320, "test-challenge": 68, "test-dev": 97}


def test_every_train_geometry_is_that_of_its_molecule(prepared: PreparedDataset) -> None:
    for record, block in zip(prepared.split("train"), sdf_records(SAMPLE / "pcqm4m-v2-train.sdf.gz"), strict=True):
        assert record.target_positions is not None and record.atomic_numbers is not None
        lines = block.splitlines()
        heavy = [line.split()[:3] for line in lines[4 : 4 + int(lines[3][:3])] if line[31:33].strip() != "H"]
        expected = distances(np.array(heavy, float))
        found = distances(record.target_positions[record.atomic_numbers > 1])
        assert np.allclose(np.sort(found, axis=None), np.sort(expected, axis=None), atol=2e-4), record.id
        assert rmsd(record.positions[0], record.target_positions) < 2.5
    assert all(record.target_positions is None for record in prepared.split("valid"))


def test_the_composition_of_every_row_is_that_of_its_record() -> None:
    blocks = sdf_records(SAMPLE / "pcqm4m-v2-train.sdf.gz")
    for (_, smiles, _), block in zip(table_rows(SAMPLE / "raw" / "data.csv.gz"), blocks, strict=False):
        assert smiles_composition(smiles) == block_composition(block)


def test_composition_of_molecules_that_cannot_exist() -> None:
    assert smiles_composition("C(C)(C)(C)(C)C") == {"C": 6, "H": 15}
    assert smiles_composition("C1CC") is None
    assert smiles_composition("[2H]C.[Na+].[O-]*") == {"C": 1, "H": 4, "Na": 1, "O": 1, "*": 1}
    assert block_composition("nothing") is None
    assert formula({"O": 1, "H": 6, "C": 2}) == "C2H6O" and formula(None) == "unreadable"


def test_the_atoms_of_a_block_are_those_of_its_molecule() -> None:
    ethanol = Chem.MolToMolBlock(Chem.AddHs(Chem.MolFromSmiles("CCO")))
    assert block_composition(ethanol) == {"C": 2, "H": 6, "O": 1}
    assert block_composition(ethanol.replace(" H ", " D ")) == {"C": 2, "H": 6, "O": 1}
    assert block_composition(Chem.MolToV3KMolBlock(Chem.MolFromMolBlock(ethanol))) == {"C": 2, "O": 1}
    lines = ethanol.splitlines()
    assert block_composition("\n".join(lines[:8])) is None
    assert block_composition(ethanol.replace("V2000", "V9999")) is None
    assert block_composition(ethanol.replace(lines[3][:3], " -9", 1)) is None


def test_archives_and_their_contents_give_the_same_bytes(prepared: PreparedDataset, tmp_path: Path) -> None:
    run(archives(tmp_path / "raw"), tmp_path / "out", workers=1)
    assert shards(tmp_path / "out") == shards(prepared.path) != {}


def test_a_limit_takes_the_first_rows_of_every_split(tmp_path: Path) -> None:
    found = run(SAMPLE, tmp_path / "out", limit=2)
    assert found.splits == {"train": 2, "valid": 2, "test-challenge": 2, "test-dev": 2}
    assert found.split("train").ids == ["0", "1"]


def test_without_geometries_no_sdf_is_needed(tmp_path: Path) -> None:
    raw = archives(tmp_path / "raw")
    (raw / "pcqm4m-v2-train.sdf.tar.gz").unlink()
    with pytest.raises(DataError, match=r"pcqm4m-v2-train\.sdf\.tar\.gz.*--no-use-geometry"):
        run(raw, tmp_path / "out", limit=2)
    found = run(raw, tmp_path / "out", limit=2, use_geometry=False)
    assert all(record.target_positions is None for record in found.split("train"))


def test_only_the_gap(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gap"):
        run(SAMPLE, tmp_path / "out", targets=("homo",))
    with pytest.raises(ConfigError, match="are generated"):
        run(SAMPLE, tmp_path / "out", chemistry={"geometry": "input"})
    assert run(SAMPLE, tmp_path / "out", targets=("gap",), limit=1).splits["train"] == 1


def shifted(count: int, begin: int = 0) -> str:
    """The SDF with `count` records, from `begin` on, each in the place of the one before."""
    records = SDF.split("$$$$\n")[:-1]
    moved = records[begin : begin + count]
    records[begin : begin + count] = moved[1:] + moved[:1]
    return "".join(record + "$$$$\n" for record in records)


def test_a_shifted_sdf_is_refused(tmp_path: Path) -> None:
    raw = archives(tmp_path / "raw", sdf=shifted(60))
    with pytest.raises(DataError, match=r"not in the order of the train split: row \d+ is C\w+, record \d+ .* is C"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_few_strange_geometries_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = archives(tmp_path / "raw", sdf=shifted(4))
    found = run(raw, tmp_path / "out", shard_rows=100)
    lacking = [record.id for record in found.split("train") if record.target_positions is None]
    assert lacking == ["0", "1", "2", "3"]
    assert not np.isnan(found.split("train").target("gap")).any()
    assert "4 train rows have no reference geometry: 4 are of another molecule" in caplog.text
    assert "row 0 is C15H12N2O, record 0 of the SDF (from 0) is C13H17NO3" in caplog.text


@pytest.mark.parametrize("count", [59, 62])
def test_as_many_records_as_train_rows(tmp_path: Path, count: int) -> None:
    records = (SDF.split("$$$$\n")[:-1] * 2)[:count]
    text = "".join(record + "$$$$\n" for record in records)
    with pytest.raises(DataError, match=f"60 in all, found {count}"):
        read(archives(tmp_path / "raw", sdf=text))


MONSTERS = {
    "five bonds on a carbon": "C(C)(C)(C)(C)C",
    "no Kekule form": "c1cccc1",
    "more atoms than are allowed": "C" * 300,
    "too many to be drawn": "C" * (MAX_DRAWN + 1),
}


@pytest.mark.parametrize("name", MONSTERS)
def test_a_row_of_validation_or_test_is_never_lost(tmp_path: Path, name: str) -> None:
    first = SPLITS["test-dev"][0]
    lines = [f"{first},{MONSTERS[name]}," if line.startswith(f"{first},") else line for line in TABLE.splitlines()]
    found = run(archives(tmp_path / "raw", table="\n".join(lines) + "\n"), tmp_path / "out", limit=1)
    assert found.manifest["rejected"] == 0
    (record,) = found.split("test-dev")
    assert record.conformer_source.tolist() == [FLAT] and not record.positions[..., 2].any()
    expected = smiles_composition(MONSTERS[name])
    assert expected is not None and len(record.atomic_numbers) == sum(expected.values()) - expected["H"]
    assert record.atom_features is not None and record.bond_index is not None


def test_train_rows_that_cannot_exist_are_rejected(tmp_path: Path) -> None:
    table = TABLE.replace("\n1,", "\n1,C(C)(C)(C)(C)", 1)
    run(archives(tmp_path / "raw", table=table), tmp_path / "out", limit=3)
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert (row["id"], row["source_row"]) == ("1", 1) and "cannot exist" in row["reason"]
    assert lost_from(row["reason"]) is None


def test_what_is_no_smiles_is_rejected_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = SPLITS["valid"][0]
    table = TABLE.replace(f"\n{first},", f"\n{first},((", 1)
    run(archives(tmp_path / "raw", table=table), tmp_path / "out", limit=2)
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert row["id"] == str(first) and lost_from(row["reason"]) == "valid"
    assert "1 rows of validation or test are LOST" in caplog.text


def review() -> Review:
    return Review(np.arange(10), 10, ChemistryOptions())


def test_a_row_that_took_its_worker_down_is_drawn() -> None:
    result = Failure(0, "the worker process died")
    found = review()(RawMolecule(0, "0", "CCO", split="test-dev", targets={"gap": 1.0}), result)
    assert isinstance(found, Record) and found.conformer_source.tolist() == [FLAT] and found.targets == {"gap": 1.0}
    assert review()(RawMolecule(0, "0", "CCO", split="train"), result) is result


def test_a_row_that_cannot_even_be_drawn_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcqm4mv2_review, "flat_record", end_unless_laid_out)
    found = review()(RawMolecule(0, "0", "CCO", split="valid"), Failure(0, "the worker process died"))
    assert isinstance(found, Record)
    expected = spiral(3) - spiral(3).mean(axis=0)
    assert np.allclose(found.positions[0], expected, atol=1e-6)
    monkeypatch.setattr(pcqm4mv2_review, "flat_record", end_always)
    lost = review()(RawMolecule(0, "0", "CCO", split="valid"), Failure(0, "the worker process died"))
    assert isinstance(lost, MoleculeError) and lost_from(lost.message) == "valid"


def test_rows_whose_workers_die_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pcqm4mv2, "build", end_always)
    found = run(SAMPLE, tmp_path / "out", limit=1, workers=1)
    assert found.splits == {"valid": 1, "test-challenge": 1, "test-dev": 1}
    for name in found.splits:
        assert found.split(name)[0].conformer_source.tolist() == [FLAT]
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert row["id"] == "0" and "worker process died" in row["reason"]
    assert "it is drawn instead" in caplog.text and "3 rows have a flat drawing" in caplog.text


def end_unless_laid_out(raw: RawMolecule, options: ChemistryOptions, drawn: bool) -> Record | MoleculeError:
    if drawn:
        os._exit(1)
    return flat_record(raw, options, drawn=drawn)


def end_always(raw: RawMolecule, options: ChemistryOptions, drawn: bool = True) -> Record | MoleculeError:
    os._exit(1)


def test_drawings_obey_the_options() -> None:
    raw = RawMolecule(0, "0", "C(C)(C)(C)(C)C")
    bare = flat_record(raw, ChemistryOptions(features=False, hydrogens=True))
    assert isinstance(bare, Record) and bare.num_atoms == 21 and bare.atom_features is None
    ethanol = flat_record(RawMolecule(0, "0", "OCC"), ChemistryOptions())
    assert isinstance(ethanol, Record) and ethanol.smiles == "CCO" and ethanol.atomic_numbers.tolist() == [6, 6, 8]
    for text in ("", "((", "*CC", "C" * (MAX_STORED + 1)):
        assert isinstance(flat_record(RawMolecule(0, "0", text), ChemistryOptions()), MoleculeError)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hostile",)


class Endless:
    """An array whose rows the file does not hold: memory that fills when it is looked at."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.zeros(0).__reduce__()[0], (np.ndarray, (10**9,), b"b")


@pytest.mark.parametrize("nested", [False, True])
def test_a_hostile_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    monkeypatch.chdir(tmp_path)
    splits = {"train": np.array([Hostile()], object)} if nested else {"train": Hostile()}
    raw = archives(tmp_path / "raw", splits=saved(splits))
    with pytest.raises(DataError, match=r"tries to load \w+\.system.*Nothing of it was run") as caught:
        run(raw, tmp_path / "out")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_hostile_pickle_is_named_whoever_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "split_dict.pt"
    path.write_bytes(pickle.dumps({"train": Hostile()}, protocol))
    with pytest.raises(DataError, match=r"\w+\.system.*Nothing of it was run"):
        read_splits(path)
    assert not (tmp_path / "hostile").exists()
    path.write_bytes(pickle.dumps({"train": np.arange(3)}, 5))
    with pytest.raises(DataError, match=r"as torch\.save writes"):
        read_splits(path)


def test_splits_of_older_numpy_and_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "split_dict.pt"
    with zipfile.ZipFile(io.BytesIO(saved({"train": np.arange(3), "valid": torch.arange(3, 5)}))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, data in members.items():
            target.writestr(name, data.replace(b"numpy._core", b"numpy.core") if name.endswith("data.pkl") else data)
    found = read_splits(path)
    assert {name: rows.tolist() for name, rows in found.items()} == {"train": [0, 1, 2], "valid": [3, 4]}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": np.array([1, 0])}, "ascending"),
        ({"train": np.array([0, 1]), "valid": np.array([1])}, "without common rows"),
        ({"train": np.array([-1])}, "row numbers"),
        ({"train": np.array([0.5])}, "row numbers"),
        ({"train": np.array([2**63], np.uint64)}, "found 9223372036854775808"),
        ({"train": np.array([10**12])}, "row numbers"),
        ({"train": Endless()}, r"row numbers .* of shape \(1000000000,\)"),
        ({"train": [[1], [2, 3]]}, "row numbers"),
        ({"train": np.array(["a"])}, "found another or damaged .*StrDType"),
        ({"train": np.zeros(0, int), "valid": np.arange(60)}, "0 in all, found 60"),
        ({"train": [], "valid": np.arange(60)}, "0 in all, found 60"),
        ({"train": np.arange(3), "test": np.arange(3)}, "train, valid, test-dev"),
        ([1, 2], "found list"),
        ({**SPLITS, "valid": [*SPLITS["valid"], 10**7]}, "lacks 1 of"),
    ],
)
def test_splits_that_are_none(tmp_path: Path, splits: object, message: str) -> None:
    raw = archives(tmp_path / "raw", splits=saved(splits))
    with pytest.raises(DataError, match=message):
        read(raw)


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04 half", saved({"train": np.arange(5)})[:-200]])
def test_a_damaged_split_says_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "split_dict.pt").write_bytes(data)
    with pytest.raises(DataError, match=r"split_dict\.pt as torch\.save"):
        read_splits(tmp_path / "split_dict.pt")


def test_rows_in_no_split_are_listed(tmp_path: Path) -> None:
    splits = {**SPLITS, "valid": SPLITS["valid"][1:]}
    run(archives(tmp_path / "raw", splits=splits), tmp_path / "out", use_geometry=False)
    (row,) = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert row["id"] == str(SPLITS["valid"][0]) and "in no split" in row["reason"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[:-20] + "\n", "damaged|lacks"),
        (TABLE.replace("idx,smiles", "id,smiles"), "columns idx, smiles, homolumogap"),
        (TABLE.replace("\n1,", "\n0,", 1), "ascending idx"),
        (TABLE.replace("\n1,", "\none,", 1), "line 3 damaged: .*one"),
        (TABLE.replace("\n1,", f"\n{10**30},", 1), r"line 3 damaged: idx 1000\d+ and gap .* after idx 0"),
        ("i" * 200_000, "line 1 damaged: field larger"),
        ("", "homolumogap in .*, found none"),
        (gzip.compress(TABLE.encode())[:-300], "damaged or ends early"),
        (b"<html>no such file</html>", "damaged or ends early"),
    ],
)
def test_a_damaged_table_says_so(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(archives(tmp_path / "raw", table=table))


@pytest.mark.parametrize("name", ["pcqm4m-v2.zip", "pcqm4m-v2-train.sdf.tar.gz"])
def test_a_truncated_archive_says_so(tmp_path: Path, name: str) -> None:
    path = archives(tmp_path / "raw") / name
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="ends early"):
        read(tmp_path / "raw")


def test_an_sdf_that_ends_within_a_record(tmp_path: Path) -> None:
    path = tmp_path / "pcqm4m-v2-train.sdf"
    path.write_text(SDF[:-40])
    with pytest.raises(DataError, match="ends within a record"):
        list(sdf_records(path))
    path.write_bytes(SDF.replace("\n", "\r\n").encode())
    assert list(sdf_records(path)) == list(sdf_records(SAMPLE / "pcqm4m-v2-train.sdf.gz"))


def test_offline_the_message_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def offline(files: list[Any], folder: Path) -> list[Path]:
        asked.append([file.name for file in files])
        raise DataError(f"Cannot download {files[0].name}.", f"Put it into {folder}.")

    monkeypatch.setattr(pcqm4mv2, "fetch_all", offline)
    folder = tmp_path / "raw" / "pcqm4mv2"
    arguments: dict[str, Any] = {"raw": [], "out": tmp_path / "out", "data_root": tmp_path}
    for options in (PrepareOptions(**OPTIONS), PrepareOptions(**OPTIONS, use_geometry=False)):
        with pytest.raises(DataError, match=r"pcqm4m-v2\.zip"):
            prepare(**arguments, options=options)
    archives(folder)
    (folder / "pcqm4m-v2-train.sdf.tar.gz").rename(tmp_path / "later")
    with pytest.raises(DataError, match=r"train\.sdf\.tar\.gz"):
        prepare(**arguments, options=PrepareOptions(**OPTIONS))
    (tmp_path / "later").rename(folder / "pcqm4m-v2-train.sdf.tar.gz")
    prepare(**arguments, options=PrepareOptions(**OPTIONS, limit=1))
    assert asked == [["pcqm4m-v2.zip", "pcqm4m-v2-train.sdf.tar.gz"], ["pcqm4m-v2.zip"], ["pcqm4m-v2-train.sdf.tar.gz"]]


def test_missing_raw_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pcqm4m-v2\.zip .* and pcqm4m-v2-train\.sdf\.tar\.gz .*nowhere \(missing\)"):
        run(tmp_path / "nowhere", tmp_path / "out")


def test_a_split_of_another_size_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(SAMPLE, tmp_path / "out", limit=1)
    assert "expected train 3378606; valid 73545; test-dev 147037; test-challenge 147432 rows" in caplog.text
