"""Energies and forces along molecular dynamics trajectories, one npz file per molecule: what MD17 and rMD17 share."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomformer.datasets.md17.splits import SPLITS, TrajectorySplit, choose_split
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import Progress, prepare_records
from geomformer.datasets.raw.npz import ArrayHeader, array_headers, read_array, read_together
from geomformer.elements import SYMBOLS
from geomformer.errors import DataError, nearest
from geomformer.files import describe_file
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import CONFORMER_SOURCES, Record

logger = logging.getLogger(__name__)

NAMINGS = (("z", "R", "E", "F"), ("nuclear_charges", "coords", "energies", "forces"))
"""Names of atomic numbers (N,), positions (T, N, 3), energies (T,) or (T, 1) and forces (T, N, 3)."""

CHUNK_FRAMES = 2000


@dataclass(frozen=True)
class Dataset:
    """What tells one collection of trajectories from another.

    Attributes:
        name: of the dataset; a file may be called `NAME_MOLECULE.npz`.
        frames: official number of frames by molecule.
        level_of_theory: of the labels.
        other_prefix: how file names of the other collection start.
        aliases: other names of molecules in file names.
    """

    name: str
    frames: Mapping[str, int]
    level_of_theory: str
    other_prefix: str
    aliases: Mapping[str, str]

    def molecule(self, path: Path) -> str:
        """Returns the molecule that a file is about, from its name."""
        stem = path.stem.lower().removeprefix(f"{self.name}_").removesuffix("_dft")
        return self.aliases.get(stem, stem)


@dataclass(frozen=True)
class Trajectory:
    """The file of one molecule.

    Attributes:
        molecule: its name.
        path: npz file.
        names: of the four arrays in it, as in `NAMINGS`.
        numbers: atomic numbers. (N,)
        num_frames: T.
        arrays: names of everything in the file.
    """

    molecule: str
    path: Path
    names: tuple[str, str, str, str]
    numbers: np.ndarray
    num_frames: int
    arrays: frozenset[str]


def find_files(dataset: Dataset, places: Iterable[Path]) -> dict[str, Path]:
    """Returns the npz file of every molecule, from files and from folders, which are searched in depth.

    Raises:
        DataError: there is no such file or folder, or there are two files for one molecule.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise DataError(f"Expected an npz file or a folder of them, found nothing at {place}.", "Check the path.")
        inside = [path for path in sorted(place.rglob("*.npz")) if not path.name.startswith(dataset.other_prefix)]
        for path in inside if place.is_dir() else [place]:
            molecule = dataset.molecule(path)
            if found.setdefault(molecule, path) != path:
                raise DataError(
                    f"Expected one file for {molecule}, found {found[molecule]} and {path}.",
                    "Name the one you want with --raw.",
                )
    return found


def choose_molecules(
    dataset: Dataset, found: Mapping[str, Path], asked: Sequence[str], places: Sequence[Path]
) -> dict[str, Path]:
    """Returns the files of the molecules that are asked for, all for none.

    Args:
        dataset: what they belong to.
        found: files by molecule.
        asked: names of molecules.
        places: where the files were looked for.

    Raises:
        DataError: there is no file for one, or none at all.
    """
    if not found:
        raise DataError(
            f"Expected npz files of {dataset.name} molecules in {', '.join(map(str, places))}, found none.",
            f"Name them, or their folder, with --raw; files called {dataset.other_prefix}*.npz do not count.",
        )
    for molecule in asked:
        if molecule not in found:
            raise DataError(f"Expected one of {', '.join(found)}, found '{molecule}'.{nearest(molecule, found)}")
    return {molecule: path for molecule, path in found.items() if not asked or molecule in asked}


def prepare_trajectories(
    dataset: Dataset,
    files: Mapping[str, Path],
    *,
    out: Path,
    options: PrepareOptions,
    progress: Progress | None = None,
) -> Path:
    """Prepares trajectories, each as a dataset of its own in OUT/MOLECULE. Energies and forces stay in kcal/mol.

    Args:
        dataset: what they belong to.
        files: npz file by molecule.
        out: folder of the prepared datasets.
        options: `seed` draws the split, see `choose_split`.
        progress: called after every frame, with frames of all molecules.

    Returns:
        The folder of the prepared dataset, `out` for several.

    Raises:
        DataError: a file is damaged or not what it should be.
        ConfigError: there is no split of that number, or a folder holds something else.
    """
    trajectories = [open_trajectory(molecule, path) for molecule, path in files.items()]
    splits = [choose_split(item.path, item.arrays, item.num_frames, options.seed) for item in trajectories]
    totals = [split.num_rows(options.limit) for split in splits]
    done = 0
    for trajectory, split, total in zip(trajectories, splits, totals, strict=True):
        if split.seeded:
            _check_frames(dataset, trajectory)
        prepare_records(
            _records(trajectory, split, options.limit),
            out / trajectory.molecule,
            _description(dataset, trajectory, split, options),
            options,
            total=total,
            bytes_per_row=30.0 * len(trajectory.numbers) + 60,
            progress=functools.partial(_shifted, progress, done, sum(totals)) if progress else None,
        )
        done += total
    return out / trajectories[0].molecule if len(trajectories) == 1 else out


