"""Structures in all formats: what comes back, what is kept of damaged files, and that nothing else is read."""

from __future__ import annotations

import gzip
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian
from ase.io import read, write

from geomformer.errors import ConfigError, DataError
from geomformer.io.atoms import Structure, check_structures, read_structures, structure_format
from geomformer.io.atoms_writers import ATOMS_KEY, TABLE_SUFFIXES, open_output, output_format
from geomformer.io.structures import fixed_atoms

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "oc20" / "relaxations.extxyz"
COLUMNS = {"index": int, "id": str, "status": str, "error": str, "pred_energy_ev": float, "formula": str}
INFO = ("index", "id", "status", "error", "pred_energy_ev")


def slab(shift: float = 0.0) -> Atoms:
    atoms = fcc111("Pt", (1, 1, 3), vacuum=8.0)
    add_adsorbate(atoms, molecule("CO"), 2.0 + shift, "ontop")
    atoms.pbc = True
    atoms.set_tags([0, 0, 1, 2, 2])
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.positions += np.pi / 7
    atoms.info = {}
    return atoms


def listed(path: Path) -> list[Structure]:
    return list(read_structures(path))


def test_frames_of_the_sample() -> None:
    items = listed(SAMPLE)
    assert [item.index for item in items] == list(range(12))
    assert {item.id for item in items} == {"random1000100", "random1000102"}
    for item, expected in zip(items, read(SAMPLE, ":"), strict=True):
        assert item.atoms is not None and item.problem is None
        assert (item.atoms.positions == expected.positions).all() and (item.atoms.pbc == expected.pbc).all()
        assert (item.atoms.get_tags() == expected.get_tags()).all()
        assert fixed_atoms(item.atoms).tolist() == fixed_atoms(expected).tolist()


@pytest.mark.parametrize(
    ("name", "several", "tags", "constraints"),
    [
        ("a.extxyz", True, True, True),
        ("a.xyz", True, True, True),
        ("a.extxyz.gz", True, True, True),
        ("a.xyz.xz", True, True, True),
        ("a.traj", True, True, True),
        ("a.cif", True, False, False),
        ("a.vasp", False, False, True),
        ("POSCAR", False, False, True),
        ("CONTCAR_2", False, False, True),
    ],
)
def test_formats(tmp_path: Path, name: str, several: bool, tags: bool, constraints: bool) -> None:
    frames = [slab(), slab(0.3)] if several else [slab()]
    path = tmp_path / name
    kind = structure_format(path)
    plain = tmp_path / "plain"
    write(plain, frames, format=kind)
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.write_bytes(packed(plain.read_bytes()))
    items = listed(path)
    assert [(item.index, item.file, item.problem) for item in items] == [(i, name, None) for i in range(len(frames))]
    for item, expected in zip(items, frames, strict=True):
        atoms = item.atoms
        assert atoms is not None and (atoms.numbers == expected.numbers).all() and atoms.pbc.all()
        assert atoms.cell.cellpar() == pytest.approx(expected.cell.cellpar(), abs=1e-6)
        assert atoms.get_all_distances(mic=True) == pytest.approx(expected.get_all_distances(mic=True), abs=1e-6)
        assert (atoms.get_tags().tolist() == expected.get_tags().tolist()) is tags
        assert fixed_atoms(atoms).tolist() == [constraints] * 2 + [False] * 3


def test_identifiers(tmp_path: Path) -> None:
    frames = [slab() for _ in range(4)]
    for frame, info in zip(frames, ({"id": 7}, {"sid": "random8"}, {"id": "b c", "sid": 4}, {"id": [1]}), strict=True):
        frame.info = info
    write(tmp_path / "a.traj", frames)
    assert [item.id for item in listed(tmp_path / "a.traj")] == ["7", "random8", "b c", ""]
    text = '1\n{} Lattice="3 0 0 0 3 0 0 0 3"\nH 0 0 0\n'
    keys = ("id=00012", 'sid="a b"', "sid=x id=y", "", "xid=z", "id=1.50")
    (tmp_path / "a.extxyz").write_text("".join(text.format(key) for key in keys))
    assert [item.id for item in listed(tmp_path / "a.extxyz")] == ["00012", "a b", "y", "", "", "1.50"]


def test_a_bad_frame_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, [slab(), slab(), slab()])
    lines = path.read_text().splitlines()
    lines[9] = "Pt 1.0 no 2.0 0 0"
    path.write_text("\n".join(lines) + "\n")
    items = listed(path)
    assert [item.atoms is None for item in items] == [False, True, False]
    assert "the frame cannot be read" in str(items[1].problem)
    path.write_text("\n".join(lines[:17]) + "\n")
    items = listed(path)
    assert [item.atoms is None for item in items] == [False, True, True]
    assert "ends early" in str(items[2].problem)
    path.write_text("\n".join([*lines[:7], "0", "empty", *lines[14:]]) + "\n")
    assert [item.problem is None for item in listed(path)].count(True) >= 2


