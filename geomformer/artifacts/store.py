"""The store of trained models: ROOT/NAME/VERSION/, written once and never changed. Loads torch only for networks."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import ValidationError

import geomformer
from geomformer.artifacts.card import model_card
from geomformer.artifacts.export import export_artifact
from geomformer.artifacts.files import (
    CARD,
    CONFIG,
    DOMAIN,
    MANIFEST,
    SELFTEST,
    WEIGHTS,
    explain,
    file_problems,
    read_config,
    read_manifest,
)
from geomformer.artifacts.locate import (
    bundled_root,
    check_name,
    default_root,
    is_bundled,
    names_in,
    resolve,
    versions_of,
)
from geomformer.artifacts.manifest import Inputs, Manifest, Target, plain
from geomformer.artifacts.pinned import check_pin
from geomformer.artifacts.upgrade import FORMAT_VERSION
from geomformer.config.load import to_yaml
from geomformer.config.run import RunConfig
from geomformer.errors import ArtifactError
from geomformer.files import file_sha256, sync_folder, write_durable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geomformer.records import Batch

__all__ = [
    "Artifact",
    "ArtifactSummary",
    "default_root",
    "export_artifact",
    "list_artifacts",
    "load_artifact",
    "resolve",
    "save_artifact",
]

_PACKAGES = ("torch", "numpy", "rdkit", "safetensors")
LIMITS = "Where not to trust it"


@dataclass
class Artifact:
    """A trained model on disk, its checksums verified when it was loaded."""

    path: Path
    manifest: Manifest
    config: RunConfig

    @property
    def reference(self) -> str:
        """NAME@VERSION."""
        return self.manifest.reference

    @property
    def facts(self) -> dict[str, Any]:
        """What `save_artifact` is told of a model's making, for a copy of it."""
        names = ("targets", "inputs", "elements", "dataset", "training")
        return {name: getattr(self.manifest, name) for name in names}

    def model(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
        """Builds the network in eval mode, in float32 unless `dtype` says otherwise.

        Raises:
            ArtifactError: the weights are damaged or do not fit the configuration.
        """
        from geomformer.artifacts.weights import load_network, read_tensors

        path = self.path / WEIGHTS
        return load_network(self.config.model, read_tensors(path), str(path)).to(device=device, dtype=dtype)


@dataclass(frozen=True)
class ArtifactSummary:
    """One line of a listing.

    Attributes:
        reference: NAME@VERSION, after the folder.
        path: the folder.
        source: "local" or "bundled".
        manifest: None when it cannot be read.
        problem: why the model cannot be used, else None. Checksums are `verify`'s.
    """

    reference: str
    path: Path
    source: str
    manifest: Manifest | None
    problem: str | None = None


def save_artifact(
    root: Path,
    name: str,
    model: nn.Module,
    config: RunConfig,
    *,
    targets: Sequence[Target],
    inputs: Inputs,
    elements: Mapping[str, int],
    dataset: Mapping[str, Any],
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
    selftest_batch: Batch,
    card: str | Mapping[str, str] | None = None,
    weights_dtype: str = "float32",
    domain: bytes | None = None,
) -> Artifact:
    """Saves a model as the next free version of `name`.

    Everything is written to a temporary folder, then renamed: a version is there whole or not at all, and two savers
    get two versions. Versions of bundled models count as taken: one reference never means two models.

    Args:
        root: the store; made when missing.
        name: letters, digits, `.`, `_`, `-`.
        model: the network that `config.model` describes; left as it is.
        config: resolved configuration of the run.
        targets: in the order of the network's scalars.
        inputs: what the model was trained on.
        elements: training molecules per element symbol.
        dataset, training, metrics: summaries for manifest and card; numpy numbers are welcome.
        selftest_batch: a few small systems.
        card: Markdown on where not to trust the model, or further sections of the card by heading.
        weights_dtype: "float32", "bfloat16" or "float16", on disk.
        domain: `inference.domain.Domain.to_bytes` of the training molecules; without, `predict` cannot judge rows.

    Raises:
        ArtifactError: bad name, weights that are not finite or do not fit `config`, or the store cannot be written.
    """
    check_name(name)
    summaries = {"elements": elements, "dataset": dataset, "training": training, "metrics": metrics}
    fields = _fields(name, config, targets, inputs) | {key: plain(value) for key, value in summaries.items()}
    sections = {LIMITS: card} if isinstance(card, str) else card
    with _temporary_folder(root) as folder:
        _write_network(folder, model, config, selftest_batch, weights_dtype)
        write_durable(folder / CONFIG, to_yaml(config))
        if domain is not None:
            write_durable(folder / DOMAIN, domain)
        fields["files"] = {file.name: file_sha256(file) for file in folder.iterdir()}
        while True:
            manifest = _describe(folder, fields, _next_version(root, name), config, sections)
            path = root / name / str(manifest.version)
            if _claim(folder, path):
                return Artifact(path, manifest, config)


def _fields(name: str, config: RunConfig, targets: Sequence[Target], inputs: Inputs) -> dict[str, Any]:
    """The part of a manifest that says what the model is."""
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "task": config.task.name,
        "architecture": config.model.architecture,
        "targets": tuple(targets),
        "answer": config.task.answer or next(iter(config.task.targets), None),
        "inputs": inputs,
        "software": _software(),
    }


