"""The folder of a prepared dataset: names of its files, and whether what lies there may be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomformer.errors import ConfigError, DataError
from geomformer.records import orbital_method

MANIFEST = "manifest.json"
REJECTED = "rejected.parquet"
BUILDING = ".building"
"""Folder inside with the state of an unfinished dataset."""

IDENTITY = "identity.json"
"""File in `BUILDING`: what the dataset is made of."""

CACHE = ".cache"

ORBITALS = "options.chemistry.orbitals"


def check_folder(out: Path) -> None:
    """Checks, before long work starts, that a folder is free for a prepared dataset, or holds one.

    Raises:
        ConfigError: it holds something else, or is a file.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"Expected a folder, found the file {out}.", "Choose another --out.")
    if not out.exists() or (out / MANIFEST).exists() or (out / BUILDING / IDENTITY).exists():
        return
    found = next((item.name for item in sorted(out.iterdir()) if item.name not in (BUILDING, CACHE)), None)
    if found is not None:
        raise ConfigError(
            f"Expected an empty folder or a prepared dataset, found other files in {out}, such as {found}.",
            "Choose another --out.",
        )


def check_identity(known: Path, identity: Mapping[str, Any]) -> None:
    """Checks that the dataset in a folder is the one that is to be made.

    Args:
        known: its manifest, or its identity while it is unfinished.
        identity: everything that decides the content of the dataset.

    Raises:
        ConfigError: it was made from something else.
        DataError: the file is damaged.
    """
    try:
        found = json.loads(known.read_text(encoding="utf-8"))
        found["targets"] = {
            name: target if isinstance(target, str) else target["unit"] for name, target in found["targets"].items()
        }
        there = _flatten({key: found.get(key) for key in identity})
        if ORBITALS in there:
            there[ORBITALS] = orbital_method(there[ORBITALS])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"Expected JSON in {known}: {error}.", "Use --overwrite or another --out.") from error
    now = _flatten(identity)
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {now.get(key, 'absent')} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key, "absent") != now.get(key, "absent")
    ]
    if differing:
        folder = known.parent if known.name == MANIFEST else known.parent.parent
        raise ConfigError(
            f"{folder} holds a dataset that was prepared differently ({'; '.join(differing[:5])}).",
            "Use --overwrite to replace it, or another --out.",
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, Mapping) and value:
        parts = [_flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {prefix: value}
