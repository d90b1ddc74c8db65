"""`predict` for force fields: what they read, and their answer in the units of ASE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.artifacts.manifest import Manifest
from geomformer.errors import ArtifactError, MoleculeError
from geomformer.inference.averaging import ConformerPredictions
from geomformer.inference.frames import centred
from geomformer.io.atoms_writers import RESULTS_KEY
from geomformer.records import CONFORMER_SOURCES, Record
from geomformer.tasks import FORCES, MD17
from geomformer.units import EV_PER

if TYPE_CHECKING:
    from ase import Atoms

FORCE_COLUMN = "max_force_ev_angstrom"


def predicts_forces(manifest: Manifest) -> bool:
    """Whether a model is a force field: an energy, and forces that belong to the structure that is given."""
    return manifest.task == MD17


def ev_per_unit(manifest: Manifest) -> float:
    """How many eV the unit of a force field's energies is.

    Raises:
        ArtifactError: it is unknown.
    """
    unit = manifest.target(energy_of(manifest)).unit
    if unit not in EV_PER:
        raise ArtifactError(
            f"{manifest.reference} predicts energies in '{unit}', expected one of {', '.join(EV_PER)}.",
            "Train it on a dataset that says its unit, such as a column energy_ev.",
        )
    return EV_PER[unit]


def energy_of(manifest: Manifest) -> str:
    """Name of a force field's energy among its targets."""
    return next(target.name for target in manifest.targets if target.name != FORCES)


def molecule_record(name: str, atoms: Atoms, periodic: bool) -> Record:
    """Returns the record of a structure for a force field.

    Args:
        name: identifier.
        atoms: the structure.
        periodic: whether the model reads cells.

    Raises:
        MoleculeError: `wrong_input_kind`; the structure is periodic and the model would not see that.
    """
    if atoms.pbc.any() and not periodic:
        raise MoleculeError(
            "wrong_input_kind",
            "Expected a molecule, found a periodic structure; the model reads no copies of atoms. For a molecule in a "
            "box set pbc to false.",
        )
    return Record(
        id=name,
        atomic_numbers=atoms.numbers.astype(np.uint8),
        positions=centred(atoms)[None].astype(np.float32),
        conformer_source=np.array([CONFORMER_SOURCES.index("given")], np.uint8),
        cell=atoms.cell.array.astype(np.float32) if periodic else None,
        pbc=atoms.pbc.copy() if periodic else None,
    )


def force_answer(manifest: Manifest, prediction: ConformerPredictions) -> dict[str, Any]:
    """Columns of a frame's answer, and energy (eV) and forces (eV/Angstrom) under `RESULTS_KEY`."""
    energy_name, ev = energy_of(manifest), ev_per_unit(manifest)
    energy, forces = ev * prediction.mean(energy_name), ev * prediction.vectors[FORCES][0]
    largest = float(np.linalg.norm(forces, axis=1).max())
    if not np.isfinite([energy, largest]).all():
        return {"status": "failed", "error": "The model gives no finite numbers for this structure."}
    return {
        f"pred_{energy_name}_ev": round(energy, 6),
        FORCE_COLUMN: round(largest, 6),
        RESULTS_KEY: {"energy": energy, "forces": forces},
        "status": "ok",
    }
