"""A prepared dataset on disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from geomformer.errors import DataError, nearest
from geomformer.prepared.cache import build_cache
from geomformer.prepared.schema import FORMAT_VERSION
from geomformer.prepared.split import PreparedSplit
from geomformer.prepared.storage import BUILDING, MANIFEST


class PreparedDataset:
    """A prepared dataset on disk.

    Attributes:
        path: its folder.
        manifest: the content of `manifest.json`.
        fingerprint: sha256 of the manifest, which lists the sha256 of every shard.
    """

    def __init__(self, path: Path) -> None:
        """Reads the manifest.

        Raises:
            DataError: there is no complete prepared dataset, or it is of a newer format.
        """
        self.path = path
        file = path / MANIFEST
        if not file.exists():
            raise _not_there(path)
        data = file.read_bytes()
        try:
            self.manifest: dict[str, Any] = json.loads(data)
            version = self.manifest["format_version"]
            self._splits: dict[str, dict[str, Any]] = dict(self.manifest["splits"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} is not the manifest of a prepared dataset ({error}).", "Prepare it again."
            ) from error
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version}; this geomformer reads up to {FORMAT_VERSION}.",
                "Please update geomformer.",
            )
        self.fingerprint = hashlib.sha256(data).hexdigest()

    @property
    def splits(self) -> dict[str, int]:
        """Rows per split, train and valid first."""
        names = sorted(self._splits, key=lambda name: (name != "train", name != "valid", name))
        return {name: int(self._splits[name]["rows"]) for name in names}

    def split(self, name: str) -> PreparedSplit:
        """Returns a split, after building its memory-mapped file on first use.

        Raises:
            DataError: there is no such split, or a shard is missing or damaged.
        """
        if name not in self._splits:
            raise DataError(
                f"Expected a split '{name}' in {self.path}, found {', '.join(self._splits)}."
                f"{nearest(name, self._splits)}"
            )
        return PreparedSplit(build_cache(self.path, self.fingerprint, name, self._splits[name]["files"]), name)


def _not_there(path: Path) -> DataError:
    command = f"geomformer preprocess {path.name or 'custom FILES'}"
    if (path / BUILDING).exists():
        return DataError(
            f"The prepared dataset in {path} is not finished: its preparation was interrupted.",
            "Run the same `geomformer preprocess` command again; it continues.",
        )
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        return DataError(
            f"Expected a prepared dataset, found no {MANIFEST} in {path}.",
            "Name a folder that `geomformer preprocess` wrote.",
        )
    return DataError(f"Expected a prepared dataset, found nothing at {path}.", f"Run `{command}` first, or set --data.")
