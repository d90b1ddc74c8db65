"""From the manifest of any older format to the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geomformer.errors import ArtifactError

FORMAT_VERSION = 1
"""Format that this version writes, and the newest it reads."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Step from format N to N + 1, on the raw manifest. Steps are never removed: `tests/artifacts` keeps one artifact of
every format."""


def upgrade(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """Climbs the ladder from the manifest's format to `FORMAT_VERSION`.

    Raises:
        ArtifactError: no or an unknown format, or one newer than this version reads.
    """
    version = raw.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise ArtifactError(f"{where}: expected an integer 'format_version', found {version!r}")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where} was written by a newer geomformer (format {version}, this one reads up to {FORMAT_VERSION}):"
            " update geomformer"
        )
    while version < FORMAT_VERSION:
        if version not in UPGRADES:
            raise ArtifactError(f"{where}: format {version} is unknown; formats up to {FORMAT_VERSION} can be read")
        raw = UPGRADES[version](dict(raw))
        version += 1
        raw["format_version"] = version
    return raw