def test_a_damaged_frame_of_a_trajectory_costs_itself_only(tmp_path: Path) -> None:
    path = tmp_path / "a.traj"
    frames = [slab() for _ in range(3)]
    frames[1].info["mark"] = "here"
    write(path, frames)
    content = path.read_bytes()
    assert content.count(b'"mark"') == 1
    path.write_bytes(content.replace(b'"mark"', b"\xff\xfemark"))
    items = listed(path)
    assert [item.problem is None for item in items] == [True, False, True]
    assert items[1].id == "" and items[2].index == 2


def test_cif_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.cif"
    write(path, [slab(), slab()])
    first, second = (f"data_image{part}" for part in path.read_text().split("data_image")[1:])
    text = "# made by hand\ndata_global\n_title\n;\ndata_of nothing\n;\n"
    path.write_text(text + first + second.replace("_cell_length_a ", "_cell_length_a x"))
    items = listed(path)
    assert [item.problem is None for item in items] == [True, False]
    path.write_text(first.replace("  1.0000\n", "  0.5000\n"))
    (item,) = listed(path)
    assert "disordered" in str(item.problem)
    path.write_text(text)
    with pytest.raises(DataError, match="found none"):
        listed(path)


def test_poscars_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    write(path, slab(), format="vasp")
    lines = path.read_text().splitlines()
    for change, said in (
        ({5: "2 1"}, "symbols of the elements is missing"),
        ({6: "999999999999 1 1"}, "more atoms are announced"),
        ({9: "1.0 x 2.0"}, "the frame cannot be read"),
    ):
        path.write_text("\n".join(change.get(i, line) for i, line in enumerate(lines)) + "\n")
        (item,) = listed(path)
        assert item.atoms is None and said in str(item.problem)


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz.gz", "a.extxyz.xz", "a.traj", "a.cif", "a.vasp", "POSCAR"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"hello\nworld\n" * 9, b"\x00\xff" * 500, pickle.dumps([1, 2])])
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match="Expected"):
        listed(path)


def test_paths_that_are_no_structures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing"):
        check_structures(tmp_path / "a.traj")
    with pytest.raises(DataError, match="folder"):
        check_structures(tmp_path)
    for name in ("a.db", "a.json", "a.pckl", "a.py", "a.sdf", "a.csv", "XDATCAR"):
        (tmp_path / name).write_text("1\n")
        with pytest.raises(ConfigError, match="Expected one of extxyz"):
            check_structures(tmp_path / name)


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    write(path, [slab(), slab()])
    with path.open("a") as file:
        file.write("what is this\n")
    items = read_structures(path)
    assert next(items).problem is None and next(items).problem is None
    assert "found at line 15" in str(next(items).problem)


@pytest.mark.parametrize("mask", [(True, True, True), (True, False, True)])
def test_only_atoms_without_any_freedom_are_fixed(mask: tuple[bool, bool, bool]) -> None:
    atoms = slab()
    atoms.set_constraint([FixAtoms([1]), FixCartesian(2, mask)])
    assert fixed_atoms(atoms).tolist() == [False, True, all(mask), False, False]


def row(index: int, atoms: Atoms | None, **values: object) -> dict[str, object]:
    return {"index": index, "id": f"s{index}", ATOMS_KEY: atoms, **values}


NASTY = 'He said "no" = {x} [y] \\ and\nleft,\tso'


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.xyz.gz", "a.extxyz.xz", "a.traj"])
def test_written_structures_are_read_again(tmp_path: Path, name: str) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = slab()
    atoms.info |= {"sid": "r1", "status": "old", "error": "old", "note": NASTY, "odd": object(), "vector": np.arange(3)}
    atoms.set_array("site", np.array(["top", "hollow", "a", "b", "c"]))
    atoms.set_array("cube", np.zeros((5, 3, 3)))
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((5, 3)))
    other = slab(0.1)[[3, 4, 0]]
    other.pbc = (True, True, False)
    path = tmp_path / "new" / name
    with open_output(path, COLUMNS, INFO) as writer:
        writer.write([row(0, atoms, status="ok", error=None, pred_energy_ev=-0.25)])
        writer.write([row(1, None, status="unparsable", error=NASTY), row(2, other, status="failed", error="x")])
    assert [file.name for file in path.parent.iterdir()] == [name]
    items = listed(path)
    assert [item.id for item in items] == ["s0", "s1", "s2"]
    first, empty, last = (item.atoms for item in items)
    assert first is not None and empty is not None and last is not None
    assert len(empty) == 0 and empty.info["error"] == " ".join(NASTY.split())
    assert first.calc is None and (first.positions == atoms.positions).all()
    assert (first.cell.array == atoms.cell.array).all() and (last.pbc == other.pbc).all()
    assert first.get_tags().tolist() == [0, 0, 1, 2, 2] and fixed_atoms(first).tolist() == [True] * 2 + [False] * 3
    assert (first.info["status"], first.info["pred_energy_ev"], first.info["index"]) == ("ok", -0.25, 0)
    assert first.info["sid"] == "r1" and not {"error", "odd", "formula"} & set(first.info)
    assert " ".join(first.info["note"].split()) == " ".join(NASTY.split())
    assert atoms.info["status"] == "old" and atoms.calc is not None
    if name != "a.traj":
        assert first.arrays["site"].tolist() == ["top", "hollow", "a", "b", "c"]


