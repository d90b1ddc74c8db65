"""OC20, tasks IS2RE and IS2RS: adsorbates on catalyst surfaces, initial and relaxed structures and their energies."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from geomformer.datasets.oc20.records import TARGETS, System, build
from geomformer.datasets.oc20.sources import ARCHIVE, SIZES, Part, check_room, describe, find_parts, warn_about_copies
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import Progress, prepare_rows
from geomformer.datasets.raw.download import entries, raw_files
from geomformer.datasets.rows import Limit
from geomformer.errors import ConfigError, nearest
from geomformer.io.lmdb import close_files, count_values
from geomformer.io.structures import Relaxation, read_relaxation, relaxations
from geomformer.prepared.folder import check_folder
from geomformer.prepared.storage import DatasetDescription

logger = logging.getLogger(__name__)

ADSORPTION = "RPBE (VASP), adsorption energies"
TOTAL = "RPBE (VASP), total energies"
BYTES_PER_SYSTEM = 2200.0


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares OC20 for both tasks: `positions` are the initial, `target_positions` the relaxed structure.

    Relaxed atoms are moved by lattice vectors next to their initial places (`oc20_records.nearest_image`). Positions
    keep the frame of the release, since the cell does. Test splits have no relaxed structures and no energies.
    Of a relaxation trajectory the first and the last frame are taken, with total energies; without tags fixed atoms
    get 0 and others 1.

    Args:
        raw: the official tree or any folder above it, one `data.lmdb`, the official archive, or relaxations as extxyz
            or traj; nothing: `DATA_ROOT/raw/oc20`, where the archive is downloaded to if nothing is there. Of an
            archive the members that are needed are unpacked to `DATA_ROOT/raw/oc20`.
        out: folder of the prepared dataset.
        data_root: root of raw and prepared data.
        options: `size` is the train split's, the others are taken from the full release.
        progress: called after every row.

    Returns:
        `out`.

    Raises:
        ConfigError: there is no such size, or `out` holds something else.
        DataError: the data are missing, damaged or refused.
    """
    size = options.size or "all"
    if size not in SIZES:
        raise ConfigError(f"Expected size as one of {', '.join(SIZES)}, found '{size}'.{nearest(size, SIZES)}")
    check_folder(out)
    folder = data_root / "raw" / "oc20"
    if not raw and not entries(folder):
        check_room(folder, size)
    parts = find_parts(raw_files(raw, [ARCHIVE], folder), size, folder)
    trajectories = {part.split: _relaxations(part) for part in parts}
    counts = {part.split: len(trajectories[part.split]) + sum(map(count_values, _lmdbs(part))) for part in parts}
    has_lmdbs = any(_lmdbs(part) for part in parts)
    sources = describe(parts, out)
    warn_about_copies(sources)
    description = DatasetDescription(
        dataset="oc20",
        targets=TARGETS,
        sources=sources,
        options={"size": size, "limit": options.limit, "relaxed": "nearest image", "energies": "as in the source"},
        level_of_theory=ADSORPTION if has_lmdbs else TOTAL,
    )
    _warn_about_tags([found for group in trajectories.values() for found in group[:1]])
    total = sum(min(options.limit or count, count) for count in counts.values())
    rows = _rows(parts, trajectories, Limit(options.limit))
    try:
        return prepare_rows(
            rows, out, description, options, build=build, total=total, bytes_per_row=BYTES_PER_SYSTEM, progress=progress
        )
    finally:
        close_files()


def _lmdbs(part: Part) -> list[Path]:
    return [path for path in part.files if path.suffix == ".lmdb"]


def _relaxations(part: Part) -> list[Relaxation]:
    return [found for path in part.files if path.suffix != ".lmdb" for found in relaxations(path)]


def _rows(parts: Sequence[Part], trajectories: dict[str, list[Relaxation]], limit: Limit) -> Iterator[System]:
    index = 0
    for part in parts:
        for path in _lmdbs(part):
            for key in range(count_values(path)):
                if limit(part.split):
                    yield System(index, f"{part.split}/{path.stem}/{key}", part.split, str(path), str(key))
                index += 1
        for found in trajectories[part.split]:
            if limit(part.split):
                yield System(index, found.name, part.split, relaxation=found)
            index += 1


def _warn_about_tags(first: Sequence[Relaxation]) -> None:
    for found in first:
        if "tags" not in read_relaxation(found):
            logger.warning("%s has no tags: fixed atoms get 0, all others 1; adsorbates are not told", found.path)
