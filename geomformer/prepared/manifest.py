"""Reading `manifest.json`: what its readers rely on is checked once, here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geomformer.errors import DataError
from geomformer.prepared.schema import FORMAT_VERSION

_NUMBER, _TEXT, _TABLE = int, str, dict
_FILE = {"file": _TEXT, "sha256": _TEXT}


def read_manifest(file: Path) -> tuple[dict[str, Any], bytes]:
    """Returns the manifest of a prepared dataset, and its bytes.

    Raises:
        DataError: it is damaged, of a newer format, or lacks something that every dataset has.
    """
    data = file.read_bytes()
    try:
        manifest = json.loads(data)
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_manifest(file, f"{type(error).__name__}: {error}") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataError(
            f"{file.parent} has format_version {version}; this geomformer reads up to {FORMAT_VERSION}.",
            "Please update geomformer.",
        )
    problem = next(_problems(manifest), None)
    if problem is not None:
        raise _no_manifest(file, problem)
    return manifest, data


def _no_manifest(file: Path, problem: str) -> DataError:
    return DataError(f"{file} is not the manifest of a prepared dataset ({problem}).", "Prepare it again.")


def _problems(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from _lacking("it", manifest, {"dataset": _TEXT, "targets": _TABLE, "splits": _TABLE})
    if not manifest["splits"]:
        yield "it has no split"
    for name, split in manifest["splits"].items():
        yield from _lacking(f"split {name}", split, {"rows": _NUMBER, "files": list})
        for item in split["files"]:
            yield from _lacking(f"a file of split {name}", item, {**_FILE, "rows": _NUMBER})
            yield from _outside(item["file"])
    schemes = manifest.get("schemes", {})
    if schemes:
        yield from _lacking("its list of schemes", schemes, {str(manifest.get("default_scheme")): _TABLE})
        yield from _lacking("with schemes it", manifest["splits"], {"all": _TABLE})
        for name, scheme in schemes.items():
            keys = {"splits": _TABLE, "targets": _TABLE, "training_molecules_per_element": _TABLE}
            yield from _lacking(f"scheme {name}", scheme, {**_FILE, **keys})
            yield from _outside(scheme["file"])
            for split, entry in scheme["splits"].items():
                yield from _lacking(f"split {split} of scheme {name}", entry, {"rows": _NUMBER})


def _lacking(what: str, value: Any, keys: Mapping[str, type]) -> Iterator[str]:
    for key, kind in keys.items():
        if not isinstance(value, Mapping) or not isinstance(value.get(key), kind):
            yield f"{what} has no proper '{key}'"


def _outside(file: str) -> Iterator[str]:
    if Path(file).name != file:
        yield f"'{file}' is not the name of a file in its folder"
