"""Molecule3D from exactly formatted files: record order, both schemes, damage."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from geomformer import api
from geomformer.datasets.molecule3d import random_numbers
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError, DataError
from geomformer.prepared.check import check_dataset
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.schemes import SPLITS
from geomformer.records import CONFORMER_SOURCES

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "molecule3d"
HEADER = "cid,dipole x,dipole y,dipole z,homo,lumo,homolumogap,scf energy"

SMILES = (
    "Cc1ccccc1",
    "CCO",
    "Oc1ccccc1",
    "CCC",
    "",  # cannot be sanitised
    "Nc1ccccc1",
    "OC1CCCCC1",
    "C[C@@H]1CCC[C@H](F)C1",
    "Cc1ccccn1",
    "O",
    "Fc1ccccc1",
    "Cc1cccnc1",
)
BROKEN = 4
CIDS = [100 + 7 * i for i in range(len(SMILES))]
"""Ends at 7 and 9 of 12: benzene (rows 0, 2, 5, 10) and no ring (1, 3, 9) fill train; of the two sets of two, pyridine
(8, 11) comes before cyclohexane (6, 7), as it begins later, and fills valid; the broken row is a set of its own."""
SCAFFOLD = {"train": [0, 1, 2, 3, 5, 9, 10], "valid": [8, 11], "test": [6, 7]}


def block(smiles: str) -> str:
    if not smiles:
        rows = [f"{i:10.4f}    0.0000    0.5000 {'C' if i == 0 else 'F'}   0  0" for i in range(6)]
        bonds = [f"  1{i + 2:3d}  1  0" for i in range(5)]
        return "\n".join(
            ["", "     test   3D", "", "  6  5  0  0  0  0  0  0  0  0999 V2000", *rows, *bonds, "M  END\n"]
        )
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return Chem.MolToMolBlock(mol)


BLOCKS = [block(smiles) for smiles in SMILES]


def titled(text: str, title: str) -> str:
    return title + text[text.index("\n") :]


def write_raw(folder: Path, *, titles: list[str] | None = None, **indices: dict[str, list[int]]) -> Path:
    """Two SDF files whose names sort the other way round as text, the table, and split files."""
    folder.mkdir(parents=True)
    titles = titles or [f"{cid:09d}" for cid in CIDS]
    for start, end in ((0, 9), (9, 12)):
        texts = [titled(BLOCKS[i], titles[i]) + "$$$$\n" for i in range(start, end)]
        (folder / f"combined_mols_{start}_to_{end}.sdf").write_text("".join(texts))
    rows = [f"{cid},0.1,0.2,-{i},-6.0,{i / 4 - 6.0},{i / 4},-{1000 + i}.5" for i, cid in enumerate(CIDS)]
    (folder / "properties.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for name, content in indices.items():
        (folder / f"{name}_split_inds.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw" / "molecule3d")


def prepare(raw: Path, out: Path, **options: Any) -> Path:
    return api.prepare("molecule3d", raw=[raw], out=out, options=PrepareOptions(**{"workers": 0, **options}))


def cids(rows: list[int]) -> list[str]:
    return [str(CIDS[row]) for row in rows]


def test_sample_has_golden_counts_and_sums(tmp_path: Path) -> None:
    out = prepare(SAMPLE, tmp_path / "out")
    assert check_dataset(out) == []
    random, scaffold = PreparedDataset(out, "random"), PreparedDataset(out, "scaffold")
    for dataset in (random, scaffold):
        assert dataset.splits == {"train": 28, "valid": 10, "test": 10}
        gaps = [gap for name in dataset.splits for gap in dataset.split(name).target("gap")]
        assert sum(gaps) == pytest.approx(244.36368002600994, abs=1e-9)
        assert sum(int(dataset.split(name).num_atoms.sum()) for name in dataset.splits) == 1431
    assert random.scheme == PreparedDataset(out).scheme
    assert random.manifest["targets"]["gap"]["mean"] == pytest.approx(4.803975663541428)
    assert scaffold.manifest["targets"]["gap"]["mean"] == pytest.approx(5.5174970529596425)
    assert scaffold.manifest["training_molecules_per_element"] == {
        "1": 28, "6": 28, "7": 17, "8": 24, "9": 1, "16": 6, "17": 4,
    }  # fmt: skip
    assert random.manifest["level_of_theory"] == "B3LYP/6-31G*"
    assert {item["file"] for item in random.manifest["sources"]} >= {"properties.csv", "scaffold_split_inds.json"}


def test_dft_geometry_with_all_hydrogens_is_the_input(tmp_path: Path) -> None:
    record = PreparedDataset(prepare(SAMPLE, tmp_path / "out")).split("train")[0]
    assert [CONFORMER_SOURCES[number] for number in record.conformer_source] == ["dft"]
    mol = next(iter(Chem.SDMolSupplier(str(SAMPLE / "combined_mols_0_to_5.sdf"), removeHs=False)))
    assert (record.id, record.num_atoms, record.target_positions) == ("1", mol.GetNumAtoms(), None)
    assert record.atomic_numbers is not None and (record.atomic_numbers == 1).sum() == 12
    found = record.positions[0]
    expected = mol.GetConformer().GetPositions()
    ours, theirs = (np.sort(np.linalg.norm(x[:, None] - x[None], axis=-1), axis=None) for x in (found, expected))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_published_random_split_of_all_rows() -> None:
    numbers = random_numbers(3_899_647)
    assert np.bincount(numbers).tolist() == [2_339_788, 779_929, 779_930]
    assert [SPLITS[i] for i in numbers[[297718, 2463060, 3875884, 955837, 657110]]] == ["train"] * 5
    order = np.arange(3_899_647)
    np.random.RandomState(42).shuffle(order)
    assert order[:5].tolist() == [297718, 2463060, 3875884, 955837, 657110]
    assert (numbers[order[2_339_788 : 2_339_788 + 779_929]] == 1).all()


def test_split_files_and_regenerated_splits_agree(tmp_path: Path) -> None:
    """The sample's files were made by the published steps, with the scaffolds of molecules with their hydrogens."""
    without = tmp_path / "raw"
    shutil.copytree(SAMPLE, without)
    for path in without.glob("*.json"):
        path.unlink()
    given = prepare(SAMPLE, tmp_path / "given", shard_rows=50)
    made = prepare(without, tmp_path / "made", workers=2, shard_rows=7)
    for scheme in ("random", "scaffold"):
        name = f"scheme-{scheme}.parquet"
        assert (given / name).read_bytes() == (made / name).read_bytes()
    options = PreparedDataset(made).manifest["options"]
    assert options["split_schemes"] == {"random": "regenerated", "scaffold": "regenerated"}


