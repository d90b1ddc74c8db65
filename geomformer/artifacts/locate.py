"""From what a user writes (`NAME`, `NAME@VERSION`, a path, nothing) to an artifact folder. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

import geomformer
from geomformer.artifacts.files import MANIFEST
from geomformer.artifacts.manifest import NAME
from geomformer.errors import ArtifactError, nearest

BUNDLED = Path(geomformer.__file__).parent / "bundled"
DEFAULT_MODEL, XTB_MODEL = "gap-geomformer", "gap-geomformer-xtb"


def default_root() -> Path:
    """The local store: `$GEOMFORMER_MODELS`, else `./models`."""
    return Path(os.environ.get("GEOMFORMER_MODELS") or "models")


def bundled_root() -> Path:
    """The store of the models that ship with the package."""
    return BUNDLED


def is_bundled(path: Path) -> bool:
    return path.resolve().is_relative_to(bundled_root().resolve())


def names_in(root: Path) -> list[str]:
    """Names with at least one version in a store."""
    if not root.is_dir():
        return []
    return sorted(item.name for item in root.iterdir() if NAME.fullmatch(item.name) and versions_of(item.name, root))


def versions_of(name: str, root: Path) -> list[int]:
    """Versions of a model in a store, rising; other entries are none."""
    folder = root / name
    if not folder.is_dir():
        return []
    return sorted(int(item.name) for item in folder.iterdir() if is_version(item.name))


def is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and not text.startswith("0")


def references_in(root: Path) -> list[str]:
    return [f"{name}@{version}" for name in names_in(root) for version in versions_of(name, root)]


def check_name(name: str) -> None:
    """Raises ArtifactError for a name that could leave the store or be mistaken for a path."""
    if not NAME.fullmatch(name):
        raise ArtifactError(
            f"'{name}' is no name for a model",
            "Names hold letters, digits, '.', '_' and '-', and start with a letter or digit.",
        )


def resolve(reference: str | Path | None, root: Path) -> Path:
    """Finds an artifact folder: a path first, then the local store, then the bundled models.

    Args:
        reference: path of an artifact folder or of the folder of its versions (the highest one), NAME (its highest
            version), NAME@VERSION, or None for the bundled default model.
        root: the local store.

    Raises:
        ArtifactError: there is none; what exists and the nearest name are listed.
    """
    if reference is None:
        return _named(DEFAULT_MODEL, None, [bundled_root()])
    path = Path(reference)
    if (path / MANIFEST).is_file():
        return path
    if len(path.parts) > 1 and (versions := versions_of(path.name, path.parent)):
        return path / str(versions[-1])
    if isinstance(reference, Path) or not NAME.fullmatch(reference.partition("@")[0]):
        raise ArtifactError(
            f"{reference} is neither a model folder (one with {MANIFEST}) nor a name of the form NAME or NAME@VERSION",
            _existing([root, bundled_root()]),
        )
    name, at, version = reference.partition("@")
    if at and not is_version(version):
        raise ArtifactError(f"'{reference}': expected NAME@VERSION with a version from 1, found '{version}'")
    return _named(name, int(version) if at else None, [root, bundled_root()])


def best_bundled() -> Path:
    """The bundled model that predicts where none is named: the one with orbitals of GFN1-xTB, which errs less on
    molecules like those of PCQM4Mv2, where the package for them is installed.
    """
    from geomformer.chem import xtb  # late: numpy, which other commands do without

    return _named(XTB_MODEL if xtb.is_installed() else DEFAULT_MODEL, None, [bundled_root()])


def _named(name: str, version: int | None, roots: list[Path]) -> Path:
    for root in roots:
        versions = versions_of(name, root)
        if versions and version is None:
            return root / name / str(versions[-1])
        if version in versions:
            return root / name / str(version)
    wanted = name if version is None else f"{name}@{version}"
    known = [item for root in roots for item in names_in(root)]
    hint = "" if name in known else nearest(name, known)
    raise ArtifactError(
        f"there is no model '{wanted}' in {roots[0]} or among the bundled ones.{hint}", _existing(roots)
    )


def _existing(roots: list[Path]) -> str:
    found = [reference for root in roots for reference in references_in(root)]
    return f"Models: {', '.join(dict.fromkeys(found))}." if found else "There are no models yet: train one first."
