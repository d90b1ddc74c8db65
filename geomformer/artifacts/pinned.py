"""Checksums of the bundled models. A checksum inside an artifact shows integrity; one in the code shows origin."""

from __future__ import annotations

from pathlib import Path

from geomformer.artifacts.files import MANIFEST
from geomformer.errors import ArtifactError
from geomformer.files import file_sha256

PINNED: dict[str, str] = {
    "gap-geomformer@6": "744629cd09340e5c1c915297eefea8878825432a5804a80446a65b8abca65b83",
    "gap-geomformer-xtb@3": "6ef94b902d567da3ede517cf4e49725e84a6fad10335ae784204e9f4b0452892",
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
