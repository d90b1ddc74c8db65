"""Energies and forces as they are typed: from the published files of the sample to predictions that ASE reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

SAMPLE = Path(__file__).parents[2] / "data" / "samples" / "rmd17"
SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.embed_dim=16", "--set", "model.ffn_dim=16"),
    *("--set", "model.num_heads=2", "--set", "model.num_kernels=8", "--set", "train.max_steps=4"),
]
KINDS = pytest.mark.parametrize("forces", ["direct", "conservative"])
KCAL_IN_EV = 0.0433641153087705


@pytest.fixture
def run(invoke: Any) -> Any:
    """Runs a command in a folder where the sample is prepared in its place."""
    invoke("preprocess", "rmd17", str(SAMPLE), "--molecule", "ethanol")
    return invoke


def train(run: Any, forces: str, *words: str) -> Result:
    return run("train", "--task", "md17", "--data", "rmd17/ethanol", "--set", f"task.forces={forces}", *SMALL, *words)


@KINDS
def test_sample_to_predictions(run: Any, forces: str) -> None:
    from ase.io import read

    assert train(run, forces, "--out", "run").stdout.strip().endswith("md17-geomformer@1")
    manifest = json.loads(Path("models/md17-geomformer/1/manifest.json").read_text())
    targets = {target["name"]: target for target in manifest["targets"]}
    assert (targets["energy"]["unit"], targets["forces"]["unit"]) == ("kcal_mol", "kcal_mol_angstrom")
    assert targets["energy"]["scale"] == targets["forces"]["scale"] > 1.0
    assert manifest["inputs"]["hydrogens"] and not manifest["inputs"]["periodic"]
    run("models", "verify", "md17-geomformer")

    found = json.loads(run("evaluate", "--task", "md17", "--model", "md17-geomformer", "--json").stdout)
    values, none = found["splits"]["test"], found["baselines"]["zero_forces"]["splits"]["test"]
    for key in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse"):
        assert np.isfinite(values[f"{key}_kcal_mol{'_angstrom' if 'forces' in key else ''}"])
    assert values["forces_mae_mev_angstrom"] == pytest.approx(
        1000 * KCAL_IN_EV * values["forces_mae_kcal_mol_angstrom"], rel=1e-9
    )
    assert values["energy_mae_mev"] == pytest.approx(1000 * KCAL_IN_EV * values["energy_mae_kcal_mol"], rel=1e-9)
    assert values["forces_mae_kcal_mol_angstrom"] != none["forces_mae_kcal_mol_angstrom"] > 1.0
    assert found["baselines"]["mean_energy"]["splits"]["test"]["energy_mae_kcal_mol"] > 0
    table = run("evaluate", "--model", "md17-geomformer", "--split", "test").stdout
    assert "zero forces" in table and "kcal/mol/Angstrom" in table
    words = " ".join(table.split())
    for start in ("energy RMSE kcal/mol", "energy RMSE meV", "forces RMSE kcal/mol/Ang", "forces RMSE meV/Ang"):
        assert start in words
    assert " MSE " not in words

    frames = labelled_frames()
    run("predict", "frames.extxyz", "--model", "md17-geomformer", "--out", "out.extxyz")
    run("predict", "frames.extxyz", "--model", "md17-geomformer", "--out", "out.traj")
    predicted = read("out.extxyz", ":")
    for frame, after, same in zip(frames, predicted, read("out.traj", ":"), strict=True):
        assert np.array_equal(frame.positions, after.positions) and after.info["status"] == "ok"
        assert same.get_potential_energy() == pytest.approx(after.get_potential_energy(), abs=1e-6)
        assert np.allclose(same.get_forces(), after.get_forces(), atol=1e-7)
        assert after.get_potential_energy() == pytest.approx(frame.info["label_ev"], abs=20.0)
        assert np.abs(after.get_forces()).max() > 0, "not the forces of the input, which are zero"
    energies = [frame.get_potential_energy() for frame in predicted]
    error = np.abs(np.array(energies) - [frame.info["label_ev"] for frame in frames]).mean()
    assert error == pytest.approx(values["energy_mae_kcal_mol"] * KCAL_IN_EV, rel=1e-3)


def labelled_frames() -> list[Any]:
    """The test frames of the prepared sample, with forces of zero that no prediction may be mistaken for."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import read, write

    from geomformer import api

    frames = []
    for record in api.open_dataset("rmd17/ethanol").split("test"):
        atoms = Atoms(record.atomic_numbers, record.positions[0].astype(float))
        atoms.info["label_ev"] = record.targets["energy"] * KCAL_IN_EV
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
        frames.append(atoms)
    write("frames.extxyz", frames)
    return read("frames.extxyz", ":")


def test_a_frame_without_an_answer_says_why(run: Any) -> None:
    from ase.build import bulk, molecule
    from ase.io import read, write

    train(run, "direct")
    write("in.extxyz", [molecule("CH3CH2OH"), molecule("NH3"), bulk("C")])
    run("predict", "in.extxyz", "--model", "md17-geomformer", "--out", "out.extxyz")
    answers = read("out.extxyz", ":")
    assert [frame.info["status"] for frame in answers] == ["ok", "unsupported_element", "wrong_input_kind"]
    assert [frame.calc is not None for frame in answers] == [True, False, False]
    run("predict", "in.extxyz", "--model", "md17-geomformer", "--out", "out.csv")
    header, first, *_ = Path("out.csv").read_text().splitlines()
    assert {"pred_energy_ev", "max_force_ev_angstrom"} <= set(header.split(",")) and first.endswith("ok,")
    one = run("predict", "in.extxyz", "--model", "md17-geomformer", "--limit", "1", "--out", "out.cif", code=2)
    assert "holds energies and forces" in " ".join(one.output.split())
    slab = run("predict", "in.extxyz", "--model", "md17-geomformer", "--adsorbate", "1", "--out", "o.csv", code=2)
    assert "--adsorbate has no meaning" in " ".join(slab.output.split())


@KINDS
def test_a_run_continues_bit_for_bit(run: Any, forces: str) -> None:
    steps = ["--set", "train.checkpoint_every=2", "--set", "train.validate_every=2", "--set", "train.log_every=1"]
    train(run, forces, *steps, "--out", "whole")
    train(run, forces, *steps, "--out", "broken")
    for name in ("result.json", "checkpoints/step-00000004.pt"):
        Path("broken", name).unlink()
    left = sorted(path.name for path in Path("broken/checkpoints").iterdir())
    assert left, "an earlier checkpoint is there to continue from"
    train(run, forces, *steps, "--out", "broken", "--resume")
    assert Path("broken/metrics.jsonl").read_bytes() == Path("whole/metrics.jsonl").read_bytes()


def test_other_data_is_no_data_for_forces(run: Any) -> None:
    Path("in.csv").write_text("smiles,energy\n" + "CCO,1.0\nCCN,2.0\n" * 5)
    run("preprocess", "custom", "in.csv", "--target", "energy", "--conformers", "1", "--out", "molecules")
    result = run("train", "--task", "md17", "--data", "molecules", *SMALL, code=3)
    assert "needs systems with forces" in " ".join(result.output.split())
