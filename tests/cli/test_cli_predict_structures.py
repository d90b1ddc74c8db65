"""`predict` on structures: what is handed over, what is said, and a model of catalysts from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ase.io import read
from checks.molecules import TINY, save_model
from typer.testing import CliRunner, Result

import geomformer.api
from geomformer.artifacts.manifest import Inputs, Target
from geomformer.config.load import load_config
from geomformer.inference.structures import to_record
from geomformer.io.atoms import read_structures
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.images import ImageOptions
from geomformer_cli.app import app

SAMPLE = Path(__file__).parents[2] / "data" / "samples" / "oc20" / "relaxations.extxyz"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMFORMER_MODELS", str(tmp_path / "models"))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = load_config("is2re-small", [f"model.{name}={value}" for name, value in TINY.items()])
    record = to_record(next(read_structures(SAMPLE)), None, None)
    batch = collate([Sample(record, 0, record.positions[0])], features=False, images=ImageOptions.of(config.model))
    save_model(
        tmp_path / "models",
        "surface",
        config=config,
        targets=[Target(name="energy", unit="ev"), Target(name="positions", unit="angstrom")],
        inputs=Inputs(hydrogens=True, geometry="given", features=False, periodic=True),
        elements={"Au": 20, "Na": 20, "O": 20},
        selftest_batch=batch,
    )
    return "surface"


def test_relaxed_structures(model: str) -> None:
    found = run("predict", str(SAMPLE), "--model", model, "--out", "relaxed.extxyz", "--json")
    assert found.exit_code == 0, found.stderr
    expected = {"out": "relaxed.extxyz", "model": "surface@1", "target": "energy", "unit": "ev", "rows": 12}
    assert json.loads(found.stdout) == {**expected, "statuses": {"ok": 6, "unsupported_element": 6}, "outside": None}
    assert "energy in eV by surface@1: 6 of 12 rows ok" in found.stderr
    assert "reasons: info 'error' of relaxed.extxyz" in found.stderr
    frames = read("relaxed.extxyz", ":")
    assert [atoms.info["status"] for atoms in frames] == ["ok"] * 6 + ["unsupported_element"] * 6
    assert all("pred_energy_ev" in atoms.info for atoms in frames[:6])
    assert run("predict", "relaxed.extxyz", "--model", model, "--out", "again.traj").exit_code == 0


def test_one_structure(model: str) -> None:
    found = run("predict", str(SAMPLE), "--model", model, "--out", "CONTCAR")
    assert (found.exit_code, Path("CONTCAR").exists()) == (2, False)
    assert "--limit 1" in found.stderr
    assert run("predict", str(SAMPLE), "--model", model, "--out", "CONTCAR", "--limit", "1").exit_code == 0
    assert run("predict", "CONTCAR", "--model", model, "--out", "table.csv").exit_code == 0


def test_no_frame_that_can_be_used_exits_3(model: str) -> None:
    atoms = read(SAMPLE)
    atoms.pbc = False
    atoms.write("lone.traj")
    found = run("predict", "lone.traj", "--model", model, "--out", "out.traj")
    assert found.exit_code == 3
    assert "none of the 1 rows" in found.stderr and "info 'error' of out.traj" in found.stderr
    assert Path("out.traj").exists()
    found = run("predict", "lone.traj", "--model", model, "--out", "out.cif")
    assert found.exit_code == 3
    assert "no periodic direction" in found.stderr and not Path("out.cif").exists()


def test_molecules_and_structures_are_not_mixed_up(model: str) -> None:
    Path("in.smi").write_text("CCO\n")
    found = run("predict", "in.smi", "--model", model, "--out", "out.csv")
    assert found.exit_code == 2
    assert "reads structures" in found.stderr and "traj" in found.stderr
    found = run("predict", str(SAMPLE), "--out", "out.csv")
    assert found.exit_code == 2
    assert "reads molecules" in found.stderr and "sdf" in found.stderr
    assert not Path("out.csv").exists()


def test_the_adsorbate_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def predict(*args: Any, **options: Any) -> SimpleNamespace:
        seen.update(options)
        fields = {"model": "a@1", "target": "energy", "unit": "ev", "rows": 1, "statuses": {"ok": 1}, "outside": None}
        return SimpleNamespace(out=Path("out.traj"), **fields)

    monkeypatch.setattr(geomformer.api, "predict", predict)
    assert run("predict", "in.traj", "--out", "out.traj", "--adsorbate", "36-38").exit_code == 0
    assert seen["adsorbate"] == "36-38"


@pytest.mark.parametrize("text", ["36-", "x", "4-2"])
def test_numbers_of_atoms_are_checked(text: str) -> None:
    found = run("predict", "in.traj", "--out", "out.traj", "--adsorbate", text)
    assert found.exit_code == 2
    assert "such as 36,37 or 36-38" in found.stderr


def test_help_tells_molecules_from_structures() -> None:
    said = " ".join(run("predict", "--help").stdout.split())
    for words in ("--adsorbate", "POSCAR", "slabs.traj", "pred_energy_ev"):
        assert words in said