def open_trajectory(molecule: str, path: Path) -> Trajectory:
    """Reads the shapes of the arrays in an npz file and its atomic numbers.

    Raises:
        DataError: the file is damaged, or the arrays are not those of a trajectory.
    """
    headers = array_headers(path)
    names = next((names for names in NAMINGS if all(name in headers for name in names)), None)
    if names is None:
        expected = " or ".join(", ".join(names) for names in NAMINGS)
        raise DataError(f"Expected the arrays {expected} in {path}, found {', '.join(headers)}.")
    for name in names:
        if headers[name] is None:
            raise DataError(
                f"Expected numbers in the array '{name}' of {path}, found Python objects.",
                "They are not read: loading them would run code. Save the array again with a plain type.",
            )
    plain = {name: header for name, header in headers.items() if header is not None}
    num_frames = _check_shapes(path, names, plain)
    numbers = read_array(path, names[0]).reshape(-1)
    if not np.isin(numbers, list(SYMBOLS)).all():
        raise DataError(f"Expected atomic numbers from 1 to {max(SYMBOLS)} in {path}, found {numbers.tolist()}.")
    return Trajectory(molecule, path, names, numbers.astype(np.uint8), num_frames, frozenset(plain))


def _check_shapes(path: Path, names: tuple[str, str, str, str], headers: Mapping[str, ArrayHeader]) -> int:
    """Returns the number of frames.

    Raises:
        DataError: the shapes do not fit together, or an array does not hold numbers.
    """
    z, positions, energies, forces = (headers[name].shape for name in names)
    frames, atoms = positions[0] if positions else 0, z[0] if z else 0
    fits = z == (atoms,) and positions == (frames, atoms, 3) == forces and energies in ((frames,), (frames, 1))
    plain = all(headers[name].dtype.kind in "iuf" for name in names)
    if not (fits and plain and frames and atoms):
        found = ", ".join(f"{name} {headers[name].dtype}{list(headers[name].shape)}" for name in names)
        raise DataError(
            f"Expected numbers {names[0]}[N], {names[1]}[T, N, 3], {names[2]}[T], {names[3]}[T, N, 3] in {path}, "
            f"found {found}."
        )
    return frames


def _check_frames(dataset: Dataset, trajectory: Trajectory) -> None:
    official = dataset.frames.get(trajectory.molecule)
    if official is not None and official != trajectory.num_frames:
        logger.warning(
            "%s has %d frames, the official file %d: the seeded split is not that of published results",
            trajectory.path,
            trajectory.num_frames,
            official,
        )


def _description(
    dataset: Dataset, trajectory: Trajectory, split: TrajectorySplit, options: PrepareOptions
) -> DatasetDescription:
    return DatasetDescription(
        dataset=dataset.name,
        targets={"energy": "kcal_mol"},
        sources=[describe_file(path) for path in (trajectory.path, *split.files)],
        options={"molecule": trajectory.molecule, "split": split.name, "limit": options.limit},
        level_of_theory=dataset.level_of_theory,
        seed=split.seed,
        units={"forces": "kcal_mol/angstrom"},
    )


def _shifted(progress: Progress, before: int, total: int, done: int, _: int | None) -> None:
    progress(before + done, total)


def _records(trajectory: Trajectory, split: TrajectorySplit, limit: int | None) -> Iterator[tuple[str, Record]]:
    """Yields the frames that are in a split, in the order of the file."""
    source = np.array([CONFORMER_SOURCES.index("given")], np.uint8)
    counts: Counter[int] = Counter()
    start = 0
    for positions, energies, forces in read_together(trajectory.path, trajectory.names[1:], CHUNK_FRAMES):
        _check_finite(trajectory, start, positions, energies, forces)
        places, labels = positions.astype(np.float32), energies.reshape(-1).astype(np.float64)
        pulls = forces.astype(np.float32)
        for row in np.flatnonzero(split.numbers[start : start + len(positions)] >= 0):
            number = int(split.numbers[start + row])
            counts[number] += 1
            if limit is None or counts[number] <= limit:
                yield (
                    SPLITS[number],
                    Record(
                        id=f"{trajectory.molecule}-{start + row}",
                        positions=places[row][None],
                        conformer_source=source,
                        atomic_numbers=trajectory.numbers,
                        forces=pulls[row],
                        targets={"energy": float(labels[row])},
                    ),
                )
        start += len(positions)


def _check_finite(trajectory: Trajectory, start: int, *arrays: np.ndarray) -> None:
    for name, array in zip(trajectory.names[1:], arrays, strict=True):
        wrong = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if len(wrong):
            raise DataError(
                f"Expected finite numbers, found others in '{name}' of {trajectory.path}, frame {start + wrong[0]}.",
                "Fetch the file again, or take the frame out.",
            )
