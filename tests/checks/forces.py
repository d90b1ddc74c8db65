"""Small force fields with random weights, and the molecule they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from checks.molecules import TINY, save_model

from geomformer.artifacts.manifest import Inputs, Target
from geomformer.artifacts.store import Artifact
from geomformer.config.load import load_config
from geomformer.config.run import RunConfig
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.images import ImageOptions
from geomformer.records import Record

MEAN_ENERGY = -97_000.25
"""kcal/mol, of the size of ethanol's: numbers of float32 are 0.008 apart there."""

ELEMENTS = {"H": 100, "C": 100, "O": 100, "N": 19}


def ethanol(seed: int = 0, noise: float = 0.05) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += noise * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return atoms


def record_of(atoms: Atoms, **fields: Any) -> Record:
    periodic = {"cell": atoms.cell.array.astype(np.float32), "pbc": atoms.pbc.copy()} if atoms.pbc.any() else {}
    return Record(
        id="a",
        atomic_numbers=atoms.numbers.astype(np.uint8),
        positions=atoms.positions[None].astype(np.float32),
        conformer_source=np.zeros(1, np.uint8),
        **periodic,
        **fields,
    )


def force_config(forces: str, *overrides: str) -> RunConfig:
    """md17-small with a tiny network, whose vectors start from the centroid if nothing else is said."""
    tiny = [f"model.{name}={value}" for name, value in {**TINY, "equivariant_input": "centroid"}.items()]
    return load_config("md17-small", [*tiny, f"task.forces={forces}", *overrides])


def save_force_field(root: Path, name: str, config: RunConfig, scale: float = 20.0, unit: str = "kcal_mol") -> Artifact:
    """Saves a model with random weights. A direct one has no forces, as every fresh vector head."""
    atoms = ethanol()
    images = ImageOptions.of(config.model)
    record = record_of(atoms)
    if config.model.images != "none":
        record.cell, record.pbc = np.zeros((3, 3), np.float32), np.zeros(3, bool)
    return save_model(
        root,
        name,
        config=config,
        targets=[
            Target(name="energy", unit=unit, mean=MEAN_ENERGY, scale=scale),
            Target(name="forces", unit=f"{unit}_angstrom", scale=scale),
        ],
        inputs=Inputs(hydrogens=True, geometry="given", features=False, periodic=config.model.images != "none"),
        elements=ELEMENTS,
        selftest_batch=collate([Sample(record, 0, record.positions[0])], features=False, images=images),
    )
