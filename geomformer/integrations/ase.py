"""A trained force field as a calculator of ASE."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes

from geomformer import api
from geomformer.errors import ArtifactError, ConfigError, DataError, MoleculeError
from geomformer.inference.averaging import predict_batch
from geomformer.inference.forces import energy_of, ev_per_unit, molecule_record, predicts_forces
from geomformer.inference.frames import centred, check_size, checked_atoms
from geomformer.inference.predictor import Predictor
from geomformer.io.atoms import Structure
from geomformer.prepared.collate import Sample, collate
from geomformer.records import Batch
from geomformer.tasks import FORCES

if TYPE_CHECKING:
    from ase import Atoms


class GeoMFormerCalculator(Calculator):
    """Energy (eV) and forces (eV/Angstrom) by a model of the task md17.

    `free_energy` is the energy. There is no stress. A model trained on one molecule is one for that molecule; elements
    it has not seen are refused, other molecules of known elements are not.

    With forces that the network predicts directly (`task.forces: direct`) the energy along a trajectory is not
    conserved, and the minimum of the energy is not where forces vanish; `task.forces: conservative` has neither fault.
    """

    implemented_properties = ["energy", "free_energy", "forces"]
    ignored_changes = {"initial_charges", "initial_magmoms"}

    def __init__(
        self,
        model: str | Path | Predictor,
        *,
        models: Path | None = None,
        device: str = "auto",
        dtype: Literal["float32", "float64"] = "float32",
        **options: Any,
    ) -> None:
        """Loads the model.

        Args:
            model: NAME, NAME@VERSION, the folder of a model, or a loaded one (whose device is kept).
            models: store of trained models.
            device: "auto", "cpu", "cuda".
            dtype: type in which the network runs.
            options: of `ase.calculators.calculator.Calculator`.

        Raises:
            ArtifactError: no such model, it is damaged, or says no unit of its energies.
            ConfigError: the model predicts no forces, or there is no such type.
        """
        super().__init__(**options)
        if dtype not in ("float32", "float64"):
            raise ConfigError(f"Expected the type float32 or float64, found '{dtype}'.")
        self.predictor = model if isinstance(model, Predictor) else api.load_model(model, models=models, device=device)
        self.manifest = self.predictor.manifest
        if not predicts_forces(self.manifest) or self.manifest.inputs.features:
            raise ConfigError(
                f"Expected a model of energies and forces (task md17), found {self.manifest.reference} of the task "
                f"{self.manifest.task}.",
                "Train one with `geomformer train --task md17`.",
            )
        self.ev = ev_per_unit(self.manifest)
        self.energy = energy_of(self.manifest)
        self.dtype = getattr(torch, dtype)
        # A copy of its own, which others do not find in another type or without gradients.
        self.network = copy.deepcopy(self.predictor.model).to(self.dtype).eval().requires_grad_(False)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Runs the model once for all properties.

        Raises:
            DataError: the model cannot be used for these atoms; the message says why.
            ArtifactError: the answer is not finite.
        """
        super().calculate(atoms, properties, system_changes)
        settings = self.predictor.settings
        found = predict_batch(self.network, self.predictor.task, self.batch(), settings.derivatives)
        energy, forces = self.ev * float(found.scalars[self.energy][0]), self.ev * found.vectors[FORCES][0]
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise ArtifactError(f"{self.manifest.reference} gives no finite numbers for {self.atoms}.")
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}

    def batch(self) -> Batch:
        """The atoms as the network reads them, with positions that were never rounded to less than its type."""
        settings = self.predictor.settings
        try:
            atoms = check_size(checked_atoms(Structure(0, "atoms", "", self.atoms)), self.manifest.inputs.max_atoms)
            record = self.predictor.checked(molecule_record("atoms", atoms, self.manifest.inputs.periodic))
            if isinstance(record, MoleculeError):
                raise record
        except MoleculeError as error:
            raise DataError(f"{self.manifest.reference} cannot be used for {self.atoms}: {error.message}") from error
        positions = centred(atoms)
        batch = collate([Sample(record, 0, positions)], features=False, images=settings.images)
        exact = torch.as_tensor(positions[None], dtype=self.dtype, device=settings.device)
        return replace(batch.to(settings.device, self.dtype), positions=exact)
