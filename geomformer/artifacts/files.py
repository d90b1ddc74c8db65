"""Files of an artifact folder: their names, checking them, reading manifest and configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from geomformer.artifacts.manifest import Manifest
from geomformer.artifacts.upgrade import upgrade
from geomformer.config.load import validate
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError, ConfigError
from geomformer.files import file_sha256

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
CARD = "README.md"
SELFTEST = "selftest.safetensors"
DOMAIN = "domain.safetensors"
"""What the model was trained on, for `inference.domain`; a model may lack it."""
REQUIRED = (WEIGHTS, CONFIG, CARD, SELFTEST)
"""Files beside the manifest; each must have its checksum in it."""


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of an artifact folder, of this or an older format.

    Raises:
        ArtifactError: it is missing, damaged, newer, lacks keys (which are named), or is that of a training run.
    """
    file = path / MANIFEST
    check_no_run(path)
    try:
        raw = json.loads(file.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is no model: it holds no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ArtifactError(f"{file}: expected a JSON object, found {type(raw).__name__}")
    try:
        manifest = Manifest.model_validate(upgrade(raw, str(file)))
    except ValidationError as error:
        raise ArtifactError(f"{file}: {explain(error)}") from error
    missing = [name for name in REQUIRED if name not in manifest.files]
    if missing:
        raise ArtifactError(f"{file}: 'files' lacks the checksum of {', '.join(missing)}")
    return manifest


def check_no_run(path: Path) -> None:
    """Raises ArtifactError for the folder of a training run, which names the model that the run saved."""
    if not (path / "checkpoints").is_dir():
        return
    try:
        saved = json.loads((path / "result.json").read_text(encoding="utf8"))["path"]
        hint = f"Its model: {saved}."
    except (OSError, ValueError, KeyError, TypeError):
        hint = f"It has saved no model yet; finish it: geomformer train --out {path} --resume."
    raise ArtifactError(f"{path} is the folder of a training run, no model.", hint)


def explain(error: ValidationError) -> str:
    """All complaints of pydantic as one sentence: which key, and what is wrong with it."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    )


def read_config(path: Path) -> RunConfig:
    """Reads the configuration of an artifact folder.

    Raises:
        ArtifactError: it is no valid configuration.
    """
    file = path / CONFIG
    try:
        values: Any = yaml.safe_load(file.read_text(encoding="utf8"))
        if not isinstance(values, dict):
            raise ArtifactError(f"{file}: expected sections, found {type(values).__name__}")
        return validate(values, str(file))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(f"{file} cannot be read: {error}") from error
    except ConfigError as error:
        raise ArtifactError(error.message, error.hint) from error


def file_problems(path: Path, manifest: Manifest) -> list[str]:
    """Says which files of the folder are missing or differ from their checksum."""
    problems = []
    for name, expected in sorted(manifest.files.items()):
        file = path / name
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif (found := file_sha256(file)) != expected:
            problems.append(f"{file} is damaged or was changed (expected sha256 {expected}, found {found})")
    return problems
