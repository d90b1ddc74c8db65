"""Random batches from a prepared dataset of a million molecules, against copying as many bytes from random places.

python tests/benchmarks/bench_access.py --molecules 1000000 --conformers 1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import torch

from geomformer.prepared import collate
from geomformer.prepared.cache import mappable
from geomformer.prepared.gathered import Gathered
from geomformer.prepared.schema import LIST_COLUMNS, schema_for
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch

BLOCK_ROWS = 16384
MEAN_ATOMS, SPREAD_ATOMS = 14.1, 2.5
BONDS_PER_ATOM = 1.04


def lists(values: np.ndarray, lengths: np.ndarray, name: str) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kind = LIST_COLUMNS[name][0]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind), type=pa.list_(kind))


def block(rng: np.random.Generator, first: int, rows: int, conformers: int, schema: pa.Schema) -> pa.Table:
    """Molecules of 5 to 29 atoms with the bonds of a chain and a few rings, all drawn at once."""
    atoms = np.clip(rng.normal(MEAN_ATOMS, SPREAD_ATOMS, rows).round(), 5, 29).astype(np.int64)
    bonds = 2 * np.floor(atoms * BONDS_PER_ATOM).astype(np.int64)
    total, both = int(atoms.sum()), int(bonds.sum())
    within = np.arange(both) - np.repeat(np.cumsum(bonds) - bonds, bonds)
    size = np.repeat(atoms, bonds)
    start, step = (within // 2) % size, 1 + 4 * (within // 2 // size)
    ends = np.where(within % 2, (start + step) % size, start), np.where(within % 2, start, (start + step) % size)
    # a row stores the first atoms of all its bonds, then the second ones
    place = np.arange(both) + np.repeat(np.cumsum(bonds) - bonds, bonds)
    bond_index = np.empty(2 * both, np.int16)
    bond_index[place], bond_index[place + np.repeat(bonds, bonds)] = ends
    columns = {
        "id": pa.array([str(row) for row in range(first, first + rows)]),
        "smiles": pa.array(["C" * 20] * rows),
        "num_conformers": pa.array(np.full(rows, conformers, np.uint8)),
        "atomic_numbers": lists(rng.integers(6, 9, total, np.uint8), atoms, "atomic_numbers"),
        "positions": lists(rng.random(3 * conformers * total, np.float32), 3 * conformers * atoms, "positions"),
        "conformer_source": lists(
            np.full(conformers * rows, 2, np.uint8), np.full(rows, conformers), "conformer_source"
        ),
        "target_positions": lists(rng.random(3 * total, np.float32), 3 * atoms, "target_positions"),
        "atom_features": lists(rng.integers(0, 2, 9 * total, np.uint8), 9 * atoms, "atom_features"),
        "bond_index": lists(bond_index, 2 * bonds, "bond_index"),
        "bond_features": lists(rng.integers(0, 2, 3 * both, np.uint8), 3 * bonds, "bond_features"),
        "gap": pa.array(rng.random(rows)),
    }
    arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in schema]
    return mappable(pa.Table.from_arrays(arrays, schema=schema))


def write(path: Path, molecules: int, conformers: int) -> None:
    rng = np.random.default_rng(0)
    schema = schema_for({"gap": "ev"})
    writer = None
    for first in range(0, molecules, BLOCK_ROWS):
        table = block(rng, first, min(BLOCK_ROWS, molecules - first), conformers, schema)
        if writer is None:
            writer = pa.ipc.new_file(str(path), table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def rate(work: Callable[[np.ndarray], object], batches: list[np.ndarray], repeats: int) -> float:
    """Molecules per second, the best of several rounds, since other work on the machine only slows one down."""
    rounds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for rows in batches:
            work(rows)
        rounds.append(time.perf_counter() - start)
    return sum(len(rows) for rows in batches) / min(rounds)


def anonymous_mib() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def measure(split: PreparedSplit, arguments: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(len(split))[: arguments.batches * arguments.batch_size]
    batches = [order[start : start + arguments.batch_size] for start in range(0, len(order), arguments.batch_size)]
    conformer = rng.integers(arguments.conformers, size=arguments.batch_size)
    sample = split.gather(order[:10000])
    arrays = [sample.positions, sample.target_positions, *sample.fields.values(), *sample.targets.values()]
    size = sum(array.nbytes for array in arrays if array is not None) // len(sample.index)
    mapped = np.memmap(split.path, np.uint8, mode="r")
    begins = rng.integers(len(mapped) - size, size=len(split))
    out = np.empty(size, np.uint8)

    def floor(rows: np.ndarray) -> None:
        for begin in begins[rows].tolist():
            out[:] = mapped[begin : begin + size]

    def gather(rows: np.ndarray) -> Gathered:
        return split.gather(rows, conformer[: len(rows)])

    def without_paths(rows: np.ndarray) -> Batch:
        with mock.patch.object(collate, "shortest_paths", lambda bonded: bonded):
            return collate.collate_gathered(gather(rows))

    works: dict[str, Callable[[np.ndarray], object]] = {
        "floor: one copy per molecule": floor,
        "gather": gather,
        "gather, pad": lambda rows: collate.collate_gathered(gather(rows), features=False),
        "gather, pad, atom features, bonds": without_paths,
        "gather, pad, atom features, bonds, paths": lambda rows: collate.collate_gathered(gather(rows)),
        "one Record per molecule": lambda rows: [split[row] for row in rows.tolist()],
    }
    gigabytes = split.path.stat().st_size / 1e9
    print(
        f"{len(split)} molecules, {size} bytes read of each, batches of {arguments.batch_size}, file {gigabytes:.2f} GB"
    )
    before = anonymous_mib()
    for name, work in works.items():
        print(f"{name:42s} {rate(work, batches, arguments.repeats):12,.0f} molecules/s")
    print(f"anonymous memory {before:.0f} MiB before, {anonymous_mib():.0f} MiB after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--molecules", type=int, default=1_000_000)
    parser.add_argument("--conformers", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.arrow"
        write(path, arguments.molecules, arguments.conformers)
        measure(PreparedSplit(path, "train"), arguments)


if __name__ == "__main__":
    main()
