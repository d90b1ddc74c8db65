"""Puts trained models together as one whose answer is the mean of theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from geomformer.artifacts.files import SELFTEST, WEIGHTS
from geomformer.artifacts.locate import check_name
from geomformer.artifacts.manifest import Target
from geomformer.artifacts.selftest import tensors_to_batch
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.artifacts.weights import read_tensors
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError
from geomformer.files import check_writable
from geomformer.models import build_model
from geomformer.models.committee import Committee
from geomformer.models.network import Network
from geomformer.tasks.base import Scaling
from geomformer.training.start import start_from, vectors_of

log = logging.getLogger(__name__)

TASK = ("name", "input_geometry", "start", "conserved", "forces")
"""Keys of the `task` section that say what an output means; the others matter to training alone."""
FREE = ("embedding_dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "drop_path", "num_scalars")
"""Keys of the `model` section in which networks of a committee may differ; targets are compared one by one."""


def combine(references: Sequence[str | Path], root: Path, name: str) -> Artifact:
    """Saves the mean of several models as the next version of `name`. Scalars that all of them predict are kept.

    The mean has no errors of its own until it is evaluated, and does not judge molecules (`inference.domain`). Warnings
    tell of scalars that are dropped and of models that have seen other rows than the first.

    Args:
        references: NAME, NAME@VERSION or folder of two models or more; the first one gives the configuration, and means
            and scales of the targets.
        root: the store of the models, and of the result.
        name: of the result.

    Raises:
        ConfigError: fewer than two models, or one of them twice.
        ArtifactError: a model cannot be loaded, or their answers have no meaningful mean.
    """
    check_name(name)
    check_writable(root)
    members = [load_artifact(reference, root) for reference in references]
    check_members(members)
    first = members[0]
    config = committee_config(members)
    targets = [*(first.manifest.target(name) for name in config.task.targets), *vectors_of(first)]
    path = first.path / SELFTEST
    model = committee(members, config, targets)
    return save_artifact(
        root,
        name,
        model,
        config,
        targets=targets,
        inputs=first.manifest.inputs,
        elements=fewest(artifact.manifest.elements for artifact in members),
        dataset=first.manifest.dataset,
        training={
            "mean_of": {str(number): origin(item, first) for number, item in enumerate(members, 1)},
            "parameters": model.num_parameters,
        },
        metrics={},
        selftest_batch=tensors_to_batch(read_tensors(path), path),
    )


def check_members(members: Sequence[Artifact]) -> None:
    """Refuses what is not two different networks or more, each on its own, whose answers mean the same.

    Raises:
        ConfigError, ArtifactError: see `combine`.
    """
    if len({artifact.manifest.files[WEIGHTS] for artifact in members}) < max(len(members), 2):
        found = ", ".join(artifact.reference for artifact in members) or "none"
        raise ConfigError(
            f"Expected two models or more, with different weights, found {found}.",
            "Train the same configuration with another train.seed.",
        )
    for artifact in members:
        if artifact.config.model.members > 1:
            raise ArtifactError(f"{artifact.reference} is a mean of models.", "Name the models that it was made of.")
    for other in members[1:]:
        check_alike(members[0], other)


def check_alike(first: Artifact, other: Artifact) -> None:
    """Raises ArtifactError where two networks differ, or read or mean something else."""
    mine, theirs = meaning(first), meaning(other)
    for key in dict.fromkeys((*mine, *theirs)):
        if mine.get(key) != theirs.get(key):
            raise ArtifactError(
                f"{first.reference} and {other.reference} cannot be averaged: {key} is {mine.get(key)} in one and "
                f"{theirs.get(key)} in the other."
            )


def meaning(artifact: Artifact) -> dict[str, Any]:
    """What a network is, reads and answers with, by key; its scalars aside."""
    model, task = artifact.config.model.model_dump(), artifact.config.task.model_dump()
    found = {f"task.{key}": task[key] for key in TASK}
    found |= {f"inputs.{key}": value for key, value in artifact.manifest.inputs.model_dump().items()}
    found |= {f"model.{key}": value for key, value in model.items() if key not in FREE}
    return found | {f"unit of {target.name}": target.unit for target in vectors_of(artifact)}


def committee_config(members: Sequence[Artifact]) -> RunConfig:
    """The configuration of the first, with the scalars that all of them predict in the same unit and level of theory.

    Raises:
        ArtifactError: there are none.
    """
    first = members[0]
    kinds = [{(t.name, t.unit, t.level_of_theory) for t in artifact.manifest.targets} for artifact in members]
    shared = {name for name, _, _ in set.intersection(*kinds)}
    task, model = first.config.task, first.config.model
    targets = tuple(name for name in task.targets if name in shared)
    if task.targets and not targets:
        found = "; ".join(f"{item.reference}: {', '.join(t.name for t in item.manifest.targets)}" for item in members)
        raise ArtifactError(f"The models have no target in common, of the same unit and level of theory: {found}.")
    answer = task.answer if task.answer in targets else None
    if dropped := [name for name in task.targets if name not in targets]:
        log.warning("%s: not predicted by all; `predict` reports %s.", ", ".join(dropped), answer or targets[0])
    levels = {name: level for name, level in task.levels.items() if name in targets}
    task = task.model_copy(update={"targets": targets, "answer": answer, "levels": levels})
    model = model.model_copy(update={"members": len(members), "num_scalars": len(targets)})
    presets = {artifact.config.preset for artifact in members}
    preset = first.config.preset if len(presets) == 1 else None
    return first.config.model_copy(update={"preset": preset, "task": task, "model": model})


def committee(members: Sequence[Artifact], config: RunConfig, targets: Sequence[Target]) -> Committee:
    """The networks as one, which answers in the means and scales of `targets`."""
    model = cast(Committee, build_model(config.model)).eval()
    units = {target.name: target.unit for target in targets}
    vectors = [target.name for target in targets if target.name not in config.task.targets]
    for number, artifact in enumerate(members):
        own = {name: artifact.manifest.target(name) for name in units}
        scaling = {name: Scaling(target.mean, target.scale) for name, target in own.items()}
        start_from(cast(Network, model.networks[number]), artifact, config, scaling, units)
        for target in targets:
            factor = own[target.name].scale / target.scale
            if target.name in vectors:
                model.vector_factors[number, vectors.index(target.name)] = factor
                continue
            column = config.task.targets.index(target.name)
            model.scalar_factors[number, column] = factor
            model.scalar_shifts[number, column] = (own[target.name].mean - target.mean) / target.scale
    return model


def fewest(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Of every element the smallest number of training molecules that a model has seen it in."""
    found = list(counts)
    return {symbol: min(item.get(symbol, 0) for item in found) for symbol in found[0]}


def origin(artifact: Artifact, first: Artifact) -> dict[str, Any]:
    """What a model is called and how it was trained; on what, where that is something else than the first one's."""
    found = {"model": artifact.reference, **artifact.manifest.training}
    if (data := data_of(artifact)) == data_of(first):
        return found
    log.warning(
        "%s was trained on other rows than %s: only rows that none of the models has seen tell how wrong the mean is.",
        artifact.reference,
        first.reference,
    )
    return found | {"data": data}


def data_of(artifact: Artifact) -> dict[str, Any]:
    """The rows that a model was trained and selected on."""
    data = artifact.config.data
    splits = {"split_scheme": data.split_scheme, "train_split": data.train_split, "valid_split": data.valid_split}
    return {**artifact.manifest.dataset, **splits}
