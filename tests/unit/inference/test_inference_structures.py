"""Predictions of relaxed structures: one answer per frame, what moves and what does not, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write
from checks.molecules import TINY, save_model

from geomformer import api
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.config.load import load_config
from geomformer.errors import ConfigError, DataError
from geomformer.inference import structures
from geomformer.inference.averaging import ConformerPredictions, InferenceSettings, predict_records
from geomformer.inference.structures import CHUNK_FRAMES, relaxed, to_record
from geomformer.io.atoms import Structure
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.images import ImageOptions
from geomformer.records import Record

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "oc20" / "relaxations.extxyz"
ELEMENTS = {"H": 100, "C": 100, "O": 100, "Na": 20, "Al": 20, "Au": 20, "Os": 20, "Pt": 100, "N": 19}
MAX_ATOMS = 200


def slab(adsorbate: str = "CO", seed: int = 0, metal: str = "Pt") -> Atoms:
    atoms = fcc111(metal, (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, molecule(adsorbate), 2.0, "ontop")
    atoms.pbc = True
    atoms.info = {}
    atoms.set_tags(0)
    atoms.set_constraint(FixAtoms(range(4)))
    atoms.positions += np.random.default_rng(seed).normal(scale=0.03, size=(len(atoms), 3))
    return atoms


def record_of(atoms: Atoms) -> Record:
    return to_record(Structure(0, "a", "a.traj", atoms), None, None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all three tasks with random weights, which move no atom yet."""
    root = tmp_path_factory.mktemp("models")
    record = record_of(slab())
    for task in ("is2re", "is2rs"):
        config = load_config(f"{task}-small", [f"model.{name}={value}" for name, value in TINY.items()])
        scalars = [Target(name=name, unit="ev", mean=-1.0, scale=2.0) for name in config.task.targets]
        save_model(
            root,
            task,
            config=config,
            targets=[*scalars, Target(name="positions", unit="angstrom", scale=0.4)],
            inputs=Inputs(hydrogens=True, geometry="given", features=False, periodic=True, max_atoms=MAX_ATOMS),
            elements=ELEMENTS,
            selftest_batch=collate(
                [Sample(record, 0, record.positions[0])], features=False, images=ImageOptions.of(config.model)
            ),
        )
    save_model(root, "gap")
    return root


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """In place of the network: the energy is minus the number of atoms, and everything rises by 0.25 Angstrom."""
    seen: list[Record] = []

    def predict(
        model: Any, task: Any, records: Iterable[tuple[int, Record]], settings: InferenceSettings
    ) -> Iterator[ConformerPredictions]:
        for index, record in records:
            seen.append(record)
            moved = record.positions.astype(np.float64) + np.array([0.0, 0.0, 0.25])
            assert record.fixed is not None
            moved[:, record.fixed] = record.positions[:, record.fixed]
            values = {name: np.array([-float(record.num_atoms)]) for name in task.targets}
            yield ConformerPredictions(index, values, {"positions": moved})

    monkeypatch.setattr(structures, "predict_records", predict)
    return seen


def predict(models: Path, source: Path | list[Path], out: Path, **options: Any) -> Any:
    return api.predict(source, out, models=models, device="cpu", **{"model": "is2re", **options})


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mixed() -> list[Atoms]:
    """One frame for each thing that can be wrong, good ones around them."""
    lone, cluster, bare, empty, large, lost = slab(), slab(), slab()[:12], Atoms(), slab() * (4, 4, 1), slab()
    lone.pbc = False
    cluster.cell = np.zeros((3, 3))
    lost.positions[3, 1] = np.nan
    return [slab(seed=1), lone, cluster, bare, slab("NO"), slab(metal="Ag"), empty, large, lost, slab("OH", 2)]


EXPECTED = [
    *("ok", "wrong_input_kind", "wrong_input_kind", "wrong_input_kind", "unsupported_element", "unsupported_element"),
    *("unparsable", "too_large", "unparsable", "ok"),
]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl", "out.extxyz", "out.traj"])
def test_every_frame_has_an_answer_or_a_reason(models: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "in.traj", mixed())
    summary = predict(models, tmp_path / "in.traj", tmp_path / name)
    assert summary.statuses == {status: EXPECTED.count(status) for status in dict.fromkeys(EXPECTED)}
    assert (summary.rows, summary.target, summary.unit, summary.model) == (10, "energy", "ev", "is2re@1")
    rows: list[dict[str, Any]] = {
        "csv": lambda path: table(path),
        "parquet": lambda path: pq.read_table(path).to_pylist(),
        "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        "extxyz": lambda path: [atoms.info for atoms in structures_of(path)],
        "traj": lambda path: [atoms.info for atoms in structures_of(path)],
    }[name.split(".")[1]](tmp_path / name)
    assert [int(row["index"]) for row in rows] == list(range(10)) == [int(row["id"]) for row in rows]
    assert [row["status"] for row in rows] == EXPECTED
    for row in rows:
        good = row["status"] == "ok"
        assert bool(row.get("error")) is not good
        assert (row.get("pred_energy_ev") not in (None, "")) is good
    for position, said in ((1, "periodic"), (3, "no adsorbate"), (4, "N (19)"), (6, "no atoms"), (7, "224 atoms")):
        assert said in rows[position]["error"]


