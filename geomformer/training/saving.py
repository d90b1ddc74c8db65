"""From a finished run to an artifact."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from geomformer.artifacts.manifest import Inputs, Target
from geomformer.artifacts.store import Artifact, save_artifact
from geomformer.config.run import RunConfig
from geomformer.elements import SYMBOLS
from geomformer.prepared.collate import collate
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.images import ImageOptions
from geomformer.records import Batch
from geomformer.tasks import CATALYST, MD17
from geomformer.tasks.base import Scaling
from geomformer.training.loop import Trainer

SELFTEST_SYSTEMS = 3


def save(
    model: nn.Module,
    config: RunConfig,
    dataset: PreparedDataset,
    scaling: Mapping[str, Scaling],
    units: Mapping[str, str],
    trainer: Trainer,
    metrics: Mapping[str, float],
    models: Path,
    name: str,
) -> Artifact:
    """Saves the trained network with everything its users need to know."""
    manifest = dataset.manifest
    level = manifest.get("level_of_theory")
    chemistry = manifest.get("options", {}).get("chemistry", {})
    counts = manifest["training_molecules_per_element"]
    return save_artifact(
        models,
        name,
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
            for target in (*config.task.targets, *trainer.task.vectors)
        ],
        inputs=Inputs(
            hydrogens=bool(chemistry.get("hydrogens", config.task.name in (*CATALYST, MD17))),
            geometry=config.task.input_geometry,
            features=config.model.reads_graph,
            orbitals=config.model.orbitals,
            periodic=config.model.periodic,
        ),
        elements={SYMBOLS[int(number)]: count for number, count in counts.items() if int(number) in SYMBOLS},
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
    return collate(samples, features=config.model.reads_graph, images=ImageOptions.of(config.model))