def test_unusable_record_keeps_the_others_in_line(raw: Path, tmp_path: Path) -> None:
    out = prepare(raw, tmp_path / "out", shard_rows=5)
    (rejected,) = pq.read_table(out / "rejected.parquet").to_pylist()
    assert (rejected["id"], rejected["source_row"]) == (str(CIDS[BROKEN]), BROKEN)
    dataset = PreparedDataset(out, "scaffold")
    for split, rows in SCAFFOLD.items():
        assert dataset.split(split).ids == cids(rows)
        assert dataset.split(split).target("gap").tolist() == [row / 4 for row in rows]
    random = PreparedDataset(out, "random")
    order = np.random.RandomState(42).permutation(12)
    for split, part in zip(SPLITS, np.split(order, [7, 9]), strict=True):
        assert random.split(split).ids == cids(sorted(row for row in part.tolist() if row != BROKEN))
    record = dataset.split("test")[0]
    assert record.targets["dipole_z"] == -6.0 and record.targets["scf_energy"] == -1006.5
    assert {name: target["unit"] for name, target in dataset.manifest["targets"].items()} == {
        "gap": "ev", "homo": "ev", "lumo": "ev", "scf_energy": "ev",
        "dipole_x": "debye", "dipole_y": "debye", "dipole_z": "debye",
    }  # fmt: skip


def test_split_files_count_unusable_records(tmp_path: Path) -> None:
    content = {"train": [11, 0, 4], "valid": [1, 2, 3, 5], "test": [10, 9, 8, 7, 6]}
    raw = write_raw(tmp_path / "raw", random=content)
    out = prepare(raw, tmp_path / "out", split_scheme="random")
    dataset = PreparedDataset(out)
    assert (dataset.schemes, dataset.splits) == (("random",), {"train": 2, "valid": 4, "test": 5})
    assert dataset.split("train").ids == cids([0, 11])
    assert dataset.manifest["options"]["split_schemes"] == {"random": "random_split_inds.json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [0], "valid": [1]}, "lists train, valid and test"),
        ([1, 2], "lists train, valid and test"),
        ({"train": list(range(10)), "valid": [10], "test": [12]}, "from 0 to 11 .*, found 12 in test"),
        ({"train": list(range(10)), "valid": [10], "test": [10]}, "found 12 numbers for 11 records"),
        ({"train": list(range(10)), "valid": [10], "test": []}, "found 11 numbers for 11 records"),
        ({"train": [0.5], "valid": [10], "test": []}, "list of record numbers as 'train'"),
    ],
)
def test_split_file_that_does_not_fit_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    raw = write_raw(tmp_path / "raw", scaffold=content)
    with pytest.raises(DataError, match=message) as caught:
        prepare(raw, tmp_path / "out")
    assert "scaffold_split_inds.json" in caught.value.message


