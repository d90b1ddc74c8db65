from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.chem.molecules import canonicalise, read_molecule
from geomformer.chem.scaffolds import murcko_scaffold
from geomformer.datasets import custom
from geomformer.datasets.custom.survey import scaffold_groups_split
from geomformer.datasets.options import PrepareOptions
from geomformer.errors import ConfigError, DataError
from geomformer.prepared.dataset import PreparedDataset
from geomformer.records import RawMolecule
from geomformer.units import KCAL_PER_MOL_IN_EV

FAST = {"num_conformers": 1}
SMILES = ["C", "CC", "CCO", "c1ccccc1", "CC(=O)O", "not a smiles", "C1CC1", "CN", "C#N", "O=C=O", "CCCl", "[Na+].[Cl-]"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


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


def rings(path: Path) -> Path:
    """Twelve scaffolds with one to four molecules each, nine chains, and two rows that cannot be parsed."""
    cores = ["c1ccccc1", "C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "c1ccoc1", "c1ccsc1", "c1ccncc1", "C1CCOC1"]
    cores += ["C1CCNC1", "c1ccc2ccccc2c1", "C1CO1"]
    texts = [prefix + core for i, core in enumerate(cores) for prefix in ("C", "N", "CC", "O")[: 1 + i % 4]]
    texts += ["C" * i for i in range(1, 10)] + ["bad", "worse"]
    path.write_text("\n".join(["smiles,gap_ev", *(f"{text},{i}" for i, text in enumerate(texts))]) + "\n")
    return path


def by_split(folder: Path) -> dict[str, list[str]]:
    dataset = PreparedDataset(folder)
    return {name: [record.smiles for record in dataset.split(name)] for name in dataset.splits}


def test_no_scaffold_is_in_two_splits(tmp_path: Path) -> None:
    file = rings(tmp_path / "in.csv")
    shared = {"targets": ("gap_ev",), "split_scheme": "scaffold"}
    found = {seed: by_split(prepare(tmp_path / str(seed), file, seed=seed, **shared)) for seed in (0, 1)}
    for splits in found.values():
        places = defaultdict(set)
        for name, molecules in splits.items():
            for text in molecules:
                places[murcko_scaffold(text)].add(name)
        assert len(places) == 13 and all(len(names) == 1 for names in places.values())
        assert places[""] == {"train"}, "chains are the largest group"
        assert 3 <= len(splits["valid"]) + len(splits["test"]) <= 8
    assert found[0] != found[1]
    prepare(tmp_path / "two workers", file, workers=2, seed=1, **shared)
    assert content(tmp_path / "1") == content(tmp_path / "two workers")
    manifest = PreparedDataset(tmp_path / "1").manifest
    assert manifest["seed"] == 1 and manifest["options"]["split_scheme"] == "scaffold"


def test_the_scaffold_split_by_hand() -> None:
    groups = np.array([7, 7, 7, 7, 7, 7, 5, 5, 1, 2, 3, 4, 9, 9, 8, 6, 0, 11, 12, 13])
    fractions = {"train": 0.6, "valid": 0.2, "test": 0.2}
    found = scaffold_groups_split(groups, fractions, 3)
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 2, 2, 1, 0, 2, 0, 0, 0, 2, 0, 1, 0, 1, 1]
    assert np.bincount(found).tolist() == [12, 4, 4] and set(found[:6]) == {0}
    relabelled = scaffold_groups_split(100 - groups, fractions, 3)
    assert relabelled.tolist() == found.tolist(), "only which rows belong together counts"


def test_too_few_scaffolds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles,gap_ev\n" + "\n".join(f"{'C' * i},1" for i in range(1, 12)))
    with pytest.raises(ConfigError, match=r"leaves 'test' without a row: 11 rows have only 1 scaffolds"):
        prepare(tmp_path / "x", tmp_path / "in.csv", targets=("gap_ev",), split_scheme="scaffold")
    with pytest.raises(ConfigError, match="found 'both'"):
        prepare(tmp_path / "x", tmp_path / "in.csv", targets=("gap_ev",), split_scheme="both")
    with pytest.raises(ConfigError, match="found both"):
        prepare(tmp_path / "x", tmp_path / "in.csv", targets=("gap_ev",), split_scheme="scaffold", split_column="a")


@pytest.mark.parametrize("workers", [0, 2])
def test_one_molecule_in_two_writings_is_in_one_split(tmp_path: Path, workers: int) -> None:
    pairs = [("OCC", "CCO"), ("c1ccccc1C", "Cc1ccccc1"), ("C(=O)O", "OC=O"), ("NCC", "CCN"), ("ClCC", "CCCl")]
    lines = [f"{text},1" for pair in pairs for text in pair] + [f"{'C' * i},1" for i in range(1, 6)]
    (tmp_path / "in.csv").write_text("smiles,gap_ev\n" + "\n".join(lines))
    shared = {"targets": ("gap_ev",), "fractions": {"train": 0.5, "valid": 0.25, "test": 0.25}, "workers": workers}
    for seed in range(4 if workers == 0 else 1):
        splits = by_split(prepare(tmp_path / str(seed), tmp_path / "in.csv", seed=seed, **shared))
        assert {text for molecules in splits.values() for text in molecules} >= {
            canonicalise(read_molecule(RawMolecule(0, "", pair[0]))).smiles for pair in pairs
        }
        for first in splits:
            for other in splits:
                assert first == other or not set(splits[first]) & set(splits[other])


FRAME = """3
Lattice="9 0 0 0 9 0 0 0 12" Properties=species:S:1:pos:R:3:tags:I:1:move_mask:L:1:forces:R:3 energy={energy} {more}
O 0.1 0.2 {z} 0 F 0.1 0.2 0.3
H 0.9 0.2 {z} 1 T 0.0 -0.2 0.0
H -0.2 0.9 {z} 2 T 0.0 0.0 -0.3
"""


def frames(path: Path, number: int = 10) -> Path:
    more = [f'name=w{i} gap_kcal_mol={i} set={"val" if i % 5 == 4 else "train"} pbc="T T F"' for i in range(number)]
    text = "".join(FRAME.format(energy=-float(i), more=more[i], z=0.1 * i) for i in range(number))
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz.gz"])
def test_structures_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    file = frames(tmp_path / name)
    shared = {"targets": ("energy", "gap_kcal_mol"), "split_column": "set", "chemistry": {}}
    dataset = PreparedDataset(prepare(tmp_path / "out", file, **shared))
    assert dataset.splits == {"train": 8, "valid": 2}
    assert dataset.split("valid").ids == ["w4", "w9"]
    found = dataset.split("valid")[0]
    np.testing.assert_allclose(found.positions[0], [[0.1, 0.2, 0.4], [0.9, 0.2, 0.4], [-0.2, 0.9, 0.4]], atol=1e-7)
    assert found.atomic_numbers.tolist() == [8, 1, 1] and found.conformer_source.tolist() == [0]
    assert found.cell.tolist() == [[9, 0, 0], [0, 9, 0], [0, 0, 12]] and found.pbc.tolist() == [True, True, False]
    assert found.tags.tolist() == [0, 1, 2] and found.fixed.tolist() == [True, False, False]
    np.testing.assert_allclose(found.forces, [[0.1, 0.2, 0.3], [0, -0.2, 0], [0, 0, -0.3]], atol=1e-7)
    assert found.targets == {"energy": -4.0, "gap": pytest.approx(4 * KCAL_PER_MOL_IN_EV)}
    assert found.smiles is None and found.atom_features is None
    assert dataset.manifest["options"]["chemistry"]["geometry"] == "input"
    assert dataset.manifest["targets"]["gap"]["unit"] == "ev"


def test_equal_structures_stay_together(tmp_path: Path) -> None:
    plain = "1\nenergy=1\nHe 0 0 {}\n"
    (tmp_path / "in.xyz").write_text("".join(plain.format(i // 2) for i in range(40)))
    shared = {"targets": ("energy",), "chemistry": {}, "fractions": {"train": 0.5, "valid": 0.5}}
    dataset = PreparedDataset(prepare(tmp_path / "out", tmp_path / "in.xyz", **shared))
    heights = {name: {record.positions[0, 0, 2] for record in dataset.split(name)} for name in dataset.splits}
    assert not heights["train"] & heights["valid"] and len(heights["train"]) == len(heights["valid"]) == 10
    assert dataset.split("train")[0].cell is None and dataset.split("train")[0].forces is None


def test_structures_that_cannot_be_used(tmp_path: Path) -> None:
    text = "".join(f"{n}\nenergy=1\n" + "".join(f"H 0 0 {i}\n" for i in range(n)) for n in (1, 3, 2))
    (tmp_path / "in.xyz").write_text(text + "2\nenergy=1\nQq 0 0 0\nH 0 0 1\n")
    shared = {"targets": ("energy",), "fractions": {"train": 1.0}}
    prepare(tmp_path / "out", tmp_path / "in.xyz", chemistry={"max_atoms": 2}, **shared)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["source_row"] for row in rejected] == [1, 3]
    assert rejected[0]["reason"] == "too_large: The structure has 3 atoms; the limit is 2."
    assert rejected[1]["reason"].startswith("unparsable: the frame cannot be read")
    with pytest.raises(ConfigError, match="no meaning for them: num_conformers"):
        prepare(tmp_path / "x", tmp_path / "in.xyz", **shared)
    with pytest.raises(ConfigError, match="no meaning for them: split_scheme scaffold"):
        prepare(tmp_path / "x", tmp_path / "in.xyz", chemistry={}, split_scheme="scaffold", **shared)
    (tmp_path / "b.csv").write_text("smiles,energy\nC,1\n")
    with pytest.raises(ConfigError, match="two datasets"):
        prepare(tmp_path / "x", tmp_path / "in.xyz", tmp_path / "b.csv", chemistry={}, **shared)


def test_options_without_meaning_are_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "in.csv")
    with pytest.raises(ConfigError, match=r"a file with 3D structures for use_geometry, found .*in.csv"):
        prepare(tmp_path / "x", file, use_geometry=True)
    with pytest.raises(ConfigError, match=r"every file once, found .*in.csv twice"):
        prepare(tmp_path / "x", file, tmp_path / "." / "in.csv")
    with pytest.raises(ConfigError, match="a split column or a split seed, found both"):
        prepare(tmp_path / "x", file, split_column="mu", seed=3)
    (tmp_path / "in.xyz").write_text("1\nenergy=1\nHe 0 0 0\n")
    shared = {"targets": ("energy",), "chemistry": {}}
    with pytest.raises(ConfigError, match="no meaning for them: smiles_column, use_geometry off"):
        prepare(tmp_path / "x", tmp_path / "in.xyz", smiles_column="s", use_geometry=False, **shared)
    (tmp_path / "in.smi").write_text("C methane\n")
    with pytest.raises(ConfigError, match=r"found no columns.*smi files have none"):
        prepare(tmp_path / "x", tmp_path / "in.smi")
    assert not (tmp_path / "x").exists()


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "in.csv.gz"
    generator = np.random.default_rng(0)
    rows = "".join(f"CCO,{number}\n" for number in generator.random(500))
    file.write_bytes(gzip.compress(f"smiles,gap_ev\n{rows}".encode())[:-200])
    with pytest.raises(DataError, match=r"in.csv.gz is cut off or damaged after [0-9]+ records"):
        prepare(tmp_path / "x", file, targets=("gap_ev",))
    assert not (tmp_path / "x").exists()


def test_a_folder_that_is_taken_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.doc").write_text("mine")
    (tmp_path / "in.csv").write_text("smiles,gap_ev\nC,not a number\n")
    with pytest.raises(ConfigError, match=r"such as thesis.doc"):
        prepare(tmp_path / "x", tmp_path / "in.csv", targets=("gap_ev",))
