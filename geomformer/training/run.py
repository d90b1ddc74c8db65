"""From a configuration to a saved model: data, network, loop, artifact."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from geomformer.artifacts.locate import check_name
from geomformer.config.run import RunConfig
from geomformer.devices import cpu_computes_bf16, resolve_device
from geomformer.errors import ConfigError, DataError
from geomformer.files import check_writable
from geomformer.models import build_model
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.sampler import padding_waste
from geomformer.tasks import build_task, measured_scalings, vector_unit
from geomformer.tasks.base import Scaling, scalings
from geomformer.training.inputs import target_statistics, usable_split
from geomformer.training.loop import Report, Trainer
from geomformer.training.run_folder import RunFolder
from geomformer.training.saving import save
from geomformer.training.start import first_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    Attributes:
        reference: NAME@VERSION of the saved model.
        path: its folder.
        run: the run folder.
        metrics: of the saved weights on the valid split.
    """

    reference: str
    path: Path
    run: Path
    metrics: dict[str, float]


def train(
    config: RunConfig,
    dataset: PreparedDataset,
    *,
    out: Path,
    models: Path,
    name: str | None = None,
    resume: bool = False,
    init: str | None = None,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    report: Report = lambda line: None,
) -> TrainResult:
    """Trains a model and saves the best checkpoint as the next version of `name` (default TASK-ARCHITECTURE).

    Args:
        config: the run; `resume` requires it to equal the one the run was started with.
        dataset: prepared dataset with the target columns.
        out: run folder.
        models: store that the model is saved to.
        name: name of the model.
        resume: continue the run in `out`.
        init: model whose weights are the start (those that fit by name and shape; of the last map, by target).
        device: "auto", "cpu", "cuda"; `devices` and `num_nodes` of them.
        report: receives progress and metrics.

    Raises:
        ConfigError, DataError, ArtifactError: something does not fit.
        Interrupted: stopped by a signal, state saved.
    """
    name = name or f"{config.task.name}-{config.model.architecture}"
    check_name(name)
    check_writable(models)
    check_alone(config)
    folder = RunFolder(out, resume)
    statistics, units = target_statistics(dataset, config.task.targets)
    train_split, valid_split = (usable_split(dataset, config, key) for key in ("train_split", "valid_split"))
    measured = measured_scalings(config.task, train_split, config.train.seed)
    scaling = scalings(statistics, config.task.targets) | measured
    units |= dict.fromkeys(measured.keys() - units.keys(), vector_unit(config.task, units))
    task = build_task(config.task, scaling)
    fabric = launched_fabric(config, device, devices, num_nodes)
    # The default name holds the time, which differs between ranks.
    folder.path = Path(fabric.broadcast(str(folder.path)))
    fabric.seed_everything(config.train.seed, verbose=False)
    model = build_model(config.model)
    start = first_weights(model, init, config, scaling, units, folder, models, resume)
    trainer = Trainer(config, task, model, train_split, valid_split, units, folder, fabric, report)
    if fabric.is_global_zero:
        prepare_folder(folder, config, dataset, start, resume)
    fabric.barrier()
    if (finished := folder.result()) is not None and finished["name"] == name:
        return TrainResult(finished["reference"], Path(finished["path"]), folder.path, finished["metrics"])
    with folder.logging():
        if resume:
            restore(trainer, folder)
        report(start_line(trainer, dataset, model, folder))
        origin = f", weights from {start}" if start else ""
        folder.note(f"from step {trainer.position.step} to {trainer.max_steps} on {fabric.device}{origin}")
        trainer.fit()
        return finish(trainer, dataset, scaling, models, name)


def check_alone(config: RunConfig) -> None:
    """Refuses to train the mean of several networks: their errors would not be their own."""
    if config.model.members > 1:
        raise ConfigError(
            f"Expected model.members=1 in training, found {config.model.members}.",
            "Train models with different train.seed and put them together: geomformer models combine.",
        )


