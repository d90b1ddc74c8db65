"""`predict` for models of structures, catalysts or force fields: one answer per frame, in order, with flat memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.errors import ConfigError, DataError, MoleculeError, out_of_memory
from geomformer.inference.averaging import ConformerPredictions, predict_records
from geomformer.inference.forces import FORCE_COLUMN, ev_per_unit, force_answer, molecule_record, predicts_forces
from geomformer.inference.frames import centred, check_size, checked_atoms
from geomformer.inference.predictor import FILE_COLUMN, Predictor, PredictSummary, Progress, check_output
from geomformer.io.atoms import Structure, check_structures, read_structures
from geomformer.io.atoms_writers import ATOMS_KEY, SINGLE, open_output, output_format
from geomformer.io.structures import fixed_atoms
from geomformer.io.tags import SUBSURFACE, tag_atoms
from geomformer.prepared.images import complete_cell
from geomformer.records import CONFORMER_SOURCES, Record
from geomformer.tasks import POSITIONS

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger(__name__)

CHUNK_FRAMES = 64
"""Frames between two writes."""

DISPLACEMENT_COLUMN = "max_displacement_angstrom"
NO_INFO = ("formula", "num_atoms", DISPLACEMENT_COLUMN, FORCE_COLUMN)
"""Columns that a structure does not carry, since it shows what they say."""


def predict_structures(
    predictor: Predictor,
    sources: Sequence[Path],
    out: Path,
    *,
    adsorbate: Sequence[int] | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> PredictSummary:
    """Predicts every frame of some files: the relaxed structure, and where the model does the adsorption energy, or for
    force fields energy (eV) and forces (eV/Angstrom) of the frame as it is.

    Args:
        predictor: a model of catalysts or a force field, ready to run.
        sources: structures, any formats `geomformer.io.atoms` reads. `index` runs on through all of them.
        out: structures or a table, by its name; replaced only when complete. A frame without a prediction keeps its
            input structure there and says why. With several sources the output says in `file` where a frame is from.
        adsorbate: numbers of the adsorbate's atoms, counted from 0, the same in all frames; see `io.tags`.
        limit: read only so many frames.
        progress: called with the number of finished frames.

    Raises:
        DataError: a file is missing, empty or unreadable; the output cannot be written; there is no prediction for the
            frame of a format that cannot say so.
        ConfigError: a file of an unknown kind; several frames for a format that holds one; the output is an input; a
            format that holds no forces, for a force field.
        ArtifactError: a force field whose unit is unknown.
    """
    kind = output_format(out)
    if predicts_forces(predictor.manifest):
        ev_per_unit(predictor.manifest)
        check_holds_forces(out, kind)
    check_output(sources, out)
    for source in sources:
        check_structures(source)

    def structures() -> Iterator[Structure]:
        return itertools.islice(read_all(sources), limit)

    rest = structures()
    first = list(itertools.islice(rest, 2))
    if kind in SINGLE and len(first) > 1:
        raise ConfigError(
            f"Expected one structure for {out}, which can hold no more; found several in the input.",
            "Write extxyz or traj, or choose one with --limit 1.",
        )
    total = sum(1 for _ in structures()) if progress is not None else None
    columns = output_columns(predictor, several=len(sources) > 1)
    summary = PredictSummary(out, predictor.manifest.reference, predictor.target, unit_of(predictor, predictor.target))
    rows = predicted_rows(predictor, itertools.chain(first, rest), adsorbate)
    if kind in SINGLE:
        rows = iter([check_answered(row) for row in rows])
    info = [name for name in columns if name not in NO_INFO]
    if predicts_forces(predictor.manifest):
        info = [name for name in info if not name.startswith("pred_")]  # it stands there as the structure's energy
    with open_output(out, columns, info) as writer:
        for row in rows:
            writer.write([row])
            summary.rows += 1
            summary.statuses[row["status"]] = summary.statuses.get(row["status"], 0) + 1
            if progress is not None:
                progress(summary.rows, total)
    return summary


def check_holds_forces(out: Path, kind: str) -> None:
    """Refuses formats of structures alone (ConfigError)."""
    if kind in SINGLE:
        raise ConfigError(f"Expected a format that holds energies and forces, found {out}.", "Write extxyz or traj.")


def read_all(sources: Sequence[Path]) -> Iterator[Structure]:
    """Reads files one after another; `index` runs on, and is the identifier of a frame without one."""
    frames = (item for source in sources for item in read_structures(source))
    for index, item in enumerate(frames):
        yield replace(item, index=index, id=item.id or str(index))


def scalar_of(predictor: Predictor) -> str | None:
    """The predicted energy's name, None for a model of structures alone."""
    return predictor.target if predictor.target in predictor.task.targets else None