def structures_of(path: Path) -> list[Atoms]:
    return [atoms for item in structures.read_all([path]) if (atoms := item.atoms) is not None]


def test_columns_of_a_table(models: Path, tmp_path: Path, stub: list[Record]) -> None:
    write(tmp_path / "in.traj", [slab()])
    predict(models, tmp_path / "in.traj", tmp_path / "a.csv")
    assert table(tmp_path / "a.csv") == [
        {
            **{"index": "0", "id": "0", "formula": "COPt12", "num_atoms": "14", "pred_energy_ev": "-14.0"},
            **{"max_displacement_angstrom": "0.25", "status": "ok", "error": ""},
        }
    ]
    summary = predict(models, tmp_path / "in.traj", tmp_path / "b.csv", model="is2rs")
    assert (summary.target, summary.unit) == ("positions", "angstrom")
    assert "pred_energy_ev" not in table(tmp_path / "b.csv")[0]


@pytest.mark.parametrize("task", ["is2re", "is2rs"])
@pytest.mark.parametrize("name", ["out.extxyz", "out.traj"])
def test_fixed_atoms_stay_to_the_last_bit(models: Path, tmp_path: Path, task: str, name: str) -> None:
    frames = [slab(seed=seed) for seed in range(3)]
    frames[1].calc = SinglePointCalculator(frames[1], energy=-5.0, forces=np.ones((14, 3)))
    frames[1].info = {"sid": "mine", "pred_energy_ev": 99.0, "note": "kept"}
    frames[2].set_tags([0] * 8 + [1] * 4 + [2] * 2)
    frames[2].set_constraint()
    frames[2].pbc = (True, True, False)
    write(tmp_path / "in.traj", frames)
    predictor = api.load_model(task, models=models, device="cpu")
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    structures.predict_structures(predictor, [tmp_path / "in.traj"], tmp_path / name)
    written = structures_of(tmp_path / name)
    for before, after, still in zip(frames, written, (4, 4, 8), strict=True):
        assert (after.positions[:still] == before.positions[:still]).all()
        moved = np.abs(after.positions - before.positions)[still:]
        assert (moved.max(axis=1) > 0).all() and moved.max() < 5.0
        assert (after.cell.array == before.cell.array).all() and (after.pbc == before.pbc).all()
        assert len(after.constraints) == len(before.constraints) and after.calc is None
        assert ("pred_energy_ev" in after.info) is (task == "is2re")
    assert [atoms.get_tags()[-1] for atoms in written] == [2, 2, 2]
    assert written[2].get_tags().tolist() == frames[2].get_tags().tolist()
    assert (written[1].info["id"], written[1].info["note"]) == ("mine", "kept")
    assert written[1].info.get("pred_energy_ev") != 99.0


def test_only_the_displacement_is_added(tmp_path: Path) -> None:
    atoms = slab()
    atoms.positions[:, :2] += 1000.0 + 1e-9
    record = record_of(atoms)
    found, longest = relaxed(atoms, record, record.positions[0].astype(np.float64))
    assert (found.positions == atoms.positions).all() and longest == 0.0
    step = np.array([0.0, 3.0, 4.0])
    found, longest = relaxed(atoms, record, record.positions[0].astype(np.float64) + step)
    assert (found.positions[:4] == atoms.positions[:4]).all() and longest == pytest.approx(5.0)
    assert found.positions[4:] == pytest.approx(atoms.positions[4:] + step, abs=1e-12)


def test_failures_keep_their_structure(models: Path, tmp_path: Path) -> None:
    frames = mixed()
    write(tmp_path / "in.traj", frames)
    predict(models, tmp_path / "in.traj", tmp_path / "out.extxyz")
    for before, after, status in zip(frames, structures_of(tmp_path / "out.extxyz"), EXPECTED, strict=True):
        assert (after.numbers == before.numbers).all()
        if status != "ok":
            assert np.array_equal(after.positions, before.positions, equal_nan=True)


