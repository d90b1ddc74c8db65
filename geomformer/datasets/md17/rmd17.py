"""rMD17: MD17 recomputed with tight convergence, ten molecules, with published splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from geomformer.datasets.md17.trajectories import Dataset, choose_molecules, find_files, prepare_trajectories
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import Progress
from geomformer.datasets.raw.archives import save_member, tar_members
from geomformer.datasets.raw.download import RemoteFile, entries, raw_files
from geomformer.errors import ConfigError, DataError, nearest

FRAMES = {
    "aspirin": 100_000,
    "azobenzene": 99_988,
    "benzene": 100_000,
    "ethanol": 100_000,
    "malonaldehyde": 100_000,
    "naphthalene": 100_000,
    "paracetamol": 100_000,
    "salicylic": 100_000,
    "toluene": 100_000,
    "uracil": 100_000,
}
"""Frames of every molecule."""

RMD17 = Dataset(name="rmd17", frames=FRAMES, level_of_theory="PBE/def2-SVP", other_prefix="md17_", aliases={})

ARCHIVE = RemoteFile(
    "rmd17.tar.bz2",
    "https://archive.materialscloud.org/record/file?filename=rmd17.tar.bz2&record_id=466",
    size=1_000_000_000,
    mirrors=("https://figshare.com/ndownloader/files/23950376",),
)
_ARCHIVES = (".tar.bz2", ".tar.gz", ".tgz", ".tar")


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares rMD17, every molecule as a dataset of its own in OUT/MOLECULE.

    Energies (kcal/mol) and forces (kcal/mol/Angstrom) stay as they are. `options.seed` is the number of the published
    split, from 1 to 5 (1 by default): of its 1,000 train frames 950 train and 50 validate, its 1,000 test frames test,
    and all other frames are left out. Without the published indices see `md17`.

    Args:
        raw: the archive, npz files, or a folder of them; nothing: `DATA_ROOT/raw/rmd17`, where the archive is
            downloaded to if nothing is there. Archives are unpacked there.
        out: folder of the prepared datasets.
        data_root: root of raw and prepared data.
        options: `molecules` chooses; () takes all there are.
        progress: called after every frame.

    Returns:
        The folder of the prepared dataset, `out` for several.

    Raises:
        DataError: the data are missing, cannot be downloaded, or are damaged.
        ConfigError: there is no such molecule or split, or a folder holds something else.
    """
    folder = data_root / "raw" / "rmd17"
    if not raw and not entries(folder):
        _check_names(options.molecules)
    places = []
    for place in raw_files(raw, [ARCHIVE], folder):
        inside = place / ARCHIVE.name
        archive = place if place.is_file() and place.name.endswith(_ARCHIVES) else inside if inside.exists() else None
        places.append(place if archive is None else _unpacked(archive, folder, options.molecules))
    # An archive in the default folder is unpacked beside itself.
    files = choose_molecules(RMD17, find_files(RMD17, dict.fromkeys(places)), options.molecules, places)
    return prepare_trajectories(RMD17, files, out=out, options=options, progress=progress)


def _check_names(molecules: Sequence[str]) -> None:
    for molecule in molecules:
        if molecule not in FRAMES:
            raise ConfigError(f"Expected one of {', '.join(FRAMES)}, found '{molecule}'.{nearest(molecule, FRAMES)}")


def _unpacked(archive: Path, folder: Path, molecules: Sequence[str]) -> Path:
    """Unpacks the molecules that are asked for and the splits, unless they are there; returns their folder."""
    _check_names(molecules)
    wanted = {f"rmd17_{molecule}.npz": folder / "npz_data" for molecule in molecules or FRAMES}
    wanted |= {f"index_{part}_{n:02d}.csv": folder / "splits" for part in ("train", "test") for n in range(1, 6)}
    missing = {name for name, place in wanted.items() if not (place / name).exists()}
    if missing:
        for member, handle, size in tar_members(archive, lambda member: PurePosixPath(member).name in missing):
            name = PurePosixPath(member).name
            save_member(handle, size, wanted[name] / name)
            missing.discard(name)
            if not missing:
                break
    if missing:
        raise DataError(f"Expected {', '.join(sorted(missing))} in {archive}, found none.", "Use the official archive.")
    return folder