def test_record_of_another_cid_is_refused(tmp_path: Path) -> None:
    titles = [str(cid) for cid in CIDS]
    titles[9], titles[10] = titles[10], titles[9]
    raw = write_raw(tmp_path / "raw", titles=titles)
    with pytest.raises(DataError, match=r"CID 163 in record 0 of .*combined_mols_9_to_12.sdf.* row 9 .*found CID 170"):
        prepare(raw, tmp_path / "out")


def test_cid_is_read_from_properties_and_file_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    titles = [str(cid) for cid in CIDS]
    titles[0:3] = ["CID 100", "/data/000000107.mol", "a molecule"]
    raw = write_raw(tmp_path / "raw", titles=titles)
    assert PreparedDataset(prepare(raw, tmp_path / "out")).splits
    assert "1 of 12 records say no CID" in caplog.text
    path = raw / "combined_mols_9_to_12.sdf"
    path.write_text(path.read_text().replace("M  END\n", "M  END\n> <PUBCHEM_COMPOUND_CID>\n5\n\n", 1))
    with pytest.raises(DataError, match="found CID 5"):
        prepare(raw, tmp_path / "again")


def test_files_that_are_cut_off_are_refused(raw: Path, tmp_path: Path) -> None:
    first = raw / "combined_mols_0_to_9.sdf"
    whole = first.read_bytes()
    first.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"\$\$\$\$ at the end of .*combined_mols_0_to_9.sdf"):
        prepare(raw, tmp_path / "out")
    records = whole.decode().split("$$$$\n")
    first.write_text("$$$$\n".join([*records[:7], ""]))
    with pytest.raises(DataError, match=r"9 records in .*combined_mols_0_to_9.sdf, found 7"):
        prepare(raw, tmp_path / "out")
    first.write_text("$$$$\n".join([*records[:9], *records[:1], ""]))
    with pytest.raises(DataError, match=r"9 records in .*combined_mols_0_to_9.sdf, as its name says, found more"):
        prepare(raw, tmp_path / "out2")
    first.unlink()
    (raw / "combined_mols_0_to_9.sdf.gz").write_bytes(gzip.compress(whole)[:-300])
    with pytest.raises(DataError, match=r"9 records in .*sdf.gz, found"):
        prepare(raw, tmp_path / "out3")


def test_table_that_does_not_fit_is_refused(raw: Path, tmp_path: Path) -> None:
    table = raw / "properties.csv"
    text = table.read_text()
    table.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match=r"Expected 12 rows in .*properties.csv.* found 11"):
        prepare(raw, tmp_path / "out")
    table.write_text(text.replace("homolumogap", "gap"))
    with pytest.raises(DataError, match=r"column 'homolumogap' in .*found cid, dipole x"):
        prepare(raw, tmp_path / "out")
    table.write_text(text.replace(",0.25,", ",none,"))
    with pytest.raises(DataError, match=r"number as 'homolumogap' in row 1 of .*found 'none'"):
        prepare(raw, tmp_path / "out1")
    table.write_text(text[: text.rindex(",")] + "\n")
    with pytest.raises(DataError, match=r"Expected 8 fields in row 11 of .*found 7"):
        prepare(raw, tmp_path / "out2")