def unit_of(predictor: Predictor, target: str) -> str:
    return "ev" if predicts_forces(predictor.manifest) else predictor.manifest.target(target).unit


def output_columns(predictor: Predictor, *, several: bool) -> dict[str, type]:
    """Columns of a table, with their types."""
    scalar = scalar_of(predictor)
    return {
        "index": int,
        "id": str,
        **({FILE_COLUMN: str} if several else {}),
        "formula": str,
        "num_atoms": int,
        **({f"pred_{scalar}_{unit_of(predictor, scalar)}": float} if scalar else {}),
        FORCE_COLUMN if predicts_forces(predictor.manifest) else DISPLACEMENT_COLUMN: float,
        "status": str,
        "error": str,
    }


def check_answered(row: dict[str, Any]) -> dict[str, Any]:
    """Passes a row that has a prediction.

    Raises:
        DataError: it has none.
    """
    if row["status"] != "ok":
        raise DataError(
            f"No prediction ({row['status']}): {row['error']}",
            "Nothing was written; extxyz, traj and tables keep such a structure with its reason.",
        )
    return row


def predicted_rows(
    predictor: Predictor, structures: Iterable[Structure], adsorbate: Sequence[int] | None
) -> Iterator[dict[str, Any]]:
    """Yields the row of each frame, in order: the columns, and the structure under `ATOMS_KEY`."""
    remaining = iter(structures)
    warned = False
    images = predictor.settings.images
    if images is not None and images.token_cutoff is not None:
        log.warning(
            "%s reads copies of atoms along the first two lattice vectors alone: lay the slab across the third, and do "
            "not wrap its atoms one by one, or the answer is another",
            predictor.manifest.reference,
        )
    while chunk := list(itertools.islice(remaining, CHUNK_FRAMES)):
        built = [build(predictor, item, adsorbate) for item in chunk]
        records = [(position, found) for position, found in enumerate(built) if isinstance(found, Record)]
        if not warned and any(found.fixed is not None and not found.fixed.any() for _, found in records):
            warned = True
            log.warning(
                "a structure has neither fixed atoms nor atoms of tag 0: all of its atoms may move, and count for its "
                "energy, which differs from that of the same structure with its lower layers fixed"
            )
        predictions = predict_all(predictor, records)
        for position, (item, found) in enumerate(zip(chunk, built, strict=True)):
            yield row_of(predictor, item, found, predictions.get(position))


def build(predictor: Predictor, item: Structure, adsorbate: Sequence[int] | None) -> Record | MoleculeError:
    """Returns the record of a frame, or why the model cannot be used for it."""
    try:
        limit = predictor.manifest.inputs.max_atoms
        if predicts_forces(predictor.manifest):
            atoms = check_size(checked_atoms(item), limit)
            record = molecule_record(item.id, atoms, predictor.manifest.inputs.periodic)
        else:
            record = to_record(item, limit, adsorbate)
    except MoleculeError as error:
        return error
    return predictor.checked(record)


def to_record(item: Structure, max_atoms: int | None, adsorbate: Sequence[int] | None) -> Record:
    """Returns the record of a frame.

    Atoms are fixed where constraints say so; where none does, those of tag 0 are, as in OC20. Atoms that constraints
    leave some freedom count as free; of tag 0 they stay all the same, since their vectors are not trained.

    Raises:
        MoleculeError: it could not be read, is not finite, no slab with an adsorbate, or larger than `max_atoms`.
    """
    atoms = checked_atoms(item)
    lattice = checked_lattice(atoms)
    check_size(atoms, max_atoms)
    fixed = fixed_atoms(atoms)
    tags = tag_atoms(atoms.numbers, atoms.positions, lattice, atoms.pbc, fixed, atoms.arrays.get("tags"), adsorbate)
    return Record(
        id=item.id,
        atomic_numbers=atoms.numbers.astype(np.uint8),
        positions=centred(atoms)[None].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        cell=atoms.cell.array.astype(np.float32),
        pbc=atoms.pbc.copy(),
        tags=tags,
        fixed=fixed if fixed.any() else tags == SUBSURFACE,
    )


