"""Samples to padded batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geomformer.errors import DataError
from geomformer.prepared.gathered import Gathered
from geomformer.prepared.images import ImageOptions, pairs_of, tokens, with_copies
from geomformer.records import BOND_FEATURE_SIZES, MAX_PATH, Batch, Record

_FIELDS = (
    "atomic_numbers",
    "particle_charges",
    "velocities",
    "forces",
    "tags",
    "fixed",
    "atom_features",
    "bond_index",
    "bond_features",
    "orbital_shares",
)
_OF_SYSTEMS = ("cell", "pbc", "orbital_energies")


@dataclass
class Sample:
    """One system as a task wants it seen.

    Attributes:
        record: the stored system.
        index: its row in the dataset or input.
        positions: geometry to read. (N, 3) float32, Angstrom.
        target_positions: geometry to predict, or None. (N, 3)
    """

    record: Record
    index: int
    positions: np.ndarray
    target_positions: np.ndarray | None = None


def collate(samples: Sequence[Sample], *, features: bool = True, images: ImageOptions | None = None) -> Batch:
    """Pads samples to one batch, as `collate_gathered` does.

    Args:
        samples: the systems, at least one.
        features: also `atom_features`, `bond_type`, `shortest_path` and the frontier orbitals, where the records have
            them.
        images: which near pairs and periodic copies the model reads; None for none.

    Raises:
        DataError: some of the records have a field and others do not.
    """
    return collate_gathered(gather_samples(samples), features=features, images=images)


def num_tokens(sample: Sample, images: ImageOptions | None) -> int:
    """Atoms of a sample in a batch, its periodic images included."""
    record = sample.record
    if images is None or images.token_cutoff is None or record.tags is None:
        return len(sample.positions)
    kept, parent, _ = tokens(sample.positions, record.cell, record.pbc, record.tags, images)
    return len(kept) + len(parent)


def collate_gathered(systems: Gathered, *, features: bool = True, images: ImageOptions | None = None) -> Batch:
    """Pads systems to one batch of B systems and N atoms, N the largest among them.

    Args:
        systems: at least one.
        features: also `atom_features`, `bond_type`, `shortest_path` and the frontier orbitals, where the systems have
            them.
        images: which near pairs and periodic copies the model reads; None for none.

    Raises:
        DataError: some of the systems have a field and others do not.
    """
    copies = None
    if images is not None and images.token_cutoff is not None:
        systems, copies = with_copies(systems, images)
    pad = _Padding(systems)
    batch = Batch(
        positions=pad(systems.positions, np.float32),
        mask=torch.from_numpy(pad.mask),
        index=torch.from_numpy(systems.index),
        atomic_numbers=pad.field("atomic_numbers", np.int64),
        particle_charges=pad.field("particle_charges", np.float32),
        velocities=pad.field("velocities", np.float32),
        forces=pad.field("forces", np.float32),
        tags=pad.field("tags", np.int64),
        fixed=pad.field("fixed", np.bool_),
        targets={name: torch.from_numpy(labels.astype(np.float32)) for name, labels in systems.targets.items()},
        target_positions=None if systems.target_positions is None else pad(systems.target_positions, np.float32),
    )
    if copies is not None:
        batch.copies = pad(copies, np.bool_)
    if images is not None and images.pair_cutoff is not None:
        pairs, shifts = pairs_of(systems, images.pair_cutoff, periodic=copies is None)
        batch.pairs, batch.pair_shifts = torch.from_numpy(pairs), torch.from_numpy(shifts.astype(np.float32))
    if features:
        batch.atom_features = pad.field("atom_features", np.int64)
        if batch.atom_features is not None:
            batch.bond_type = _bond_type(systems, pad.mask.shape[1])
            batch.shortest_path = shortest_paths(batch.bond_type > 0)
        batch.orbital_shares = pad.field("orbital_shares", np.float32)
        energies = _values(systems, "orbital_energies")
        batch.orbital_energies = None if energies is None else torch.from_numpy(energies)
    return batch


class _Padding:
    """Where the atoms of flat arrays go in padded ones of B systems and N atoms each."""

    def __init__(self, systems: Gathered) -> None:
        self.systems = systems
        self.mask = np.arange(int(systems.num_atoms.max())) < systems.num_atoms[:, None]
        self.slots = np.flatnonzero(self.mask)

    def __call__(self, flat: np.ndarray, dtype: type[np.generic]) -> Tensor:
        """Pads (A, ...) with zeros to (B, N, ...)."""
        padded = np.zeros((self.mask.size, *flat.shape[1:]), dtype)
        padded[self.slots] = flat
        return torch.from_numpy(padded.reshape(*self.mask.shape, *flat.shape[1:]))

    def field(self, name: str, dtype: type[np.generic]) -> Tensor | None:
        values = _values(self.systems, name)
        return None if values is None else self(values, dtype)


def _values(systems: Gathered, name: str) -> np.ndarray | None:
    if name in systems.lacking:
        raise DataError(f"Expected '{name}' in all systems of a batch or in none; '{systems.lacking[name]}' has none.")
    return systems.fields.get(name)


def _bond_type(systems: Gathered, num_atoms: int) -> Tensor:
    """Returns 1 + the features of the bond between two atoms as one mixed-radix number, 0 without. (B, N, N)."""
    bonds, features = _values(systems, "bond_index"), _values(systems, "bond_features")
    size = len(systems.index)
    result = np.zeros((size, num_atoms, num_atoms), np.int64)
    if bonds is None or features is None or systems.num_bonds is None:
        return torch.from_numpy(result)
    system = np.repeat(np.arange(size), systems.num_bonds)
    kind, stereo, conjugated = features.astype(np.int64).T
    numbers = 1 + (kind * BOND_FEATURE_SIZES[1] + stereo) * BOND_FEATURE_SIZES[2] + conjugated
    result[system, bonds[0], bonds[1]] = numbers
    return torch.from_numpy(result)


def gather_samples(samples: Sequence[Sample]) -> Gathered:
    """Joins samples to flat arrays. Of list columns those that `collate_gathered` reads."""
    records = [sample.record for sample in samples]
    fields: dict[str, np.ndarray] = {}
    lacking: dict[str, str] = {}
    for name in (*_FIELDS, *_OF_SYSTEMS):
        values = [getattr(record, name) for record in records]
        known = [value for value in values if value is not None]
        if len(known) == len(records):
            join = np.stack if name in _OF_SYSTEMS else np.concatenate
            fields[name] = join(known, axis=1 if name == "bond_index" else 0)
        elif known:
            lacking[name] = next(record.id for record, value in zip(records, values, strict=True) if value is None)
    bonds = [record.bond_index for record in records if record.bond_index is not None]
    return Gathered(
        index=np.array([sample.index for sample in samples], np.int64),
        num_atoms=np.array([len(sample.positions) for sample in samples], np.int64),
        positions=np.concatenate([sample.positions for sample in samples]),
        target_positions=_target_positions(samples),
        fields=fields,
        num_bonds=np.array([bond.shape[1] for bond in bonds]) if "bond_index" in fields else None,
        lacking=lacking,
        targets={
            name: np.array([record.targets.get(name, np.nan) for record in records])
            for name in dict.fromkeys(name for record in records for name in record.targets)
        },
    )


def _target_positions(samples: Sequence[Sample]) -> np.ndarray | None:
    if all(sample.target_positions is None for sample in samples):
        return None
    return np.concatenate(
        [
            np.full_like(sample.positions, np.nan) if sample.target_positions is None else sample.target_positions
            for sample in samples
        ]
    )


def shortest_paths(bonded: Tensor) -> Tensor:
    """Returns the number of bonds between all pairs of atoms, breadth first for all systems at once. (B, N, N) int64.

    `MAX_PATH` stands for itself and everything longer, `MAX_PATH + 1` for pairs that no path connects.

    Args:
        bonded: True where two atoms share a bond. (B, N, N), on the CPU
    """
    size, num_atoms = bonded.shape[:2]
    atom = np.arange(size * num_atoms)
    first, within = np.divmod(np.flatnonzero(bonded.numpy()), num_atoms)
    neighbour = first - first % num_atoms + within
    starts = np.flatnonzero(np.diff(first, prepend=-1))
    bonded_atoms = first[starts]
    # which atoms of its system each atom reaches in so many steps, one bit each, 64 to a number
    bits = np.zeros((len(atom), -(-num_atoms // 64) * 64), np.bool_)
    bits[atom, atom % num_atoms] = True
    reached = np.packbits(bits, axis=1).view(np.uint64)
    paths = np.zeros((len(atom), num_atoms), np.uint8)
    for length in itertools.count():
        if length < MAX_PATH:
            # every round adds one for the pairs not yet reached, so that the path length is the number of such rounds
            paths += _unpacked(~reached, num_atoms)
        further = reached.copy()
        further[bonded_atoms] |= np.bitwise_or.reduceat(reached.take(neighbour, axis=0), starts, axis=0)
        if np.array_equal(further, reached):
            break
        reached = further
    paths += (MAX_PATH + 1 - paths) * _unpacked(~reached, num_atoms)
    return torch.from_numpy(paths.astype(np.int64)).view(size, num_atoms, num_atoms)


def _unpacked(words: np.ndarray, num_bits: int) -> np.ndarray:
    """Returns the first bits of every row of 64-bit words as 0 and 1. (R, num_bits) uint8"""
    return np.unpackbits(words.view(np.uint8), axis=1, count=num_bits)
