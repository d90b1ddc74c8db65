"""Puts trained models together as one whose answer is the mean of theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from geomformer.artifacts.files import SELFTEST
from geomformer.artifacts.selftest import tensors_to_batch
from geomformer.artifacts.store import Artifact, load_artifact, save_artifact
from geomformer.artifacts.weights import read_tensors
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError
from geomformer.models import build_model
from geomformer.models.committee import Committee
from geomformer.models.network import Network
from geomformer.tasks.base import Scaling
from geomformer.training.start import start_from

DROPOUTS = ("embedding_dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "drop_path")
FREE = {"inputs": (), "model": (*DROPOUTS, "num_scalars"), "task": ("targets", "answer", "levels")}
"""Keys by section in which models of one committee may differ: they matter to training alone, or to targets, which are
compared one by one."""


def combine(references: Sequence[str | Path], root: Path, name: str) -> Artifact:
    """Saves the mean of several models as the next version of `name`. Scalars that all of them predict are kept.

    The copy has no errors of its own until it is evaluated, and does not judge molecules (`inference.domain`).

    Args:
        references: NAME, NAME@VERSION or folder of two models or more; the first one gives the configuration.
        root: the store of the models, and of the result.
        name: of the result.

    Raises:
        ConfigError: fewer than two models, or one of them twice.
        ArtifactError: a model cannot be loaded, or their answers have no meaningful mean.
    """
    members = [load_artifact(reference, root) for reference in references]
    paths = {artifact.path.resolve() for artifact in members}
    if len(members) < 2 or len(paths) < len(members):
        raise ConfigError(
            f"Expected two different models or more, found {', '.join(item.reference for item in members) or 'none'}.",
            "Train the same configuration with another train.seed.",
        )
    first, *others = members
    for other in others:
        check_alike(first, other)
    config = committee_config(members)
    model = cast(Committee, build_model(config.model))
    shared = [target for target in first.manifest.targets if target.name in (*config.task.targets, *vectors_of(first))]
    scaling = {target.name: Scaling(target.mean, target.scale) for target in shared}
    units = {target.name: target.unit for target in shared}
    for network, artifact in zip(model.networks, members, strict=True):
        start_from(cast(Network, network), artifact, config, scaling, units)
    path = first.path / SELFTEST
    return save_artifact(
        root,
        name,
        model.eval(),
        config,
        targets=shared,
        inputs=first.manifest.inputs,
        elements=fewest(artifact.manifest.elements for artifact in members),
        dataset=first.manifest.dataset,
        training={
            "mean_of": {item.reference: item.manifest.training | data_of(item, first) for item in members},
            "parameters": model.num_parameters,
        },
        metrics={},
        selftest_batch=tensors_to_batch(read_tensors(path), path),
    )


def check_alike(first: Artifact, other: Artifact) -> None:
    """Raises ArtifactError where the answers of two models have no meaningful mean."""
    both = [
        {"inputs": item.manifest.inputs, "model": item.config.model, "task": item.config.task}
        for item in (first, other)
    ]
    for section, free in FREE.items():
        mine, theirs = (sections[section].model_dump() for sections in both)
        for key in dict.fromkeys((*mine, *theirs)):
            if key not in free and mine.get(key) != theirs.get(key):
                raise unlike(first, other, f"{section}.{key}", mine.get(key), theirs.get(key))
    if first.config.model.members > 1:
        raise ArtifactError(f"{first.reference} is a mean of models itself.", "Name the models that it was made of.")
    # A sum over atoms takes no constant, and vectors are not scaled anew.
    fixed = first.config.model.pooling == "sum" or vectors_of(first)
    if fixed and first.manifest.targets != other.manifest.targets:
        raise unlike(first, other, "targets", *(", ".join(map(str, i.manifest.targets)) for i in (first, other)))


def unlike(first: Artifact, other: Artifact, key: str, mine: Any, theirs: Any) -> ArtifactError:
    return ArtifactError(
        f"{first.reference} and {other.reference} cannot be averaged: {key} is {mine} in one and {theirs} in the other."
    )


def vectors_of(artifact: Artifact) -> list[str]:
    """Names of the vectors that a model answers with."""
    return [target.name for target in artifact.manifest.targets if target.name not in artifact.config.task.targets]


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
    task = task.model_copy(
        update={
            "targets": targets,
            "answer": task.answer if task.answer in targets else None,
            "levels": {name: level for name, level in task.levels.items() if name in targets},
        }
    )
    model = model.model_copy(update={"members": len(members), "num_scalars": len(targets)})
    return first.config.model_copy(update={"task": task, "model": model})


def fewest(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Of every element the smallest number of training molecules that a model has seen it in."""
    found = list(counts)
    return {symbol: min(item.get(symbol, 0) for item in found) for symbol in found[0]}


def data_of(artifact: Artifact, first: Artifact) -> dict[str, Any]:
    """What a model was trained on, where that is something else than the first one's."""
    theirs = artifact.manifest.dataset
    return {} if theirs == first.manifest.dataset else {"dataset": theirs}