def test_results_of_the_input_are_not_taken_for_ours(tmp_path: Path) -> None:
    """Keys that ASE reads as results or as the cell would be stale, or unreadable."""
    atoms = slab()
    atoms.info |= {"stress": [1.0] * 6, "energy": 3.0, "Lattice": "none", "note": "kept"}
    with open_output(tmp_path / "out.extxyz", {"index": int}, ["index"]) as writer:
        writer.write([row(0, atoms)])
    found = read(tmp_path / "out.extxyz")
    assert found.info["note"] == "kept" and "energy" not in found.info and found.calc is None
    assert np.allclose(found.cell, atoms.cell)


def test_single_structures(tmp_path: Path) -> None:
    atoms = slab()
    for name in ("a.cif", "a.vasp", "CONTCAR"):
        with open_output(tmp_path / name, COLUMNS, INFO) as writer:
            writer.write([row(0, atoms, status="ok")])
        (item,) = listed(tmp_path / name)
        assert item.atoms is not None
        assert item.atoms.get_all_distances(True) == pytest.approx(atoms.get_all_distances(True), abs=1e-6)
    assert (np.abs(item.atoms.positions - atoms.positions) < 1e-12).all()
    assert fixed_atoms(item.atoms).tolist() == fixed_atoms(atoms).tolist()


def test_what_a_format_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    atoms = slab()
    atoms.cell[2] = 0.0
    for path in (tmp_path / "a.cif", tmp_path / "a.vasp"):
        path.write_text("old")
        with pytest.raises(DataError, match="Cannot write frame 0"), open_output(path, COLUMNS, INFO) as writer:
            writer.write([row(0, atoms)])
        assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "table"), ("POSCAR.csv", "table"), ("a.JSONL.gz", "table"), ("a.Traj", "traj"), ("CONTCAR-new", "vasp")],
)
def test_kinds_of_output(name: str, kind: str) -> None:
    assert output_format(Path(name)) == kind


def test_output_of_no_kind(tmp_path: Path) -> None:
    for path in (Path("a.sdf"), Path("a"), Path("a.json")):
        with pytest.raises(ConfigError, match="extxyz"):
            output_format(path)
    folder = tmp_path / "a.traj"
    folder.mkdir()
    with pytest.raises(ConfigError, match="folder"):
        output_format(folder)
    assert all(output_format(Path(f"a{suffix}")) == "table" for suffix in TABLE_SUFFIXES)


def test_damage_anywhere_is_a_problem_or_a_data_error(tmp_path: Path) -> None:
    """Random changes of good files never end in anything else than items or a `DataError`."""
    rng = np.random.default_rng(3)
    write(tmp_path / "a.extxyz", [slab(), slab()])
    write(tmp_path / "a.traj", [slab(), slab()])
    write(tmp_path / "a.cif", [slab(), slab()])
    write(tmp_path / "a.vasp", slab())
    changes: tuple[Callable[[bytearray, int], None], ...] = (
        lambda content, place: content.__setitem__(place, int(rng.integers(256))),
        lambda content, place: content.__delitem__(slice(place, None)),
        lambda content, place: content.__delitem__(slice(place, place + int(rng.integers(1, 40)))),
    )
    for path in sorted(tmp_path.glob("a.*")):
        good = path.read_bytes()
        for _ in range(60):
            content = bytearray(good)
            changes[int(rng.integers(3))](content, int(rng.integers(len(good))))
            path.write_bytes(content)
            try:
                items = listed(path)
            except DataError:
                continue
            assert items and all((item.atoms is None) is (item.problem is not None) for item in items)


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.cif", "POSCAR"])
def test_a_byte_order_mark_is_no_part_of_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, slab(), format="extxyz" if name.endswith("xyz") else None)
    (expected,) = listed(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (found,) = listed(path)
    assert found.problem is None and found.atoms is not None and expected.atoms is not None
    assert np.array_equal(found.atoms.positions, expected.atoms.positions)
    assert found.atoms.symbols.formula == expected.atoms.symbols.formula
