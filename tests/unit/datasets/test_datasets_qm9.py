# ruff: noqa: E501 - lines of the real files are long
from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from geomformer.datasets import qm9
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.qm9.sources import open_source, parse_xyz
from geomformer.errors import ConfigError, DataError
from geomformer.prepared.dataset import PreparedDataset
from geomformer.units import HARTREE_IN_EV

METHANE = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC\t
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""
WATER = """3
gdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\t0.021375\t-76.404702\t-76.401867\t-76.400922\t-76.422349\t6.002\t
O\t-0.0343604951\t 0.9775395708\t 7.6015923*^-3\t-0.589706
H\t 0.0647664923\t 0.0205721989\t 0.0015346341\t 0.294853
H\t 0.8717903737\t 1.3007924048\t 6.931336*^-4\t 0.294853
1671.4222\t3803.6305\t3907.698
O\tO\t
InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2
"""
TEXTS = {1: METHANE, 3: WATER}
OPTIONS = PrepareOptions(chemistry={"num_conformers": 1, "hydrogens": True}, workers=0)


def archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:bz2") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def forms(folder: Path) -> dict[str, Path]:
    """Writes the two molecules in all forms."""
    named = {f"dsgdb9nsd_{i:06d}.xyz": text for i, text in TEXTS.items()}
    (folder / "xyz").mkdir()
    for name, text in named.items():
        (folder / "xyz" / name).write_text(text)
    blocks, rows, table = "", ["mol_id,A,B,C,mu,alpha,homo,lumo,gap"], []
    for i, text in TEXTS.items():
        _, raw = parse_xyz(text, 0, "test")
        count = len(raw.reference_numbers)
        atoms = "".join(
            f"{x:10.4f}{y:10.4f}{z:10.4f} {'HCNOF'[[1, 6, 7, 8, 9].index(n)]}   0  0\n"
            for n, (x, y, z) in zip(raw.reference_numbers, raw.reference_positions, strict=True)
        )
        bonds = "".join(f"  1{j + 1:3d}  1  0\n" for j in range(1, count))
        blocks += f"gdb_{i}\n  test            3D\n\n{count:3d}{count - 1:3d}  0  0  0  0  0  0  0  0999 V2000\n"
        blocks += f"{atoms}{bonds}M  END\n$$$$\n"
        rows.append(f"gdb_{i}," + ",".join(text.splitlines()[1].split()[j] for j in (2, 3, 4, 5, 6, 7, 8, 9)))
        table.append(
            {
                "gdb_id": i,
                "smiles": raw.text,
                "atomic_numbers": raw.reference_numbers.tolist(),
                "positions": raw.reference_positions.reshape(-1).tolist(),
                "gap_ev": raw.targets["gap"],
                "mu_debye": raw.targets["mu"],
            }
        )
    (folder / "gdb9.sdf").write_text(blocks)
    (folder / "gdb9.sdf.csv").write_text("\n".join(rows) + "\n")
    pq.write_table(pa.Table.from_pylist(table), folder / "qm9.parquet")
    return {
        "archive": archive(folder / "dsgdb9nsd.xyz.tar.bz2", named),
        "folder": folder / "xyz",
        "sdf": folder / "gdb9.sdf",
        "parquet": folder / "qm9.parquet",
    }


def test_all_forms_give_the_same_molecules(tmp_path: Path) -> None:
    for name, path in forms(tmp_path).items():
        out = tmp_path / "out" / name
        qm9.prepare(raw=[path], out=out, data_root=tmp_path, options=OPTIONS)
        dataset = PreparedDataset(out)
        assert dataset.manifest["level_of_theory"] == "B3LYP/6-31G(2df,p)"
        assert dataset.manifest["targets"]["mu"]["unit"] == "debye"
        methane, water = dataset.split("train")
        assert (methane.id, methane.smiles) == ("gdb_1", "C") and (water.id, water.num_atoms) == ("gdb_3", 3)
        assert methane.targets["gap"] == pytest.approx(0.5048 * HARTREE_IN_EV)
        assert water.targets["mu"] == pytest.approx(1.8511)
        if name in ("archive", "folder"):
            assert water.targets["u0"] == pytest.approx(-76.404702 * HARTREE_IN_EV)
        assert water.target_positions is not None
        oxygen = int(np.argmax(water.atomic_numbers))
        bonds = np.linalg.norm(water.target_positions - water.target_positions[oxygen], axis=1)
        np.testing.assert_allclose(np.sort(bonds)[1:], [0.9621, 0.9621], atol=2e-3)