def test_missing_files_say_where_to_get_and_put_them(tmp_path: Path) -> None:
    with pytest.raises(DataError) as nothing:
        api.prepare("molecule3d", root=tmp_path, options=PrepareOptions())
    assert str(tmp_path / "raw" / "molecule3d") in nothing.value.message
    assert "drive.google.com/drive/folders/1y-EyoDYMvWZwClc2uvXrM4_hQBtM85BI" in str(nothing.value)
    raw = write_raw(tmp_path / "raw" / "molecule3d" / "raw")
    (raw / "properties.csv").unlink()
    with pytest.raises(DataError, match=r"found no properties.csv in .*molecule3d"):
        api.prepare("molecule3d", root=tmp_path, options=PrepareOptions())
    (raw / "combined_mols_0_to_9.sdf").rename(raw / "combined_mols_0_to_8.sdf")
    (raw / "properties.csv").write_text(HEADER)
    with pytest.raises(DataError, match=r"from record 8 after combined_mols_0_to_8.sdf, found combined_mols_9_to_12"):
        api.prepare("molecule3d", root=tmp_path, options=PrepareOptions())
    (raw / "combined_mols_0_to_8.sdf").unlink()
    with pytest.raises(DataError, match=r"from 0, found combined_mols_9_to_12.sdf as the first"):
        api.prepare("molecule3d", root=tmp_path, options=PrepareOptions())


def test_compressed_files_give_the_same_shards(raw: Path, tmp_path: Path) -> None:
    plain = prepare(raw, tmp_path / "plain")
    for path in raw.glob("*.sdf"):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = prepare(raw, tmp_path / "packed")
    name = "all-00000.parquet"
    assert (plain / name).read_bytes() == (packed / name).read_bytes()


def test_limit_takes_the_first_rows_of_each_split(tmp_path: Path) -> None:
    content = {"train": [5, 0, 3], "valid": [1, 2, 4, 11], "test": [10, 9, 8, 7, 6]}
    raw = write_raw(tmp_path / "raw", random=content)
    dataset = PreparedDataset(prepare(raw, tmp_path / "out", limit=2))
    found = {name: dataset.split(name).ids for name in dataset.splits}
    assert found == {"train": cids([0, 3]), "valid": cids([1, 2]), "test": cids([6, 7])}
    divided = PreparedDataset(tmp_path / "out", "scaffold")
    found = {name: divided.split(name).ids for name in divided.splits}
    assert found == {"train": cids([6, 7]), "valid": cids([1, 3]), "test": cids([0, 2])}
    both = write_raw(tmp_path / "both", random=content, scaffold={**content, "train": [0, 5, 3]})
    scaffold = prepare(both, tmp_path / "single", limit=1, split_scheme="scaffold")
    assert PreparedDataset(scaffold).splits == {"train": 1, "valid": 1, "test": 1}


def test_conformers_can_be_generated_instead(raw: Path, tmp_path: Path) -> None:
    several = PreparedDataset(prepare(raw, tmp_path / "several", chemistry={"num_conformers": 2}), "scaffold")
    record = several.split("valid")[0]
    assert record.num_conformers == 2 and record.target_positions is not None
    assert record.target_positions.shape == (14, 3)
    assert [CONFORMER_SOURCES[i] for i in record.conformer_source] == ["etkdg", "etkdg"]
    without = prepare(raw, tmp_path / "without", use_geometry=False, chemistry={"num_conformers": 1})
    record = PreparedDataset(without, "scaffold").split("valid")[0]
    assert record.target_positions is None
    assert [CONFORMER_SOURCES[i] for i in record.conformer_source] == ["etkdg"]


def test_targets_and_schemes_are_chosen_by_name(raw: Path, tmp_path: Path) -> None:
    dataset = PreparedDataset(prepare(raw, tmp_path / "out", targets=("dipole_x", "gap"), split_scheme="scaffold"))
    assert list(dataset.split("train").units) == ["gap", "dipole_x"]
    with pytest.raises(ConfigError, match="Did you mean 'homo'"):
        prepare(raw, tmp_path / "a", targets=("hommo",))
    with pytest.raises(ConfigError, match="Did you mean 'scaffold'"):
        prepare(raw, tmp_path / "b", split_scheme="scafold")


def test_interrupted_run_continues_to_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(raw, tmp_path / "whole", shard_rows=4)
    with monkeypatch.context() as patch:
        patch.setattr("geomformer.prepared.storage.write_schemes", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(raw, tmp_path / "broken", shard_rows=4)
    assert not (tmp_path / "broken" / "manifest.json").exists()
    broken = prepare(raw, tmp_path / "broken", shard_rows=4)
    parts = tmp_path / "parts"
    prepare(raw, parts, shard_rows=4, part=(2, 2))
    prepare(raw, parts, shard_rows=4, part=(1, 2))
    for path in sorted(whole.glob("*.*")):
        assert (broken / path.name).read_bytes() == path.read_bytes() == (parts / path.name).read_bytes()
