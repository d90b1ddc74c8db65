"""Checksums of the bundled models. A checksum inside an artifact shows integrity; one in the code shows origin."""

from __future__ import annotations

from pathlib import Path

from geomformer.artifacts.files import MANIFEST
from geomformer.errors import ArtifactError
from geomformer.files import file_sha256

PINNED: dict[str, str] = {
    "gap-geomformer@6": "623d4dae009f2a4f0f00c76afdf5847c859b7427f6469339ce560946f5ae793d",
    "gap-geomformer-xtb@3": "b2ecf205a68f02cdd27c1e659237857464d4f507d934e6b738c0e6b7802d4f4f",
}
"""NAME@VERSION of every bundled model -> sha256 of its manifest.json, which holds those of all its other files."""


def pin_of(path: Path) -> str:
    """Returns the value that `PINNED` must have for the artifact folder `path`."""
    return file_sha256(path / MANIFEST)


def check_pin(reference: str, path: Path) -> None:
    """Refuses a bundled model that is not the one this version was released with.

    Raises:
        ArtifactError: its manifest differs from the pinned one, or there is no pin.
    """
    expected = PINNED.get(reference)
    if expected is None:
        raise ArtifactError(
            f"bundled model {reference} ({path}) has no checksum in this version of geomformer",
            "Reinstall geomformer.",
        )
    found = pin_of(path)
    if found != expected:
        raise ArtifactError(
            f"bundled model {reference}: {path / MANIFEST} is not the one this version was released with"
            f" (expected sha256 {expected}, found {found})",
            "Reinstall geomformer.",
        )
