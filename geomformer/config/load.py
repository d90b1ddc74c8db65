"""Presets, YAML files and `section.key=value` overrides -> a checked `RunConfig`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from geomformer.config.model import ARCHITECTURES, CONFIGS, architecture_of
from geomformer.config.run import RunConfig, TaskConfig
from geomformer.errors import ConfigError, nearest

SIZES = frozenset({"num_layers", "embed_dim", "num_heads", "num_kernels"})
"""Keys whose good values depend on the architecture."""

PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(source: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Builds a configuration.

    Args:
        source: name of a preset, or path of a YAML file (which may say `extends: PRESET`, or another file beside it).
        overrides: `section.key=value`, values in YAML syntax; later ones win. `model.architecture=NAME` puts another
            network in place of that of the source before the others are set, see `choose_architecture`.

    Raises:
        ConfigError: unknown preset, key or value; the nearest known name is suggested.
    """
    values = read_source(str(source))
    apply_overrides(values, overrides)
    return validate(values, f"configuration '{source}'")


def choose_architecture(values: dict[str, Any], architecture: str) -> None:
    """Puts another network in place of the one that `values` describe: of the `model` section stay the
    inputs and outputs that the other has too; sizes and what is its own take its defaults.

    Raises:
        ConfigError: there is no such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(no_architecture(architecture))
    model = values.get("model", {})
    if isinstance(model, Mapping) and architecture_of(model) != architecture:
        known = CONFIGS[architecture].model_fields.keys() - SIZES
        if "images" not in known and model.get("images", "none") != "none":
            raise ConfigError(
                f"Architecture {architecture} reads no periodic systems, which this configuration is for.",
                "Choose geomformer, painn, torchmd-et or harmonics.",
            )
        kept = {key: value for key, value in model.items() if key in known}
        values["model"] = kept | {"architecture": architecture}


def no_architecture(found: str) -> str:
    expected = ", ".join(ARCHITECTURES)
    return f"model.architecture: expected one of {expected}, found '{found}'.{nearest(found, ARCHITECTURES)}"


def validate(values: Mapping[str, Any], where: str) -> RunConfig:
    """Checks a plain mapping against the sections; the network gets one scalar per target of the task, and no vector
    where the vectors are the gradient of the scalar.
    """
    try:
        return RunConfig.model_validate(with_outputs(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: " + "; ".join(explain(item) for item in error.errors())) from error


def with_outputs(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same values with the outputs of the network that the task asks for, if there is such a task."""
    model = values.get("model", {})
    try:
        task = TaskConfig.model_validate(values.get("task", {}))
    except ValidationError:
        return values  # the whole is validated next, and says why
    if not isinstance(model, Mapping):
        return values
    outputs = {"num_scalars": len(task.targets)}
    if task.differentiates and model.get("passes", 1) == 1:  # several need the vector, and are refused as a whole
        outputs["num_vectors"] = 0
    return {**values, "model": {**model, **outputs}}


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def read_source(source: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads a preset or a file and everything it extends, without checking it."""
    if source in extended_by:
        raise ConfigError(f"Configurations extend each other in a circle: {' -> '.join([*extended_by, source])}.")
    path = PRESETS / f"{source}.yaml" if source in preset_names() else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"'{source}' is neither a preset nor a configuration file.{nearest(source, preset_names())}",
            f"Presets: {', '.join(preset_names())}.",
        )
    values = read_mapping(path, "sections (task, model, data, optim, train)")
    values = {key: {} if value is None and key in section_names() else value for key, value in values.items()}
    base = str(values.pop("extends", None) or "")
    if base not in preset_names() and (path.parent / base).is_file():
        base = os.path.normpath(path.parent / base)
    merged = read_source(base, (*extended_by, source)) if base else {}
    change(merged, values)
    if path.parent == PRESETS:
        merged["preset"] = source
    return merged


def read_mapping(path: Path, expected: str) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        ConfigError: it is not valid, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected {expected}, found {type(values).__name__}")
    return values


def change(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Applies sections of changes in place; one that names another architecture puts it there first."""
    model = changes.get("model")
    if "model" in values and isinstance(model, Mapping) and "architecture" in model:
        choose_architecture(values, str(model["architecture"]))
    merge(values, changes)


def merge(base: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Puts the values of `update` into `base`, section by section; what changes there later changes no `update`."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Sets every `section.key=value` in place. The architecture comes first wherever it stands: it would take other
    keys of the network away again.
    """
    for override in sorted(overrides, key=lambda text: text.partition("=")[0].strip() != "model.architecture"):
        apply_override(values, override)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in place."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) != 2 or not all(keys):
        raise ConfigError(f"--set expects section.key=value, found '{override}'", "Example: --set train.max_steps=1000")
    section, key = keys
    if section not in section_names():
        raise ConfigError(f"--set {override}: there is no section '{section}'.{nearest(section, section_names())}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    if isinstance(value, str) and is_float(value):
        value = float(value)  # YAML 1.1 reads 1e-4 as text
    if (section, key) == ("model", "architecture"):
        choose_architecture(values, str(value))
        return
    there = values.setdefault(section, {})
    if isinstance(there, dict):  # anything else is `validate`'s to complain about
        there[key] = value


def is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def section_names() -> list[str]:
    return [name for name in RunConfig.model_fields if section_model(name) is not None]


def section_model(name: str) -> type[BaseModel] | None:
    """The class of a section, of several the first one; None where there is no such section."""
    annotation = RunConfig.model_fields[name].annotation if name in RunConfig.model_fields else None
    candidates = [annotation, *(get_args(item) or (item,) for item in get_args(annotation))]
    flat = [item[0] if isinstance(item, tuple) else item for item in candidates]
    return next((item for item in flat if isinstance(item, type) and issubclass(item, BaseModel)), None)


def explain(error: Any) -> str:
    """One pydantic complaint as a sentence."""
    path = [str(part) for part in error["loc"]]
    section: type[BaseModel] | None = section_model(path[0]) if len(path) > 1 else RunConfig
    architecture = None
    if path[:1] == ["model"] and len(path) > 1:  # then comes the architecture by which the section was read
        architecture = path.pop(1)
        section = CONFIGS[architecture]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        others = [name for name, other in CONFIGS.items() if architecture and path[-1] in other.model_fields]
        if others:
            return f"unknown key '{where}': architecture {architecture} has none, only {', '.join(others)}."
        known = list(section.model_fields) if section else []
        return f"unknown key '{where}'.{nearest(path[-1], known)}"
    if error["type"] == "union_tag_invalid":
        return no_architecture(str(error["ctx"]["tag"]))
    if error["type"] == "union_tag_not_found":
        return f"{where}: expected keys with values, found {error['input']!r}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict | BaseModel) else f", found {error['input']!r}"
    return f"{where}: {message}{found}" if where else message + found
