"""Energies and forces: the loss in its units, and conservative forces, which are slopes and can be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checks.forces import MEAN_ENERGY, ethanol, force_config, record_of
from checks.gradients import assert_slopes
from checks.molecules import write_dataset
from torch import Tensor

from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, DataError
from geomformer.inference.averaging import InferenceSettings, predict_records
from geomformer.models import build_model
from geomformer.models.geomformer import GeoMFormer
from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate
from geomformer.records import Batch, Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling
from geomformer.tasks.differentiation import by_positions, derivatives
from geomformer.tasks.md17 import MD17Task, force_scalings
from geomformer.training import run

SCALE = 20.0
SCALING = {"energy": Scaling(MEAN_ENERGY, SCALE), "forces": Scaling(0.0, SCALE)}
KINDS = pytest.mark.parametrize("forces", ["direct", "conservative"])


def labelled(seed: int, atoms: int = 9) -> Record:
    rng = np.random.default_rng(seed)
    forces = (30.0 * rng.normal(size=(atoms, 3))).astype(np.float32)
    return record_of(ethanol(seed)[:atoms], forces=forces, targets={"energy": MEAN_ENERGY + rng.normal()})


def built(forces: str, *overrides: str) -> tuple[GeoMFormer, MD17Task]:
    """A network in float64 whose vector head gives something, too."""
    config = force_config(forces, *overrides)
    model = build_model(config.model).double().eval()
    if model.vector_head is not None:
        torch.nn.init.normal_(model.vector_head.out.weight)
    task = build_task(config.task, SCALING)
    assert isinstance(task, MD17Task)
    return model, task


def batch_of(*records: Record) -> Batch:
    """As training sees it, energies counted from their mean."""
    batch = collate([Sample(record, i, record.positions[0]) for i, record in enumerate(records)], features=False)
    energies = torch.tensor([record.targets["energy"] - MEAN_ENERGY for record in records])
    return replace(batch, targets={"energy": energies}).to(dtype=torch.float64)


def output_for(energies: Tensor, forces: Tensor) -> ModelOutput:
    return ModelOutput(energies[:, None] / SCALE, forces[:, :, None] / SCALE, [], [])


@pytest.mark.parametrize("loss", ["mse", "distance"])
def test_the_loss_is_in_the_units_of_the_dataset(loss: str) -> None:
    config = force_config("direct", f"task.force_loss={loss}", "task.energy_weight=0.3", "task.force_weight=0.7").task
    task = MD17Task(config, SCALING)
    batch = batch_of(labelled(0), labelled(1, atoms=5))
    assert batch.forces is not None
    batch.targets["energy"][1] = torch.nan
    error = torch.zeros_like(batch.forces)
    error[0, 2, 1], error[1, 3] = 6.0, torch.tensor([1.0, 2.0, 2.0])
    error[1, 5:] = 100.0  # padding
    energy = batch.targets["energy"].nan_to_num(0.0) + torch.tensor([2.0, 50.0])
    found = task.losses(output_for(energy, batch.forces + error), batch, 0.0)
    wanted = {"mse": (4.0, 36 / 27 + 9 / 15), "distance": (2.0, 6 / 9 + 3 / 5)}[loss]
    assert found["energy"].item() == pytest.approx(wanted[0])
    assert found["forces"].item() == pytest.approx(wanted[1], rel=1e-4)
    assert found["total"].item() == pytest.approx(0.3 * wanted[0] + 0.7 * wanted[1], rel=1e-4)


def test_energies_keep_their_digits() -> None:
    config = force_config("direct")
    task = MD17Task(config.task, SCALING)
    output = output_for(torch.tensor([0.001, -0.002]), torch.zeros(2, 4, 3))
    assert task.predictions(output)["energy"].tolist() == pytest.approx(
        [MEAN_ENERGY + 0.001, MEAN_ENERGY - 0.002], abs=1e-9
    )


def test_training_counts_energies_from_their_mean(tmp_path: Path) -> None:
    records = [labelled(i) for i in range(4)]
    dataset = write_dataset(tmp_path / "set", {"train": records}, units={"energy": "ev"}, options={})
    split = dataset.split("train")
    config = force_config("direct").task
    scaling = force_scalings(config, split)
    energies = np.array([record.targets["energy"] for record in records])
    forces = np.concatenate([record.forces for record in records if record.forces is not None])
    assert scaling["energy"].mean == pytest.approx(energies.mean(), abs=1e-9)
    assert scaling["energy"].scale == scaling["forces"].scale == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-6)
    systems = MD17Task(config, scaling).training_inputs(split.gather(np.array([2, 0])), [])
    assert systems.targets["energy"].tolist() == pytest.approx(list(energies[[2, 0]] - energies.mean()), abs=1e-9)


def test_conservative_forces_are_minus_the_slope_of_the_energy() -> None:
    model, task = built("conservative")
    batch = batch_of(labelled(0), labelled(1, atoms=6))
    way = torch.randn_like(batch.positions) * batch.mask[..., None]

    def energies(step: float) -> Tensor:
        return task.relative_energies(model(replace(batch, positions=batch.positions + step * way)))

    with derivatives():
        read = by_positions(batch)
        forces = task.vector_predictions(model(read), read)["forces"]
    assert_slopes(-(forces * way).flatten(1).sum(1), energies, 1e-6, "energy")
    assert forces[1, 6:].abs().max() == 0
    assert forces.sum(1).abs().max() < 1e-10, "a molecule does not push itself"
    assert forces.abs().max() > 1e-3


def test_the_loss_of_conservative_forces_has_the_slopes_it_says() -> None:
    """Second derivatives: every parameter that comes before the energy has an effect on forces, but the last bias."""
    model, task = built("conservative", "task.energy_weight=0.0")
    batch = batch_of(labelled(0), labelled(1, atoms=6))

    def loss(train: bool = True) -> Tensor:
        with derivatives():
            read = by_positions(batch)
            found = task.losses(model(read), read, 0.0)["total"]
        return found if train else found.detach()

    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss(), list(named.values()), allow_unused=True)
    without = {name for name, slope in zip(named, gradients, strict=True) if slope is None or not slope.abs().max()}
    behind = ("0.equ_cross", "0.equ_ffn", "0.ffn_norms.equ", "final_norms.equ")  # of the equivariant stream alone
    assert {name for name in without if not any(part in name for part in behind)} <= {"scalar_head.out.bias"}
    for name in ("structural_encoding.w1.weight", "pairs.0.blocks.0.equ_self.qkv.weight", "pairs.0.equivariant_input."):
        name = next(key for key in named if key.startswith(name))
        slope, parameter = gradients[list(named).index(name)], named[name]
        way, start = torch.randn_like(parameter), parameter.detach().clone()

        def values(step: float, p: Tensor = parameter, way: Tensor = way, start: Tensor = start) -> Tensor:
            p.data = start + step * way
            return loss(train=False)[None]

        assert_slopes((slope * way).sum()[None], values, 1e-4, name)
        parameter.data = start


@KINDS
def test_forces_rotate_and_energies_do_not(forces: str) -> None:
    model, task = built(forces)
    batch = batch_of(labelled(3))
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    rotation = rotation * torch.det(rotation)
    found = []
    for positions in (batch.positions, batch.positions @ rotation.T + 3.0):
        with derivatives():
            read = by_positions(replace(batch, positions=positions))
            output = model(read)
            found.append((task.predictions(output)["energy"], task.vector_predictions(output, read)["forces"]))
    (energy, force), (turned_energy, turned_force) = found
    assert (energy - turned_energy).abs().max() < 1e-8
    assert (force @ rotation.T - turned_force).abs().max() < 1e-8 < force.abs().max()


@KINDS
def test_prediction_of_records(forces: str) -> None:
    """What is read in packs is what a single pass gives; forgetting the slopes is an error, not zero forces."""
    model, task = built(forces)
    model.float()
    records = [labelled(0), labelled(1, atoms=5), labelled(2)]
    settings = InferenceSettings(features=False, derivatives=forces == "conservative")
    found = list(predict_records(model, task, enumerate(records), settings))
    for record, prediction in zip(records, found, strict=True):
        (alone,) = predict_records(model, task, [(0, record)], settings)
        assert prediction.vectors["forces"].shape == (1, record.num_atoms, 3)
        assert np.allclose(prediction.vectors["forces"], alone.vectors["forces"], atol=1e-3)
        assert np.abs(alone.vectors["forces"]).max() > 1e-2
    assert not any(parameter.grad is not None for parameter in model.parameters())
    if forces == "conservative":
        with pytest.raises(ValueError, match="without recording"):
            list(predict_records(model, task, [(0, records[0])], replace(settings, derivatives=False)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.forces=conservative", "train.precision=bf16-mixed"], "needs train.precision"),
        (["task.forces=conservative", "model.passes=2"], "needs model.passes: 1"),
        (["task.forces=conservative", "model.images=tokens", "model.tags=true"], "needs model.images"),
        (
            ["task.forces=conservative", "model.structural_encoding=false", "model.inv_cross_attention=false"],
            "depends on the positions",
        ),
        (["model.num_vectors=0"], "needs model.num_vectors: 1"),
        (["task.targets=[energy, other]"], "predicts one energy"),
        (["task.targets=[]"], "predicts one energy"),
        (["task.energy_weight=0", "task.force_weight=0"], "must not both be zero"),
        (["task.forces=gradient"], "direct"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("md17-small", overrides)


def test_a_conservative_model_has_no_vector_head() -> None:
    config = load_config("md17-paper", ["task.forces=conservative"])
    assert (config.model.num_vectors, config.model.num_scalars) == (0, 1)
    assert load_config("md17-paper").model.num_vectors == 1


def trained(config: RunConfig, folder: Path, units: dict[str, str], records: list[Record]) -> Any:
    dataset = write_dataset(folder / "set", {"train": records[:4], "valid": records[4:]}, units=units, options={})
    return run.train(config, dataset, out=folder / "run", models=folder / "models", device="cpu")


def test_a_dataset_without_forces_or_with_others_is_refused(tmp_path: Path) -> None:
    config = force_config("direct", "train.max_steps=1")
    bare = [replace(labelled(i), forces=None) for i in range(6)]
    with pytest.raises(DataError, match="needs systems with forces"):
        trained(config, tmp_path / "bare", {"energy": "ev"}, bare)
    with pytest.raises(DataError, match="Expected forces in kcal_mol/angstrom"):
        trained(config, tmp_path / "units", {"energy": "kcal_mol"}, [labelled(i) for i in range(6)])


def pairs_pushing(seed: int) -> Record:
    """Energy exp(-d) for every pair of atoms."""
    atoms = ethanol(seed, noise=0.1)
    between = atoms.positions[:, None] - atoms.positions[None]
    d = np.linalg.norm(between, axis=-1) + np.eye(len(atoms))
    push = np.exp(-d) * (1 - np.eye(len(atoms)))
    forces = (push[..., None] * between / d[..., None]).sum(1)
    return record_of(atoms, forces=forces.astype(np.float32), targets={"energy": float(0.5 * push.sum())})


def test_conservative_training_learns_forces(tmp_path: Path) -> None:
    """After some steps forces are better than none at all, on frames that were not trained on."""
    steps = ["train.max_steps=80", "data.batch_size=4", "optim.learning_rate=0.005", "train.validate_every=80"]
    records = [pairs_pushing(i) for i in range(8)]
    result = trained(force_config("conservative", *steps), tmp_path, {"energy": "ev"}, records)
    none = np.mean([np.abs(record.forces).mean() for record in records[4:] if record.forces is not None])
    assert result.metrics["forces_mae_ev_angstrom"] < 0.7 * none
    assert {"energy_mae_ev", "forces_rmse_ev_angstrom", "forces_mae_mev_angstrom"} <= set(result.metrics)