def test_the_sample_in_one_go(models: Path, tmp_path: Path) -> None:
    predict(models, SAMPLE, tmp_path / "out.csv")
    rows = table(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["ok"] * 12
    assert [row["id"] for row in rows] == ["random1000100"] * 6 + ["random1000102"] * 6
    predict(models, SAMPLE, tmp_path / "out.extxyz")
    for before, after in zip(read(SAMPLE, ":"), structures_of(tmp_path / "out.extxyz"), strict=True):
        still = before.constraints[0].index
        assert (after.positions[still] == before.positions[still]).all()
        assert (after.get_tags() == before.get_tags()).all()
    alone = tmp_path / "alone.csv"
    predict(models, SAMPLE, alone, limit=1)
    assert float(table(alone)[0]["pred_energy_ev"]) == pytest.approx(float(rows[0]["pred_energy_ev"]), abs=1e-4)


def test_frames_over_several_chunks_keep_their_order(models: Path, tmp_path: Path, stub: list[Record]) -> None:
    frames = [slab("CO" if number % 3 else "OH", number) for number in range(CHUNK_FRAMES + 3)]
    frames[5] = slab("NO")
    write(tmp_path / "in.traj", frames)
    done: list[tuple[int, int | None]] = []
    predict(models, tmp_path / "in.traj", tmp_path / "out.traj", progress=lambda *count: done.append(count))
    assert done == [(number + 1, len(frames)) for number in range(len(frames))]
    written = structures_of(tmp_path / "out.traj")
    assert [atoms.info["index"] for atoms in written] == list(range(len(frames)))
    for number, (before, after) in enumerate(zip(frames, written, strict=True)):
        rise = 0.0 if number == 5 else 0.25
        assert (after.positions - before.positions)[4:, 2] == pytest.approx(rise, abs=1e-5)


def test_several_files_are_told_apart(models: Path, tmp_path: Path, stub: list[Record]) -> None:
    write(tmp_path / "POSCAR", slab(), format="vasp")
    write(tmp_path / "b.extxyz", [slab(), slab()])
    write(tmp_path / "c.cif", slab())
    sources = [tmp_path / name for name in ("POSCAR", "b.extxyz", "c.cif")]
    predict(models, sources, tmp_path / "out.csv", limit=4)
    rows = table(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == ["POSCAR", "b.extxyz", "b.extxyz", "c.cif"]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    predict(models, sources, tmp_path / "out.traj", limit=2)
    assert [atoms.info["file"] for atoms in structures_of(tmp_path / "out.traj")] == ["POSCAR", "b.extxyz"]
    assert [record.fixed.sum() for record in stub[:4] if record.fixed is not None] == [4, 4, 4, 0]


def test_all_atoms_free_is_said(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    free = slab()
    free.set_constraint()
    write(tmp_path / "in.traj", [free, free])
    with caplog.at_level(logging.WARNING):
        predict(models, tmp_path / "in.traj", tmp_path / "out.csv")
    assert [record.message for record in caplog.records].count(
        "a structure has neither fixed atoms nor atoms of tag 0: all of its atoms may move, and count for its "
        "energy, which differs from that of the same structure with its lower layers fixed"
    ) == 1


def test_records(tmp_path: Path) -> None:
    atoms = slab()
    record = record_of(atoms)
    assert record.tags is not None and record.fixed is not None and record.cell is not None
    assert record.tags.tolist() == [0] * 4 + [1] * 8 + [2] * 2 and record.tags.dtype == np.int8
    assert record.fixed.tolist() == [True] * 4 + [False] * 10
    assert record.positions.dtype == np.float32 and record.positions.shape == (1, 14, 3)
    atoms.set_constraint()
    atoms.set_tags([0] * 2 + [1] * 10 + [2] * 2)
    record = record_of(atoms)
    assert record.fixed is not None and record.fixed.tolist() == [True] * 2 + [False] * 12


@pytest.mark.parametrize("name", ["out.cif", "out.vasp", "CONTCAR"])
def test_formats_of_one_structure(models: Path, tmp_path: Path, stub: list[Record], name: str) -> None:
    write(tmp_path / "in.traj", [slab(), slab()])
    out = tmp_path / name
    with pytest.raises(ConfigError, match="Write extxyz or traj"):
        predict(models, tmp_path / "in.traj", out)
    assert not stub and not out.exists()
    predict(models, tmp_path / "in.traj", out, limit=1)
    found = structures_of(out)[0]
    assert found.get_all_distances(True)[:4, 4:] != pytest.approx(slab().get_all_distances(True)[:4, 4:], abs=0.01)
    if name != "out.cif":
        assert np.abs(found.positions - slab().positions)[:4].max() < 1e-14
    out.unlink()
    write(tmp_path / "bad.traj", slab("NO"))
    with pytest.raises(DataError, match=r"No prediction \(unsupported_element\)"):
        predict(models, tmp_path / "bad.traj", out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.traj", "in.traj"]


def test_the_adsorbate_can_be_named(models: Path, tmp_path: Path, stub: list[Record]) -> None:
    frames = [slab(), slab()[:12]]
    write(tmp_path / "in.traj", frames)
    predict(models, tmp_path / "in.traj", tmp_path / "out.csv", adsorbate="11,13")
    assert [row["status"] for row in table(tmp_path / "out.csv")] == ["ok", "wrong_input_kind"]
    assert stub[0].tags is not None and np.flatnonzero(stub[0].tags == 2).tolist() == [11, 13]
    predict(models, tmp_path / "in.traj", tmp_path / "out.csv", adsorbate=[11])
    assert [row["status"] for row in table(tmp_path / "out.csv")] == ["ok", "ok"]


def test_a_system_the_model_cannot_take_costs_its_own_row(models: Path, tmp_path: Path) -> None:
    flat = slab()
    flat.cell[0] = [1e-6, 0.0, 0.0]
    write(tmp_path / "in.traj", [slab(), flat, slab()])
    predict(models, tmp_path / "in.traj", tmp_path / "out.csv")
    assert [row["status"] for row in table(tmp_path / "out.csv")] == ["ok", "failed", "ok"]


def test_a_system_too_large_for_the_memory_costs_its_own_row(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(model: Any, task: Any, records: Any, settings: Any) -> Any:
        if max(record.num_atoms for _, record in records) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return predict_records(model, task, records, settings)

    monkeypatch.setattr(structures, "predict_records", short_of_memory)
    write(tmp_path / "in.traj", [slab(), slab() * (2, 2, 1), slab()])
    predict(models, tmp_path / "in.traj", tmp_path / "out.csv")
    rows = table(tmp_path / "out.csv")
    assert [row["status"] for row in rows] == ["ok", "too_large", "ok"]
    assert "Memory does not suffice" in rows[1]["error"]


def test_a_number_that_is_not_finite_is_no_answer(models: Path, tmp_path: Path) -> None:
    predictor = api.load_model("is2rs", models=models, device="cpu")
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.fill_(torch.nan)
    write(tmp_path / "in.traj", slab())
    summary = structures.predict_structures(predictor, [tmp_path / "in.traj"], tmp_path / "out.extxyz")
    assert summary.statuses == {"failed": 1}
    assert (structures_of(tmp_path / "out.extxyz")[0].positions == slab().positions).all()


def test_damaged_input(models: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.extxyz", [slab(), slab()])
    with (tmp_path / "in.extxyz").open("a") as file:
        file.write("14\ncut off\n")
    predict(models, tmp_path / "in.extxyz", tmp_path / "out.csv")
    assert [row["status"] for row in table(tmp_path / "out.csv")] == ["ok", "ok", "unparsable"]
    (tmp_path / "in.traj").write_bytes(b"no trajectory")
    with pytest.raises(DataError, match="Expected a trajectory"):
        predict(models, tmp_path / "in.traj", tmp_path / "new.csv")
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("a.sdf", {}, "is2re@1 (task is2re) reads structures"),
        ("a.csv", {"model": "is2rs"}, "is2rs@1 (task is2rs) reads structures"),
        ("a.traj", {"model": "gap"}, "gap@1 (task gap) reads molecules"),
        ("a.extxyz", {"model": "gap"}, "the task is2re or is2rs with --model"),
        ("POSCAR", {"model": None}, "the task is2re or is2rs with --model"),
        ("a.traj", {"smiles_column": "x"}, "--smiles-column has no meaning"),
        ("a.traj", {"id_column": "x"}, "--id-column has no meaning"),
        ("a.traj", {"adsorbate": "x"}, "such as 36,37 or 36-38"),
        ("a.sdf", {"model": "gap", "adsorbate": "3"}, "--adsorbate has no meaning"),
    ],
)
def test_what_does_not_fit_the_model(models: Path, tmp_path: Path, source: str, options: Any, said: str) -> None:
    (tmp_path / source).write_text("1\n")
    with pytest.raises(ConfigError) as refused:
        predict(models, tmp_path / source, tmp_path / "out.csv", **options)
    assert said in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == [source]


def test_output_that_cannot_be_written(models: Path, tmp_path: Path) -> None:
    write(tmp_path / "in.traj", slab())
    with pytest.raises(ConfigError, match="extxyz"):
        predict(models, tmp_path / "in.traj", tmp_path / "out.sdf")
    with pytest.raises(ConfigError, match="other than the input"):
        predict(models, tmp_path / "in.traj", tmp_path / "in.traj")


def test_where_a_structure_lies_is_not_rounded_away() -> None:
    atoms, far = slab(), slab()
    far.positions += np.array([5e5, -3e5, 2e5])
    near, moved = (to_record(Structure(0, "a", "a.traj", item), None, None) for item in (atoms, far))
    assert np.abs(near.positions - moved.positions).max() < 1e-6
