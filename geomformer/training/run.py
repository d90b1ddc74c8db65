"""From a configuration to a saved model: data, network, loop, artifact."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from geomformer.artifacts.manifest import ATOMIC_NUMBERS, Inputs, Target
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError, DataError, nearest
from geomformer.models import build_model
from geomformer.prepared.collate import collate
from geomformer.prepared.dataset import PreparedDataset, PreparedSplit
from geomformer.records import Batch
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling, scalings
from geomformer.training.loop import Report, Trainer, reads_graph
from geomformer.training.run_folder import RunFolder

log = logging.getLogger(__name__)

SELFTEST_SYSTEMS = 3


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
        init: model whose weights are the start (those that fit by name and shape).
        device: "auto", "cpu", "cuda"; `devices` and `num_nodes` of them.
        report: receives progress and metrics.

    Raises:
        ConfigError, DataError, ArtifactError: something does not fit.
        Interrupted: stopped by a signal, state saved.
    """
    folder = RunFolder(out, resume)
    statistics, units = target_statistics(dataset, config.task.targets)
    fabric = launched_fabric(config, device, devices, num_nodes)
    fabric.seed_everything(config.train.seed, verbose=False)
    model = build_model(config.model)
    if init is not None:
        start_from(model, load_artifact(init, models))
    if fabric.is_global_zero:
        prepare_folder(folder, config, dataset, resume)
    scaling = scalings(statistics, config.task.targets)
    train_split, valid_split = labelled(dataset, config.data.train_split), labelled(dataset, config.data.valid_split)
    task = build_task(config.task, scaling)
    trainer = Trainer(config, task, model, train_split, valid_split, units, folder, fabric, report)
    if resume and (state := folder.load_last()) is not None:
        folder.truncate_metrics(state["position"]["step"])
        trainer.restore(state)
    elif resume:
        folder.truncate_metrics(0)
    report(start_line(trainer, dataset, model, folder))
    trainer.fit()
    best = folder.load_best()
    model.load_state_dict(best["average"], strict=True)
    metrics = validation_metrics(trainer, model)
    artifact = save(model, config, dataset, scaling, units, trainer, metrics, models, name)
    return TrainResult(artifact.reference, artifact.path, folder.path, metrics)


def launched_fabric(config: RunConfig, device: str, devices: int, num_nodes: int) -> Fabric:
    """Fabric on the device, in bf16 where "auto" precision finds a GPU that has it."""
    accelerator = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    if accelerator.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no usable CUDA device.", "Use --device cpu.")
    precision = config.train.precision
    if precision == "auto":
        bf16 = accelerator.startswith("cuda") and torch.cuda.is_bf16_supported()
        precision = "bf16-mixed" if bf16 else "32-true"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, precision=precision, strategy="auto")
    fabric.launch()
    return fabric


def target_statistics(
    dataset: PreparedDataset, targets: tuple[str, ...]
) -> tuple[dict[str, Mapping[str, float]], dict[str, str]]:
    """Train statistics and unit of each target.

    Raises:
        ConfigError: the dataset has no such target, or no label of it in the train split.
    """
    known = dataset.manifest["targets"]
    for target in targets:
        if target not in known:
            raise ConfigError(
                f"{dataset.path} has no target '{target}', only {', '.join(known) or 'none'}.{nearest(target, known)}",
                "Choose with --set task.targets=[NAME].",
            )
        if not known[target].get("count"):
            raise DataError(f"{dataset.path}: no row of the train split has a label of '{target}'.")
    return {target: known[target] for target in targets}, {t: known[t]["unit"] or "unknown" for t in targets}


def labelled(dataset: PreparedDataset, name: str) -> PreparedSplit:
    split = dataset.split(name)
    if len(split) == 0:
        raise DataError(f"Split '{name}' of {dataset.path} has no rows.", "Choose with --set data.valid_split=NAME.")
    return split


def prepare_folder(folder: RunFolder, config: RunConfig, dataset: PreparedDataset, resume: bool) -> None:
    """Creates the run folder, or checks that a resumed run is the same run on the same data."""
    facts = {"dataset": str(dataset.path), "fingerprint": dataset.fingerprint}
    if not resume:
        folder.create(config, facts)
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


def start_from(model: nn.Module, artifact: Artifact) -> None:
    """Copies the weights that fit by name and shape.

    Raises:
        ArtifactError: none fits.
    """
    own = model.state_dict()
    given = artifact.model().state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ArtifactError(f"No weight of {artifact.reference} fits this model.", "Use the same `model` section.")
    model.load_state_dict(fitting, strict=False)
    log.info("started from %s: %d of %d tensors", artifact.reference, len(fitting), len(own))


def start_line(trainer: Trainer, dataset: PreparedDataset, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
    return {
        "event": "start",
        "run": str(folder.path),
        "dataset": str(dataset.path),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": len(trainer.train_split),
        "max_steps": trainer.max_steps,
        "step": trainer.position.step,
        "seconds": trainer.projected_seconds(),
        "device": str(trainer.fabric.device),
        "precision": str(trainer.fabric._precision.precision),
    }


def validation_metrics(trainer: Trainer, model: nn.Module) -> dict[str, float]:
    """Metrics of the weights that are saved."""
    values = trainer.validation_values(model)
    return {name: float(value) for name, value in values.items()}


def save(
    model: nn.Module,
    config: RunConfig,
    dataset: PreparedDataset,
    scaling: Mapping[str, Scaling],
    units: Mapping[str, str],
    trainer: Trainer,
    metrics: Mapping[str, float],
    models: Path,
    name: str | None,
) -> Artifact:
    """Saves the trained network with everything its users need to know."""
    manifest = dataset.manifest
    level = manifest.get("level_of_theory")
    chemistry = manifest.get("options", {}).get("chemistry", {})
    symbols = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}
    counts = manifest["training_molecules_per_element"]
    return save_artifact(
        models,
        name or f"{config.task.name}-{config.model.architecture}",
        model.cpu(),
        config,
        targets=[
            Target(
                name=target,
                unit=units[target],
                level_of_theory=config.task.levels.get(target, level),
                mean=scaling[target].mean,
                scale=scaling[target].scale,
            )
            for target in config.task.targets
        ],
        inputs=Inputs(
            hydrogens=bool(chemistry.get("hydrogens", False)),
            geometry=config.task.input_geometry,
            features=reads_graph(config),
            periodic=False,
        ),
        elements={symbols[int(number)]: count for number, count in counts.items()},
        dataset={"name": manifest["dataset"], "fingerprint": dataset.fingerprint, "rows": dataset.splits},
        training={"steps": trainer.position.step, "seed": config.train.seed, "parameters": model.num_parameters},
        metrics={"valid": dict(metrics)},
        selftest_batch=selftest_batch(trainer, config),
    )


def selftest_batch(trainer: Trainer, config: RunConfig) -> Batch:
    """A few small systems of the valid split."""
    rows = trainer.valid.num_atoms.argsort(kind="stable")
    middle = rows[len(rows) // 4 :] if len(rows) > SELFTEST_SYSTEMS else rows
    samples = [
        trainer.task.inference_samples(trainer.valid[int(row)], position, 1)[0]
        for position, row in enumerate(itertools.islice(middle, SELFTEST_SYSTEMS))
    ]
    return collate(samples, features=reads_graph(config))
