from __future__ import annotations

import gzip
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from geomformer.chem.build import ChemistryOptions, build
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.io.readers import input_columns, read_molecules
from geomformer.io.xyz import RawStructure

WATER = "3\n{}\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def read(path: Path, **asked: object) -> list[RawStructure]:
    found = list(read_molecules(path, **asked))  # type: ignore[arg-type]
    assert [raw.index for raw in found] == list(range(len(found)))
    assert all(isinstance(raw, RawStructure) for raw in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["a.xyz", "a.xyz.gz", "a.extxyz", "a.EXTXYZ.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_frames_ids_and_columns(tmp_path: Path, name: str, newline: str) -> None:
    text = WATER.format("energy=-1.5 id=first gap_ev=2 charges='0 1 2' note=\"a b\"") + "\n\n"
    text += WATER.format("a comment in words") + WATER.format("").replace("O", "S")
    path = write(tmp_path / name, text.replace("\n", newline))
    first, second, third = read(path, targets=["gap_ev"])
    assert (first.id, second.id, third.id) == ("first", "1", "2")
    assert first.columns == {"energy": "-1.5", "id": "first", "gap_ev": "2", "note": "a b"} and second.columns == {}
    assert first.targets == {"gap": 2.0} and np.isnan(second.targets["gap"])
    assert third.record is not None and third.record.atomic_numbers.tolist() == [16, 1, 1]  # type: ignore[union-attr]
    assert third.record.positions.dtype == np.float32 and third.record.positions.shape == (1, 3, 3)
    assert input_columns(path) == ["energy", "id", "gap_ev", "charges", "note"]
    assert all(raw.problem is None for raw in (first, second, third))


def test_columns_that_are_asked_for_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", WATER.format("energy=1 number=7 set=valid"))
    (found,) = read(path, id_column="number", split_column="set", targets=["energy"])
    assert (found.id, found.split, found.targets) == ("7", "valid", {"energy": 1.0})
    with pytest.raises(ConfigError, match="Did you mean 'energy'"):
        read(path, targets=["energi"])
    with pytest.raises(DataError, match="not numeric"):
        read(path, targets=["set"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("2\n\nH 0 0 0\nQq 0 0 1\n", "Qq"),
        ("2\n\nH 0 0 0\nH 0 0\n", "cannot be read"),
        ("2\n\nH 0 0 0\nH 0 0 x\n", "cannot be read"),
        ("2\n\nH 0 0 0\nX 0 0 1\n", "no element"),
        ("1\n\nH 0 0 nan\n", "no numbers"),
        ("0\n\n", "no atoms"),
        ('1\nLattice="1 2"\nH 0 0 0\n', "cannot be read"),
        ('1\na="_JSON ' + "[" * 100_000 + '"\nH 0 0 0\n', "cannot be read"),
    ],
)
def test_a_damaged_frame_costs_only_itself(tmp_path: Path, damage: str, reason: str) -> None:
    found = read(write(tmp_path / "a.xyz", WATER.format("a=1") + damage + WATER.format("a=2")))
    assert [raw.problem is None for raw in found] == [True, False, True]
    assert reason in str(found[1].problem) and found[1].record is None and found[2].columns == {"a": "2"}
    result = build(found[1], ChemistryOptions())
    assert isinstance(result, MoleculeError) and result.status == "unparsable"


def test_files_that_end_early(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.xyz", WATER.format("a=1") + "3\na=2\nH 0 0 0\n"))
    assert "ends early, in line 8" in str(found[1].problem) and len(found) == 2
    found = read(write(tmp_path / "b.xyz", WATER.format("a=1") + "H 0 0 0\n" + WATER.format("a=2")))
    assert "expected a number of atoms in line 6" in str(found[1].problem) and len(found) == 2
    path = write(tmp_path / "c.xyz.gz", WATER.format("a=1") * 50)
    path.write_bytes(path.read_bytes()[:-12])
    assert "ends early" in str(read(path)[-1].problem)
    with pytest.raises(DataError, match=r"number of atoms in line 1 .* found '<html>'"):
        read(write(tmp_path / "d.xyz", "<html>\n"))
    with pytest.raises(DataError, match="empty file"):
        read(write(tmp_path / "e.xyz", ""))


def test_structures_travel_to_workers_and_have_no_bonds(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "a.xyz", WATER.format("")))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.record.positions, found.record.positions)  # type: ignore[union-attr]
    result = build(again, ChemistryOptions())
    assert isinstance(result, MoleculeError) and result.status == "wrong_input_kind" and "bonds" in result.message


def test_partly_fixed_atoms_are_free(tmp_path: Path) -> None:
    text = "2\nProperties=species:S:1:pos:R:3:move_mask:L:3\nH 0 0 0 F F F\nH 0 0 1 F F T\n"
    (found,) = read(write(tmp_path / "a.xyz", text))
    assert found.record is not None and found.record.fixed.tolist() == [True, False]  # type: ignore[union-attr]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        path = write(tmp_path / "a.xyz", WATER.format("energy=1") * frames)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_molecules(path, targets=["energy"])) == frames
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)
    # ASE's objects hold each other, so that the garbage collector frees them, some hundred at a time
    assert peak(4000) < peak(1000) + 200_000


def test_a_count_that_is_no_count(tmp_path: Path) -> None:
    for count in ("9" * 5000, "\u0663", "-1"):
        with pytest.raises(DataError, match="number of atoms in line 1"):
            read(write(tmp_path / "a.xyz", f"{count}\n\nH 0 0 0\n"))
