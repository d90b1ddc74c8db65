"""A prepared dataset on disk."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

from geomformer.errors import DataError, nearest
from geomformer.prepared.cache import build_cache, cache_folder
from geomformer.prepared.manifest import read_manifest
from geomformer.prepared.schemes import ALL, build_rows, choose_scheme
from geomformer.prepared.split import PreparedSplit
from geomformer.prepared.storage import BUILDING, MANIFEST
from geomformer.records import ORBITAL_THEORIES, OrbitalMethod, Record, orbital_method

BY_MOLECULE = ("md17", "rmd17")
"""Datasets of several prepared ones, a folder for each molecule."""

NBODY_SWITCHES = {"isotropic": "isotropic_clip", "windows": "all_windows", "reversed": "time_reversed"}
"""Fields of `PrepareOptions` that make variants of `nbody`, by what they add to its name."""

SIMULATED: dict[str, tuple[str, ...]] = {
    "-".join(("nbody", *names)): tuple(NBODY_SWITCHES[name] for name in names)
    for count in range(len(NBODY_SWITCHES) + 1)
    for names in itertools.combinations(NBODY_SWITCHES, count)
}
"""Datasets that need no file, and the switches that make them."""


class PreparedDataset:
    """A prepared dataset on disk.

    Attributes:
        path: its folder.
        manifest: the content of `manifest.json`, statistics of train targets and elements being those of `scheme`.
        fingerprint: sha256 of the manifest, which lists the sha256 of every shard.
        scheme: how the rows are divided, where the dataset has split schemes.
    """

    def __init__(self, path: Path, scheme: str | None = None) -> None:
        """Reads the manifest.

        Args:
            path: folder of the dataset.
            scheme: name of a split scheme; None takes the dataset's default, if it has schemes at all.

        Raises:
            DataError: there is no complete prepared dataset, it is of a newer format, or it has no such scheme.
        """
        self.path = path
        file = path / MANIFEST
        if not file.exists():
            raise _not_there(path)
        self.manifest, data = read_manifest(file)
        self._splits: dict[str, dict[str, Any]] = dict(self.manifest["splits"])
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self.scheme = choose_scheme(self.manifest, scheme, path)
        if self.scheme is not None:
            found = self.manifest["schemes"][self.scheme]
            self._splits = dict(found["splits"])
            statistics = ("targets", "training_molecules_per_element")
            self.manifest = {**self.manifest, **{key: found[key] for key in statistics}}

    @property
    def schemes(self) -> tuple[str, ...]:
        """Names of the split schemes; () for a dataset that is divided in one way only."""
        return tuple(self.manifest.get("schemes", ()))

    @property
    def splits(self) -> dict[str, int]:
        """Rows per split, train and valid first."""
        names = sorted(self._splits, key=lambda name: (name != "train", name != "valid", name))
        return {name: int(self._splits[name]["rows"]) for name in names}

    @property
    def orbitals(self) -> OrbitalMethod:
        """Theory of the frontier orbitals, of records that have them."""
        chemistry = self.manifest.get("options", {}).get("chemistry", {})
        method: OrbitalMethod = orbital_method(chemistry.get("orbitals", "huckel"))
        return method

    def orbitals_lacking(self, method: OrbitalMethod, first: Record) -> str | None:
        """What a reader of orbitals of that method is told, or None where its first record shows that it has them."""
        if method == "none" or (first.orbital_energies is not None and self.orbitals == method):
            return None
        known = first.orbital_energies is not None
        has = f"those of {ORBITAL_THEORIES.get(self.orbitals, self.orbitals)}" if known else "none"
        return f"reads frontier orbitals of {ORBITAL_THEORIES[method]}, {self.path} has {has}."

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
        stored = name if self.scheme is None else ALL
        mapped = build_cache(self.path, self.fingerprint, stored, self.manifest["splits"][stored]["files"])
        if self.scheme is None:
            return PreparedSplit(mapped, name)
        folder = cache_folder(self.path, self.fingerprint)
        entry = self.manifest["schemes"][self.scheme]
        return PreparedSplit(mapped, name, build_rows(self.path, folder, self.scheme, entry, name))


def _not_there(path: Path) -> DataError:
    flags = (f"--{switch.replace('_', '-')}" for switch in SIMULATED.get(path.name, ()))
    dataset = "nbody" if path.name in SIMULATED else path.name or "custom FILES"
    command = " ".join(["geomformer preprocess", dataset, *flags])
    if path.parent.name in BY_MOLECULE:
        command = f"geomformer preprocess {path.parent.name} --molecule {path.name}"
    if (path / BUILDING).exists():
        return DataError(
            f"The prepared dataset in {path} is not finished: its preparation was interrupted.",
            "Run the same `geomformer preprocess` command again; it continues.",
        )
    inside = sorted(file.parent.name for file in path.glob(f"*/{MANIFEST}"))
    if inside:
        return DataError(
            f"Expected a prepared dataset, found a folder of several, {path}: {', '.join(inside)}.",
            f"Name one of them, such as {path / inside[0]}.",
        )
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        return DataError(
            f"Expected a prepared dataset, found no {MANIFEST} in {path}.",
            "Name a folder that `geomformer preprocess` wrote.",
        )
    return DataError(f"Expected a prepared dataset, found nothing at {path}.", f"Run `{command}` first, or set --data.")