def test_targets_limit_and_excluded_molecules(tmp_path: Path) -> None:
    files = forms(tmp_path)
    (tmp_path / "uncharacterized.txt").write_text(
        "header\n  Index  GDB17 B3LYP\n-----\n   1  C  C  C\n1 compounds in all\n"
    )
    data = tmp_path / "root" / "raw" / "qm9"
    data.mkdir(parents=True)
    for path in (files["parquet"], tmp_path / "uncharacterized.txt"):
        (data / path.name).write_bytes(path.read_bytes())
    options = PrepareOptions(chemistry=OPTIONS.chemistry, workers=0, targets=("gap",), limit=1)
    qm9.prepare(raw=[], out=tmp_path / "out", data_root=tmp_path / "root", options=options)
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.split("train").ids == ["gdb_3"] and list(dataset.manifest["targets"]) == ["gap"]
    assert [item["file"] for item in dataset.manifest["sources"]] == ["qm9.parquet", "uncharacterized.txt"]
    bad = PrepareOptions(chemistry=OPTIONS.chemistry, targets=("gaps",))
    with pytest.raises(ConfigError, match="Did you mean 'gap'"):
        qm9.prepare(raw=[], out=tmp_path / "x", data_root=tmp_path / "root", options=bad)


def test_the_split_is_the_published_one() -> None:
    splits = qm9.split_ids(np.arange(1, 133_886))
    assert [len(ids) for ids in splits.values()] == [110_000, 10_000, 13_885]
    assert qm9.ids_sha256(list(splits.values())) in qm9.KNOWN_SPLITS.values()
    fewer = qm9.split_ids(np.arange(100, 133_886))
    assert not set(fewer["test"]) & set(splits["train"])
    with pytest.raises(DataError, match="distinct"):
        qm9.split_ids(np.array([1, 1]))


def test_a_split_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "KNOWN_SPLITS", {qm9.ids_sha256([np.array([1, 2])]): "0" * 64})
    with pytest.raises(DataError, match="came out as"):
        qm9.split_ids(np.array([2, 1]))


@pytest.mark.parametrize("name", ["../dsgdb9nsd_000001.xyz", "/etc/dsgdb9nsd_000001.xyz", "readme.txt"])
def test_an_archive_with_other_members_is_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.tar.bz2", {name: METHANE})
    with pytest.raises(DataError, match=r"Expected only|is refused because of its member"):
        open_source([path])[0].ids()


def test_damaged_sources_are_named(tmp_path: Path) -> None:
    files = forms(tmp_path)
    data = files["archive"].read_bytes()
    files["archive"].write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"tar.bz2 ends early"):
        open_source([files["archive"]])[0].ids()
    with pytest.raises(DataError, match="something else in here"):
        parse_xyz(METHANE.replace("C\t-0.0126981359", "Xx\t0"), 0, "here")
    (tmp_path / "gdb9.sdf").write_text("gdb_9\n\n\n$$$$\n")
    with pytest.raises(DataError, match="Expected gdb_1 as record 0"):
        list(open_source([files["sdf"]])[0].rows())
    (tmp_path / "gdb9.sdf.csv").unlink()
    with pytest.raises(DataError, match="Put the csv beside"):
        open_source([files["sdf"]])
    with pytest.raises(DataError, match=r"Expected QM9 .*missing"):
        open_source([tmp_path / "gone.parquet"])


def test_without_a_network_the_message_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> requests.Response:
        raise requests.ConnectionError("no network")

    monkeypatch.setattr("requests.Session.get", offline)
    monkeypatch.setattr("geomformer.datasets.raw.transfer.PAUSE", 0.0)
    with pytest.raises(DataError, match=r"dsgdb9nsd.xyz.tar.bz2: .*no network.*raw/qm9 or name it with --raw"):
        qm9.prepare(raw=[], out=tmp_path / "out", data_root=tmp_path, options=OPTIONS)


def test_what_a_download_left_is_not_taken_for_the_archive(tmp_path: Path) -> None:
    files = forms(tmp_path)
    files["archive"].rename(tmp_path / "dsgdb9nsd.xyz.tar.bz2.part")
    files["parquet"].unlink()
    shutil.rmtree(files["folder"])
    source, _ = open_source([tmp_path])
    assert [path.name for path in source.files] == ["gdb9.sdf", "gdb9.sdf.csv"]
