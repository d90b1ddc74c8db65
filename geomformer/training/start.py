"""The weights a run starts from: those of a trained model, as far as they fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from geomformer.artifacts.locate import resolve
from geomformer.artifacts.manifest import Target
from geomformer.artifacts.store import Artifact, load_artifact
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError
from geomformer.models.network import Network
from geomformer.tasks.base import Scaling
from geomformer.training.run_folder import RunFolder

log = logging.getLogger(__name__)

LAST_MAP = ("scalar_head.out.weight", "scalar_head.out.bias")
LAST_VECTORS = "vector_head.out.weight"
NAMED = 4
"""Weights that a message names before it counts the rest."""


def first_weights(
    model: Network,
    init: str | None,
    config: RunConfig,
    scaling: Mapping[str, Scaling],
    units: Mapping[str, str],
    folder: RunFolder,
    models: Path,
    resume: bool,
) -> str | None:
    """Starts from a trained model where one is named; a resumed run from the one it was begun with, which is needed
    no more once there is a checkpoint.

    Returns:
        the folder of that model.

    Raises:
        ArtifactError: it cannot be loaded, or does not fit.
        ConfigError: a resumed run was begun with another one.
    """
    if resume:
        begun = folder.facts().get("init")
        if init is not None and (begun is None or resolve(init, models).resolve() != Path(begun)):
            raise ConfigError(
                f"The run in {folder.path} was begun with {begun or 'random weights'}, not with --init {init}.",
                "Resume without --init, or start a new run.",
            )
        if begun is None or folder.step_checkpoints():
            return begun
        init = begun
    if init is None:
        return None
    artifact = load_artifact(init, models)
    start_from(model, artifact, config, scaling, units)
    return str(artifact.path.resolve())


def start_from(
    model: Network, artifact: Artifact, config: RunConfig, scaling: Mapping[str, Scaling], units: Mapping[str, str]
) -> None:
    """Copies the weights that fit by name and shape, and what the two models predict in common.

    Raises:
        ArtifactError: they are less than half of the model, or those of several networks.
    """
    if artifact.config.model.members > 1:
        raise ArtifactError(
            f"{artifact.reference} is a mean of models, and no start.", "Name one of the models that it was made of."
        )
    own = model.state_dict()
    given = artifact.model().state_dict()
    idle = [name for name in given if name not in own]
    carried = last_map(own, given, artifact, config, scaling, units)
    carried |= last_vectors(given, artifact, config, scaling, units)
    given = {name: value for name, value in given.items() if name not in (*LAST_MAP, LAST_VECTORS)} | carried
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    share = sum(value.numel() for value in fitting.values()) / sum(value.numel() for value in own.values())
    if share < 0.5:
        raise ArtifactError(
            f"Only {share:.0%} of this model's weights exist in {artifact.reference} with the same shape.",
            f"Use its `model` section: {artifact.path / 'config.yaml'}.",
        )
    model.load_state_dict(fitting, strict=False)
    theories = artifact.config.model.orbitals, config.model.orbitals
    if theories[0] != theories[1] and "none" not in theories:
        log.warning("%s reads orbitals of %s, this model those of %s.", artifact.reference, *theories)
    missing = [name for name in own if name not in fitting and name not in LAST_MAP]
    if idle or missing:
        differences = [f"no place for {some(idle)}"] if idle else []
        differences += [f"{some(missing)} start fresh"] if missing else []
        theirs, ours = artifact.config.model.model_dump(), config.model.model_dump()
        changed = [f"model.{key}={value}" for key, value in theirs.items() if ours.get(key, value) != value]
        changed = [setting for setting in changed if "drop" not in setting and "num_scalars" not in setting]
        origin = f" It was trained with {some(changed)}." if changed else ""
        log.warning("%s and this model differ: %s.%s", artifact.reference, "; ".join(differences), origin)


def last_map(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    artifact: Artifact,
    config: RunConfig,
    scaling: Mapping[str, Scaling],
    units: Mapping[str, str],
) -> dict[str, Tensor]:
    """The last map of the scalar head, its rows put where the targets of this run have their name and unit.

    mean + scale * output stays what it was under this run's mean and scale; a sum over atoms takes no constant, so
    that there only the scale is kept. Rows of other targets start fresh, and all where atoms are pooled otherwise.
    """
    if LAST_MAP[0] not in own:
        return {}
    before = {target.name: target for target in artifact.manifest.targets}
    row_of = {name: row for row, name in enumerate(artifact.config.task.targets)}
    shared = [name for name in config.task.targets if name in row_of and before[name].unit == units[name]]
    fits = all(name in given and own[name].shape[1:] == given[name].shape[1:] for name in LAST_MAP)
    if not fits or artifact.config.model.pooling != config.model.pooling:
        shared = []
    weight, bias = (own[name].clone() for name in LAST_MAP)
    for name in shared:
        new, old = config.task.targets.index(name), row_of[name]
        ratio = before[name].scale / scaling[name].scale
        shift = 0.0 if config.model.pooling == "sum" else (before[name].mean - scaling[name].mean) / scaling[name].scale
        weight[new] = ratio * given[LAST_MAP[0]][old]
        bias[new] = ratio * given[LAST_MAP[1]][old] + shift
    if fresh := [f"{name} ({units[name]})" for name in config.task.targets if name not in shared]:
        pooling = f" with model.pooling={config.model.pooling}"
        log.warning("%s does not predict %s%s: the last map starts fresh.", artifact.reference, some(fresh), pooling)
    return dict(zip(LAST_MAP, (weight, bias), strict=True)) if shared else {}


def last_vectors(
    given: Mapping[str, Tensor],
    artifact: Artifact,
    config: RunConfig,
    scaling: Mapping[str, Scaling],
    units: Mapping[str, str],
) -> dict[str, Tensor]:
    """The last map of the vector head, so that vectors stay what they were under this run's scales. It starts fresh
    where those have another name or unit, and is taken as it is where neither model measures a scale.
    """
    if LAST_VECTORS not in given:
        return {}
    before = {target.name: target for target in vectors_of(artifact)}
    names = [name for name in scaling if name not in config.task.targets]
    if names != list(before) or any(before[name].unit != units[name] for name in names):
        return {}
    ratios = [before[name].scale / scaling[name].scale for name in names] or [1.0]
    return {LAST_VECTORS: given[LAST_VECTORS] * given[LAST_VECTORS].new_tensor(ratios)[:, None]}


def vectors_of(artifact: Artifact) -> list[Target]:
    """The vectors per atom that a model answers with."""
    return [target for target in artifact.manifest.targets if target.name not in artifact.config.task.targets]


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
