"""The folder of an ablation belongs to one plan with one set of settings: what is in it can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomformer.ablation.job import settings_of
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, DataError
from geomformer.files import check_writable, locked, write_atomic

FORMAT_VERSION = 1
MANIFEST = "ablation.json"
SHARED = ("plan", "quick", "data", "limit", "threads", "device")
_ANOTHER = "Name another --out, or use the same options."


@dataclass(frozen=True)
class Settings:
    """What all runs of a folder share.

    Attributes:
        plan: name of the plan.
        quick: whether its quick changes are in.
        data: fingerprint of the dataset.
        limit: rows evaluated of each split.
        threads, device: that runs use; the kind of device without its number.
        variants: configurations by name.
    """

    plan: str
    quick: bool
    data: str
    limit: int | None
    threads: int
    device: str
    variants: Mapping[str, RunConfig]

    def plain(self) -> dict[str, Any]:
        variants = {name: settings_of(config) for name, config in self.variants.items()}
        return {
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in SHARED},
            "variants": variants,
        }


def claim(out: Path, settings: Settings) -> None:
    """Notes the settings in a new folder, or checks that they are those of the runs that it holds.

    Variants and seeds may be added.

    Raises:
        ConfigError: the folder is of another plan, of other settings, or a variant differs; it is named.
        DataError: the folder cannot be written, or its notes cannot be read.
    """
    check_writable(out)
    path = out / MANIFEST
    with locked(out / f"{MANIFEST}.lock"):
        wanted = settings.plain()
        if path.exists():
            known = read_manifest(path)
            check_same(out, known, wanted)
            wanted["variants"] = known["variants"] | wanted["variants"]
        write_atomic(path, json.dumps(wanted, indent=2) + "\n")


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
        newer = known["format_version"] > FORMAT_VERSION
        lacking = [] if newer else [name for name in (*SHARED, "variants") if name not in known]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Name another --out.") from error
    if newer:
        found = known["format_version"]
        raise DataError(f"{path} is of format {found}, newer than {FORMAT_VERSION}.", "Update geomformer.")
    if lacking or not isinstance(known["variants"], dict):
        raise DataError(f"{path} cannot be read: expected {', '.join(lacking or ['variants'])}.", "Name another --out.")
    return known


def check_same(out: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares what a folder was begun with and what is asked for now."""
    if known["plan"] != wanted["plan"]:
        raise ConfigError(f"{out} holds plan {known['plan']}, found {wanted['plan']}.", "Name another --out.")
    if known["quick"] != wanted["quick"]:
        kind = "quick" if known["quick"] else "full"
        raise ConfigError(f"{out} holds the {kind} plan {known['plan']}.", "Name another --out for the other one.")
    if known["data"] != wanted["data"]:
        raise ConfigError(f"{out} holds runs on other data than these.", "Name another --out.")
    for key in ("limit", "threads", "device"):
        if known[key] != wanted[key]:
            raise ConfigError(f"{out} holds runs with {key} {known[key]}, found {wanted[key]}.", _ANOTHER)
    for name, values in wanted["variants"].items():
        found = differences(known["variants"].get(name, values), values)
        if found:
            raise ConfigError(f"{out} holds runs of variant {name} with {'; '.join(found)}.", _ANOTHER)


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key that differs, as "section.key 1, found 2"."""
    found = []
    for key in dict.fromkeys([*known, *wanted]):
        before, now = known.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} {before}, found {now}")
    return found