def checked_lattice(atoms: Atoms) -> np.ndarray:
    """Returns the cell with vectors in all directions. (3, 3)

    Raises:
        MoleculeError: `wrong_input_kind`; the structure is not periodic.
    """
    if not atoms.pbc.any() or not atoms.cell.array.any():
        raise MoleculeError(
            "wrong_input_kind", "Expected a slab that repeats itself, found no cell or no periodic direction (pbc)."
        )
    try:
        return complete_cell(atoms.cell.array, atoms.pbc)
    except DataError as error:
        raise MoleculeError("wrong_input_kind", error.message) from error


def predict_all(
    predictor: Predictor, records: Sequence[tuple[int, Record]]
) -> Mapping[int, ConformerPredictions | MoleculeError]:
    """Runs the model; a system that cannot be prepared for it or is too large for the memory costs its own row only."""
    try:
        found = predict_records(predictor.model, predictor.task, records, predictor.settings)
        return {prediction.index: prediction for prediction in found}
    except (DataError, MemoryError, RuntimeError) as error:
        if not isinstance(error, DataError) and not out_of_memory(error):
            raise
        if len(records) == 1:
            return {records[0][0]: refusal(records[0][1], error)}
        return {index: result for one in records for index, result in predict_all(predictor, [one]).items()}


def refusal(record: Record, error: Exception) -> MoleculeError:
    """Why one system has no prediction."""
    if isinstance(error, DataError):
        return MoleculeError("failed", error.message)
    return MoleculeError("too_large", f"Memory does not suffice for its {record.num_atoms} atoms.")


def row_of(
    predictor: Predictor,
    item: Structure,
    built: Record | MoleculeError,
    prediction: ConformerPredictions | MoleculeError | None,
) -> dict[str, Any]:
    row: dict[str, Any] = {"index": item.index, "id": item.id, FILE_COLUMN: item.file, ATOMS_KEY: item.atoms}
    if item.atoms is not None:
        row |= {"formula": item.atoms.get_chemical_formula(), "num_atoms": len(item.atoms)}
    if isinstance(built, MoleculeError):
        return row | {"status": built.status, "error": built.message}
    if prediction is None or item.atoms is None:
        raise ValueError(f"frame {item.index} has a record, and no structure or no prediction")
    if isinstance(prediction, MoleculeError):
        return row | {"status": prediction.status, "error": prediction.message}
    if predicts_forces(predictor.manifest):
        return row | force_answer(predictor.manifest, prediction)
    scalar = scalar_of(predictor)
    energy = prediction.mean(scalar) if scalar else 0.0
    moved, length = relaxed(item.atoms, built, prediction.vectors[POSITIONS][0])
    if not np.isfinite([energy, length]).all():
        return row | {"status": "failed", "error": "The model gives no finite numbers for this structure."}
    values = {f"pred_{scalar}_{unit_of(predictor, scalar)}": round(energy, 6)} if scalar else {}
    return row | values | {DISPLACEMENT_COLUMN: round(length, 6), ATOMS_KEY: moved, "status": "ok"}


def relaxed(atoms: Atoms, record: Record, predicted: np.ndarray) -> tuple[Atoms, float]:
    """Moves the atoms that may move by what the model says, the others not at all.

    Args:
        atoms: the input, in float64.
        record: the same in float32, as the model saw it.
        predicted: relaxed positions, Angstrom. (N, 3) float64

    Returns:
        The relaxed structure, with the tags that the model saw where the input has none; the longest displacement,
        Angstrom.
    """
    free = np.full((len(atoms), 1), True) if record.fixed is None else ~record.fixed[:, None]
    displacements = np.where(free, predicted - record.positions[0].astype(np.float64), 0.0)
    moved = atoms.copy()
    moved.positions[:] = np.where(free, atoms.positions + displacements, atoms.positions)
    if not moved.get_tags().any():
        moved.set_tags(record.tags)
    return moved, float(np.linalg.norm(displacements, axis=1).max())
