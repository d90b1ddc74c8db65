"""Small random datasets with every gap a dataset can have, written without any chemistry; and tiny models for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from torch import nn

from geomformer.artifacts.manifest import Inputs, Target
from geomformer.artifacts.store import Artifact, save_artifact
from geomformer.config.load import validate
from geomformer.config.run import RunConfig
from geomformer.models import build_model
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row
from geomformer.records import Batch, Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling

CHEMISTRY = {"hydrogens": False, "geometry": "generate", "features": True}
TINY = {"num_layers": 1, "embed_dim": 16, "ffn_dim": 16, "num_heads": 2, "num_kernels": 8}


def random_record(
    i: int, *, reference: bool = True, targets: Mapping[str, float] | None = None, atoms: int | None = None
) -> Record:
    """A chain of carbon, nitrogen and oxygen atoms with two conformers that differ a little from the reference."""
    rng = np.random.default_rng([17, i])
    n = atoms or int(rng.integers(3, 9))
    numbers = rng.choice([6, 7, 8], n).astype(np.uint8)
    geometry = 1.4 * np.stack([np.arange(n), np.arange(n) % 2, np.zeros(n)], 1) + 0.3 * rng.normal(size=(n, 3))
    conformers = geometry + 0.3 * rng.normal(size=(2, n, 3))
    chain = np.arange(n - 1)
    features = np.zeros((n, 9), np.uint8)
    features[:, 0] = numbers - 1
    return Record(
        id=f"m{i}",
        smiles=None,
        atomic_numbers=numbers,
        positions=centre(conformers),
        conformer_source=np.full(2, 2, np.uint8),
        target_positions=centre(geometry) if reference else None,
        atom_features=features,
        bond_index=np.stack([np.r_[chain, chain + 1], np.r_[chain + 1, chain]]).astype(np.int16),
        bond_features=np.zeros((2 * (n - 1), 3), np.uint8),
        orbital_energies=np.sort(rng.normal(-10.0, 3.0, 8)).astype(np.float32),
        orbital_shares=rng.dirichlet(np.ones(n), 4).T.astype(np.float32),
        targets=dict(targets) if targets is not None else {"gap": label(numbers)},
    )


def label(numbers: np.ndarray) -> float:
    """Something that can be learnt: 4 to 8 "eV", by the share of carbon."""
    return 4.0 + 4.0 * float((numbers == 6).mean())


def centre(positions: np.ndarray) -> np.ndarray:
    return (positions - positions.mean(axis=-2, keepdims=True)).astype(np.float32)


def write_dataset(
    out: Path,
    splits: Mapping[str, Sequence[Record]],
    *,
    units: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    level_of_theory: str | None = "B3LYP/6-31G*",
) -> PreparedDataset:
    description = DatasetDescription(
        "toy",
        dict(units or {"gap": "ev"}),
        options={"chemistry": CHEMISTRY, "use_geometry": True} if options is None else dict(options),
        level_of_theory=level_of_theory,
    )
    rows = [
        Row(i, record.id, split=split, record=record)
        for i, (split, record) in enumerate((name, item) for name, records in splits.items() for item in records)
    ]
    writer = PreparedWriter(out, description, shard_rows=len(rows))
    writer.write_shard(0, rows)
    return PreparedDataset(writer.finish(len(rows)))


def toy_splits(train: int = 21, valid: int = 6) -> dict[str, list[Record]]:
    """Every third molecule has no reference geometry."""
    records = [random_record(i, reference=i % 3 > 0) for i in range(train + valid)]
    return {"train": records[:train], "valid": records[train:]}


def two_target_splits(train: int = 18, valid: int = 6) -> dict[str, list[Record]]:
    """Labels of two levels of theory: each molecule has one of them, a few have both."""
    records = []
    for i in range(train + valid):
        record = random_record(i)
        value = record.targets["gap"]
        record.targets = {
            "gap": value if i % 2 == 0 or i % 5 == 0 else math.nan,
            "gap_dft": value + 1.0 if i % 2 else math.nan,
        }
        records.append(record)
    return {"train": records[:train], "valid": records[train:]}


def toy_config(**sections: Mapping[str, Any]) -> RunConfig:
    """A run of seconds, with dropout and averaged weights, whose intervals are no multiples of each other."""
    values: dict[str, dict[str, Any]] = {
        "task": {},
        "model": {**TINY, "attention_dropout": 0.1, "hidden_dropout": 0.1, "embedding_dropout": 0.1},
        "data": {"dataset": "toy", "batch_size": 4, "batch_atoms": 32, "valid_conformers": 2},
        "optim": {"learning_rate": 3e-3, "warmup_fraction": 0.2},
        "train": {"max_steps": 17, "log_every": 2, "validate_every": 5, "checkpoint_every": 3, "ema_decay": 0.9},
    }
    for name, changes in sections.items():
        values[name] = {**values[name], **changes}
    return validate(values, "test")


def toy_batch() -> Batch:
    """The validation molecules of `toy_splits`, one conformer each."""
    task = build_task(toy_config().task, {"gap": Scaling()})
    samples = [task.inference_samples(record, i, 1)[0] for i, record in enumerate(toy_splits()["valid"])]
    return collate(samples, features=True)


def save_model(
    root: Path,
    name: str = "toy",
    *,
    config: RunConfig | None = None,
    model: nn.Module | None = None,
    **changes: Any,
) -> Artifact:
    """An artifact with random weights that knows the usual elements; bromine was too rare in its training."""
    config = config or toy_config()
    torch.manual_seed(5)
    model = model or build_model(config.model)
    record = random_record(0)
    level = "B3LYP/6-31G*"
    fields: dict[str, Any] = {
        "targets": [Target(name=t, unit="ev", level_of_theory=level, mean=6.0, scale=1.5) for t in config.task.targets],
        "inputs": Inputs(hydrogens=False, geometry=config.task.input_geometry, features=True, periodic=False),
        "elements": {"H": 100, "C": 100, "N": 100, "O": 20, "F": 20, "Br": 19},
        "dataset": {"name": "toy"},
        "training": {},
        "metrics": {},
        "selftest_batch": collate([Sample(record, 0, record.positions[0])]),
    }
    return save_artifact(root, name, model, config, **{**fields, **changes})


def relaxed(smiles: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Atomic numbers, positions and charge of a molecule and all its hydrogens, relaxed by a force field."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    return numbers, mol.GetConformer().GetPositions(), Chem.GetFormalCharge(mol)
