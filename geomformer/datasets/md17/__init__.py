"""MD17: energies and forces along trajectories of eight molecules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geomformer.datasets.md17.trajectories import Dataset, choose_molecules, find_files, prepare_trajectories
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import Progress
from geomformer.datasets.raw.download import RemoteFile, fetch_all, raw_files
from geomformer.errors import ConfigError, nearest

FRAMES = {
    "aspirin": 211_762,
    "benzene": 627_983,
    "ethanol": 555_092,
    "malonaldehyde": 993_237,
    "naphthalene": 326_250,
    "salicylic": 320_231,
    "toluene": 442_790,
    "uracil": 133_770,
}
"""Frames of every molecule. Source: documentation of PyTorch Geometric."""

_ATOMS = {
    "aspirin": 21,
    "benzene": 12,
    "ethanol": 9,
    "malonaldehyde": 9,
    "naphthalene": 18,
    "salicylic": 16,
    "toluene": 15,
    "uracil": 12,
}

MD17 = Dataset(
    name="md17",
    frames=FRAMES,
    level_of_theory="PBE+vdW-TS",
    other_prefix="rmd17_",
    aliases={"benzene2017": "benzene", "benzene_old": "benzene"},
)


def _remote(molecule: str) -> RemoteFile:
    name = f"md17_{'benzene2017' if molecule == 'benzene' else molecule}.npz"
    place = f"www.quantum-machine.org/gdml/data/npz/{name}"
    size = FRAMES[molecule] * (_ATOMS[molecule] * 48 + 8)
    return RemoteFile(name, f"https://{place}", size=size, mirrors=(f"http://{place}",))


FILES = {molecule: _remote(molecule) for molecule in FRAMES}


def prepare(
    *,
    raw: Sequence[Path],
    out: Path,
    data_root: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares MD17, every molecule as a dataset of its own in OUT/MOLECULE.

    Energies (kcal/mol) and forces (kcal/mol/Angstrom) stay as they are. 950 frames train, 50 validate and all others
    test, drawn by `options.seed` (1 by default). The file of 2018 for benzene is the molecule `benzene2018`.

    Args:
        raw: npz files or their folder; nothing: `DATA_ROOT/raw/md17`, where they are downloaded to if they are not
            there.
        out: folder of the prepared datasets.
        data_root: root of raw and prepared data.
        options: `molecules` chooses; () takes all that are there, and downloads all if none is.
        progress: called after every frame.

    Returns:
        The folder of the prepared dataset, `out` for several.

    Raises:
        DataError: the data are missing, cannot be downloaded, or are damaged.
        ConfigError: there is no such molecule, or a folder holds something else.
    """
    return prepare_trajectories(
        MD17, _files(raw, data_root / "raw" / "md17", options.molecules), out=out, options=options, progress=progress
    )


def _files(raw: Sequence[Path], folder: Path, asked: Sequence[str]) -> dict[str, Path]:
    if raw or not asked:
        places = raw_files(raw, list(FILES.values()), folder)
        return choose_molecules(MD17, find_files(MD17, places), asked, places)
    found = find_files(MD17, [folder] if folder.exists() else [])
    missing = [molecule for molecule in asked if molecule not in found]
    for molecule in missing:
        if molecule not in FILES:
            raise ConfigError(f"Expected one of {', '.join(FILES)}, found '{molecule}'.{nearest(molecule, FILES)}")
    if missing:
        fetch_all([FILES[molecule] for molecule in missing], folder)
    return choose_molecules(MD17, find_files(MD17, [folder]), asked, [folder])
