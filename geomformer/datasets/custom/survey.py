"""First pass over files of molecules: everything that can be wrong is found, and rows are grouped for the split."""

from __future__ import annotations

import functools
import logging
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geomformer.chem.molecules import canonicalise, read_molecule
from geomformer.chem.scaffolds import murcko_scaffold
from geomformer.datasets.options import PrepareOptions, open_executor
from geomformer.datasets.rows import count_labels, text_key
from geomformer.errors import ConfigError, DataError, MoleculeError
from geomformer.executors import Failure
from geomformer.io.streams import TRUNCATED
from geomformer.io.xyz import RawStructure
from geomformer.prepared.splits import grouped_split, split_counts
from geomformer.records import RawMolecule

logger = logging.getLogger(__name__)

SCHEMES = ("random", "scaffold")
TELL_SECONDS = 10.0
_SPLIT_NAMES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}


@dataclass
class Survey:
    """What a first pass over the files found, in 16 bytes per row.

    Attributes:
        groups: a number per row, the same for rows that have to be in the same split; none with a split column. (R,)
        ids: a hash of every row's identifier. (R,) uint64
        labels: number of labels of every target.
        splits: rows of every split that the input names.
    """

    groups: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    labels: dict[str, int] = field(default_factory=dict)
    splits: Counter[str | None] = field(default_factory=Counter)

    def counted(self, rows: Iterable[tuple[Path, RawMolecule]]) -> Iterator[RawMolecule]:
        told = time.monotonic()
        for path, raw in rows:
            if raw.problem == TRUNCATED:
                raise DataError(
                    f"The compressed file {path} is cut off or damaged after {raw.index} records.",
                    "Fetch or compress it again; `gzip -t` tells when it is whole.",
                )
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                logger.info("looked through %d rows", len(self.ids))
            self.ids.append(text_key(raw.id))
            count_labels(self.labels, raw.targets)
            self.splits[split_name(raw, path)] += 1
            yield raw


def survey(rows: Iterable[tuple[Path, RawMolecule]], options: PrepareOptions, max_atoms: int) -> Survey:
    """Reads all rows once, so that every label is checked before any long work starts.

    Without a split column rows are grouped, in worker processes: by molecule (canonical SMILES), by scaffold
    (`options.split_scheme`), or by geometry where there are no bonds. A row that cannot be parsed is grouped with those
    of the same text.

    Args:
        rows: all rows, each with its file.
        options: of which the split and the workers are used.
        max_atoms: larger molecules are not parsed; they will be rejected.

    Raises:
        DataError: a label is not numeric, the name of a split cannot be one, or a compressed file is cut off.
    """
    logger.info("looking through all rows: labels and split")
    found = Survey()
    if options.split_column is not None:
        deque(found.counted(rows), maxlen=0)
        return found
    texts: deque[int] = deque()

    def bare() -> Iterator[RawMolecule]:
        for raw in found.counted(rows):
            texts.append(_text_group(raw))
            yield RawMolecule(raw.index, "", raw.text, raw.kind, problem=raw.problem)

    find = functools.partial(structure_group, scaffold=options.split_scheme == "scaffold", max_atoms=max_atoms)
    with open_executor(options) as executor:
        for group in executor.map(find, bare()):
            text = texts.popleft()
            found.groups.append(text if group is None or isinstance(group, Failure) else group)
    return found


def structure_group(raw: RawMolecule, *, scaffold: bool, max_atoms: int) -> int | None:
    """Returns a hash of a row's canonical SMILES or scaffold; None where it has none. Runs in a worker process."""
    if raw.kind == "xyz":
        return None
    try:
        mol = read_molecule(raw)
        if mol.GetNumHeavyAtoms() > max_atoms:
            return None
        return text_key(murcko_scaffold(mol) if scaffold else canonicalise(mol).smiles)
    except MoleculeError:
        return None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - RDKit raises many types; the row will be rejected with the reason
        return None


def _text_group(raw: RawMolecule) -> int:
    """Returns a hash of the geometry, of the SMILES, or of the mol block without its three header lines."""
    if isinstance(raw, RawStructure):
        if raw.record is None or raw.record.atomic_numbers is None:
            return text_key(f"frame {raw.index}")
        return text_key(raw.record.atomic_numbers.tobytes().hex() + raw.record.positions.tobytes().hex())
    return text_key("text " + (raw.text if raw.kind == "smiles" else "".join(raw.text.split("\n", 3)[3:])))


def split_name(raw: RawMolecule, path: Path) -> str | None:
    """Returns the usual name of the split that a row names.

    Raises:
        DataError: the name cannot be part of a file name.
    """
    if raw.split is None:
        return None
    name = _SPLIT_NAMES.get(raw.split.lower(), raw.split.lower())
    if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
        raise DataError(
            f"Expected a split such as train, valid or test, found '{raw.split}' in record {raw.index} of {path}."
        )
    return name


def draw_split(found: Survey, fractions: Mapping[str, float], options: PrepareOptions) -> np.ndarray:
    """Returns the split (in the order of `fractions`) of every row. (R,) uint8

    Raises:
        ConfigError: there are too few scaffolds to give every split some.
    """
    groups = np.frombuffer(found.groups, np.uint64)
    seed = options.seed or 0
    if options.split_scheme != "scaffold":
        return grouped_split(groups, fractions, seed)
    numbers = scaffold_groups_split(groups, fractions, seed)
    counts = np.bincount(numbers, minlength=len(fractions))
    for name, count in zip(fractions, counts.tolist(), strict=True):
        if fractions[name] and not count:
            raise ConfigError(
                f"The scaffold split leaves '{name}' without a row: {len(groups)} rows have only "
                f"{len(np.unique(groups))} scaffolds.",
                "Use the random split.",
            )
    return numbers


def scaffold_groups_split(groups: np.ndarray, fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Returns the split of every row, the same for rows of one group; large groups go to the first split.

    Groups, numbered by their first rows, are taken in the order that `numpy.random.default_rng(seed).permutation`
    gives. Each goes to the first of the other splits where it fills no more than half of the split's rows (see
    `split_counts`) and still fits; else to the first split. So the first split gets the rows that make up few large
    groups, and the others many different ones.

    Args:
        groups: one number per row. (R,)
        fractions: share of every split; they add up to 1.
        seed: seed of the draw.

    Returns:
        (R,) uint8.
    """
    _, first, group, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    by_first = np.argsort(first, kind="stable")
    room = list(split_counts(len(groups), fractions).values())
    largest = [max(1, rows // 2) for rows in room]
    chosen = np.zeros(len(sizes), np.uint8)
    for number in by_first[np.random.default_rng(seed).permutation(len(sizes))].tolist():
        size = int(sizes[number])
        fitting = (split for split in range(1, len(room)) if size <= min(largest[split], room[split]))
        split = next(fitting, 0)
        chosen[number] = split
        room[split] -= size
        if not any(room[1:]):
            break
    return chosen[group]
