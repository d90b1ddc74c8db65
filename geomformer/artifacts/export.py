"""Artifacts to pass on: a folder or a zip archive."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from geomformer.artifacts.files import MANIFEST
from geomformer.errors import ConfigError

if TYPE_CHECKING:
    from geomformer.artifacts.store import Artifact

KINDS = ("folder", "zip")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Earliest time a zip archive can hold: the same artifact gives the same bytes."""


def export_artifact(artifact: Artifact, destination: Path, kind: str = "zip") -> Path:
    """Copies an artifact out of the store.

    Args:
        artifact: what to copy; only the files its manifest names.
        destination: new folder, or new file. A zip archive put into an existing folder is named NAME-VERSION.zip.
        kind: "folder", or "zip": holds NAME/VERSION/, so that unpacking it in a store installs the model.

    Returns:
        What was written.

    Raises:
        ConfigError: unknown kind, the destination exists, or it cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f"models can be exported as {' or '.join(KINDS)}, not as '{kind}'")
    manifest = artifact.manifest
    if kind == "zip" and destination.is_dir():
        destination = destination / f"{manifest.name}-{manifest.version}.zip"
    if destination.exists():
        raise ConfigError(f"{destination} exists already", "Give another path, or remove it first.")
    temporary = destination.with_name(f".{destination.name}-{uuid4().hex}")
    names = sorted([MANIFEST, *manifest.files])
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if kind == "zip":
            _write_zip(artifact, names, temporary)
        else:
            temporary.mkdir()
            for name in names:
                shutil.copyfile(artifact.path / name, temporary / name)
        os.rename(temporary, destination)  # noqa: PTH104 - must not replace a folder that came in between
    except OSError as error:
        raise ConfigError(f"{destination} cannot be written: {error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
    return destination


def _write_zip(artifact: Artifact, names: list[str], path: Path) -> None:
    """Stores without compression: weights do not shrink, and zlib's output differs between versions."""
    manifest = artifact.manifest
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{manifest.name}/{manifest.version}/{name}", _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            with (artifact.path / name).open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)