def load_artifact(reference: str | Path | None, root: Path | None = None) -> Artifact:
    """Finds a model and verifies its checksums; those of bundled models are pinned in the code.

    Args:
        reference: see `resolve`.
        root: the local store; `default_root()` if None.

    Raises:
        ArtifactError: no such model, a newer format, or a file that is missing, damaged or changed (it is named).
    """
    path = resolve(reference, default_root() if root is None else root)
    if is_bundled(path):
        check_pin(_reference_of(path), path)
    manifest = read_manifest(path)
    problems = file_problems(path, manifest)
    if problems:
        raise ArtifactError(f"model {manifest.reference}: {'; '.join(problems)}", "Copy or download the model again.")
    return Artifact(path, manifest, read_config(path))


def list_artifacts(root: Path | None = None) -> list[ArtifactSummary]:
    """Lists local models, then bundled ones, by name and version; broken ones with their problem."""
    local = default_root() if root is None else root
    found = [_summary(path, "local") for path in _folders(local)]
    if local.resolve() == bundled_root().resolve():
        return [_summary(path, "bundled") for path in _folders(local)]
    return found + [_summary(path, "bundled") for path in _folders(bundled_root())]


def _folders(root: Path) -> Iterator[Path]:
    for name in names_in(root):
        yield from (root / name / str(version) for version in versions_of(name, root))


def _summary(path: Path, source: str) -> ArtifactSummary:
    manifest, problem = None, None
    try:
        if source == "bundled":
            check_pin(_reference_of(path), path)
        manifest = read_manifest(path)
        missing = [file for file in manifest.files if not (path / file).is_file()]
        problem = f"{', '.join(missing)} missing" if missing else None
    except (ArtifactError, OSError) as error:
        problem = str(error)
    return ArtifactSummary(_reference_of(path), path, source, manifest, problem)


def _reference_of(path: Path) -> str:
    path = path.resolve()
    return f"{path.parent.name}@{path.name}"


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    folder = root / f".saving-{uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise ArtifactError(f"the model cannot be saved in {root}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_network(folder: Path, model: nn.Module, config: RunConfig, batch: Batch, dtype: str) -> None:
    """Writes weights and self-test; the latter comes from the weights as read back, in their type on disk."""
    from geomformer.artifacts.selftest import selftest_bytes
    from geomformer.artifacts.weights import load_network, read_tensors, weights_to_bytes

    path = folder / WEIGHTS
    write_durable(path, weights_to_bytes(model.state_dict(), dtype))
    stored = load_network(config.model, read_tensors(path), "the model")
    write_durable(folder / SELFTEST, selftest_bytes(stored, batch))


def _describe(
    folder: Path, fields: dict[str, Any], version: int, config: RunConfig, sections: Mapping[str, str] | None
) -> Manifest:
    """Writes card and manifest for one version number."""
    try:
        manifest = Manifest(**fields, version=version)
        write_durable(folder / CARD, model_card(manifest, config, sections))
        files = {**manifest.files, CARD: file_sha256(folder / CARD)}
        manifest = Manifest.model_validate({**manifest.model_dump(), "files": dict(sorted(files.items()))})
    except ValidationError as error:
        raise ArtifactError(f"model '{fields['name']}' cannot be described: {explain(error)}") from error
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_durable(folder / MANIFEST, f"{text}\n")
    sync_folder(folder)
    return manifest


def _next_version(root: Path, name: str) -> int:
    return max([*versions_of(name, root), *versions_of(name, bundled_root())], default=0) + 1


def _claim(folder: Path, path: Path) -> bool:
    """Renames `folder` to `path`; False if another saver has that version by now."""
    path.parent.mkdir(exist_ok=True)
    try:
        os.rename(folder, path)  # noqa: PTH104 - Path.rename is the same; named for what it promises: atomic
    except OSError:
        if path.exists():
            return False
        raise
    sync_folder(path.parent)
    return True


def _software() -> dict[str, str]:
    versions = {"geomformer": geomformer.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