def finish(
    trainer: Trainer, dataset: PreparedDataset, scaling: Mapping[str, Scaling], models: Path, name: str
) -> TrainResult:
    """Saves the best checkpoint as a model; the first rank does, all learn where."""
    fabric, folder, model = trainer.fabric, trainer.folder, trainer.raw_model
    model.load_state_dict(folder.load_best()["average"], strict=True)
    metrics = trainer.validation_values(model)
    saved = "", Path()
    if fabric.is_global_zero:
        artifact = save(model, trainer.config, dataset, scaling, trainer.units, trainer, metrics, models, name)
        saved = artifact.reference, artifact.path
        folder.note(f"saved {artifact.reference} in {artifact.path}")
        folder.finish({"name": name, "reference": artifact.reference, "path": str(artifact.path), "metrics": metrics})
    reference, path = fabric.broadcast(saved)
    return TrainResult(reference, path, folder.path, metrics)


def restore(trainer: Trainer, folder: RunFolder) -> None:
    """Takes up a run at its last checkpoint, or at its start if there is none."""
    state = folder.load_last()
    if trainer.fabric.is_global_zero:
        folder.truncate_metrics(state["position"]["step"] if state else 0)
    if state is not None:
        trainer.restore(state)


def launched_fabric(config: RunConfig, device: str, devices: int, num_nodes: int) -> Fabric:
    """Fabric on the device, in bf16 where "auto" precision finds a GPU that has it.

    Raises:
        ConfigError: this machine has no such device, or not so many.
    """
    accelerator, _, number = resolve_device(device).partition(":")
    precision = config.train.precision
    if precision == "auto":
        # Slopes of an energy in bf16 are too coarse to train on.
        bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported() and not config.task.differentiates
        precision = "bf16-mixed" if bf16 else "32-true"
    if precision == "bf16-mixed" and accelerator == "cpu" and not cpu_computes_bf16():
        log.warning("This CPU has no bf16 instructions: training takes several times as long as with 32-true.")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=[int(number)] if number else devices,
            num_nodes=num_nodes,
            precision=None if precision == "bf16-mixed" else precision,
            plugins=GeometryKept("bf16-mixed", accelerator) if precision == "bf16-mixed" else None,
            # A batch without a reference geometry gives the vector head no gradient.
            strategy=DDPStrategy(find_unused_parameters=True) if devices * num_nodes > 1 else "auto",
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise ConfigError(f"{devices} x --device {device} cannot be used here: {error}") from error
    fabric.launch()
    return fabric


class GeometryKept(MixedPrecision):
    """Mixed precision for the maps alone: Fabric rounds the inputs too, and a coordinate of 8 Angstrom by 0.03."""

    def convert_input(self, data: Any) -> Any:
        return data


def prepare_folder(
    folder: RunFolder, config: RunConfig, dataset: PreparedDataset, init: str | None, resume: bool
) -> None:
    """Creates the run folder, or checks that a resumed run is the same run on the same data."""
    if not resume:
        folder.create(config, {"dataset": str(dataset.path), "fingerprint": dataset.fingerprint, "init": init})
        return
    if folder.facts()["fingerprint"] != dataset.fingerprint:
        raise DataError(
            f"The dataset at {dataset.path} is not the one the run in {folder.path} was started with.",
            "Resume with the same data, or start a new run.",
        )
    if folder.config() != config:
        raise ConfigError(
            f"The configuration differs from {folder.path / 'config.yaml'}, with which the run was started.",
            f"Resume with the same options, or with --config {folder.path / 'config.yaml'}.",
        )


def start_line(trainer: Trainer, dataset: PreparedDataset, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
    return {
        "event": "start",
        "run": str(folder.path),
        "dataset": str(dataset.path),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": len(trainer.train_split),
        "padding": padding_waste(trainer.sampler.num_atoms, trainer.sampler.batches(trainer.position.epoch)),
        "max_steps": trainer.max_steps,
        "step": trainer.position.step,
        "seconds": trainer.projected_seconds(),
        "device": str(trainer.fabric.device),
        "precision": str(trainer.fabric._precision.precision),
    }
