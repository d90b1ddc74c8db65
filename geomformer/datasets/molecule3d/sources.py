"""The official files of Molecule3D, read side by side."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from geomformer.errors import DataError
from geomformer.io.sdf import records, split_record
from geomformer.io.streams import TRUNCATED, TruncatedStreamError, lines
from geomformer.prepared.schemes import SPLITS
from geomformer.records import RawMolecule

logger = logging.getLogger(__name__)

ADDRESS = "https://drive.google.com/drive/folders/1y-EyoDYMvWZwClc2uvXrM4_hQBtM85BI"
PROPERTIES = "properties.csv"
INDEX_FILES = {"random": "random_split_inds.json", "scaffold": "scaffold_split_inds.json"}
"""File with the split of every scheme."""

COLUMNS = {
    "gap": ("homolumogap", "ev"),
    "homo": ("homo", "ev"),
    "lumo": ("lumo", "ev"),
    "dipole_x": ("dipole x", "debye"),
    "dipole_y": ("dipole y", "debye"),
    "dipole_z": ("dipole z", "debye"),
    "scf_energy": ("scf energy", "ev"),
}
"""Column of `properties.csv` and unit of every target: cclib, which wrote them, gives eV and Debye."""

_SHARD = re.compile(r"combined_mols_(\d+)_to_(\d+)\.sdf(\.gz)?")
_CID_PROPERTIES = ("PUBCHEM_COMPOUND_CID", "CID", "cid")
_CID = re.compile(r"(?:.*/)?(?:cid[\s:_-]*)?(\d{1,12})(?:\.\w+)?", re.IGNORECASE)
_END = re.compile(rb"\$\$\$\$[^\n]*\s*\Z")


@dataclass(frozen=True)
class Shard:
    """One of the SDF files: records `start` to `end` (exclusive) of the dataset."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class Files:
    """The official files.

    Attributes:
        shards: the SDF files in order; together they hold every record once.
        properties: the table, row r for record r.
        indices: the split files that are there, by scheme.
    """

    shards: tuple[Shard, ...]
    properties: Path
    indices: dict[str, Path]

    @property
    def num_records(self) -> int:
        return self.shards[-1].end


def find_files(raw: Sequence[Path], folder: Path) -> Files:
    """Returns the official files.

    Args:
        raw: the files, or folders that hold them; nothing: `folder`.
        folder: their usual place. In it and in every folder of `raw`, `raw` and `data/raw` are looked into as well.

    Raises:
        DataError: files are missing, which cannot be downloaded; or the numbers in the names of the SDF files leave
            records out; or an SDF file ends within a record.
    """
    found = {path.name: path for path in _candidates(raw or [folder])}
    numbered = [(match, path) for name, path in found.items() if (match := _SHARD.fullmatch(name))]
    shards = [Shard(path, int(match[1]), int(match[2])) for match, path in numbered]
    shards.sort(key=lambda shard: (shard.start, shard.end, shard.path.name))
    if not shards or PROPERTIES not in found:
        raise _missing(bool(shards), [str(path) for path in raw] or [str(folder)])
    _check_ranges(shards)
    for shard in shards:
        _check_end(shard.path)
    indices = {scheme: found[name] for scheme, name in INDEX_FILES.items() if name in found}
    return Files(tuple(shards), found[PROPERTIES], indices)


def _candidates(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        for place in (path / "data" / "raw", path / "raw", path):
            if place.is_dir():
                yield from sorted(item for item in place.iterdir() if item.is_file())
        if path.is_file():
            yield path


def _missing(has_shards: bool, places: Sequence[str]) -> DataError:
    wanted = PROPERTIES if has_shards else "combined_mols_0_to_1000000.sdf, ..., combined_mols_3000000_to_3899647.sdf"
    return DataError(
        f"Expected the files of Molecule3D, found no {wanted} in {', '.join(places)}.",
        f"They cannot be downloaded by a program: fetch combined_mols_*.sdf, {PROPERTIES} and, if they are to be used, "
        f"{' and '.join(INDEX_FILES.values())} from {ADDRESS} with a browser, and put them into that folder or name "
        "their folder with --raw.",
    )


def _check_ranges(shards: Sequence[Shard]) -> None:
    if shards[0].start:
        raise DataError(
            f"Expected records from 0, found {shards[0].path.name} as the first SDF file.", "Fetch those before it."
        )
    for shard in shards:
        if shard.end <= shard.start:
            raise DataError(f"Expected a first record before the last one in the name of {shard.path}.", "Rename it.")
    for before, after in pairwise(shards):
        if after.start != before.end:
            raise DataError(
                f"Expected an SDF file from record {before.end} after {before.path.name}, found {after.path.name}.",
                "Every record must be in one of the files, and in one only.",
            )


def _check_end(path: Path) -> None:
    """Finds a file that was cut off before hours are spent on it; a compressed one tells when it is read."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 256))
        tail = handle.read()
    if path.suffix != ".gz" and not _END.search(tail):
        raise DataError(f"Expected $$$$ at the end of {path}, found a file that is cut off.", "Fetch it again.")


def read_rows(files: Files, targets: Sequence[str]) -> Iterator[RawMolecule]:
    """Yields every record with its labels, `index` counting over all files; the id is the CID.

    Args:
        files: the official files.
        targets: names of `COLUMNS`.

    Raises:
        DataError: a record and its row are of different CIDs, a file is cut off, or a label is not numeric.
    """
    rows = _properties(files, targets)
    nameless = 0
    for index, (path, number, text, problem) in enumerate(_all_records(files)):
        cid, labels = next(rows)
        # The official records have no properties: their text need not be searched line by line.
        block, columns = split_record(text) if "\n>" in text or not text.endswith("\n") else (text, {})
        found = _cid(block, columns)
        if found is not None and found != cid:
            raise DataError(
                f"Expected CID {cid} in record {number} of {path}, as row {index} of {files.properties} says, "
                f"found CID {found}.",
                "The rows of the table must follow the records: fetch the files again.",
            )
        nameless += found is None
        yield RawMolecule(index, str(cid), block, "mol", targets=labels, problem=problem)
    if nameless:
        logger.warning("%d of %d records say no CID: their order could not be checked", nameless, files.num_records)


def _cid(block: str, columns: dict[str, str]) -> int | None:
    """Returns the CID that a record gives as a property or, alone or as a file name, in its title line."""
    named = next((columns[name] for name in _CID_PROPERTIES if name in columns), block.split("\n", 1)[0])
    match = _CID.fullmatch(named.strip())
    return int(match[1]) if match else None


def _all_records(files: Files) -> Iterator[tuple[Path, int, str, str | None]]:
    """Yields file, number in it, text and problem of every record."""
    for shard in files.shards:
        wanted, number = shard.end - shard.start, 0
        for text, problem in records(shard.path):
            if problem == TRUNCATED:
                break
            if number == wanted:
                raise DataError(f"Expected {wanted} records in {shard.path}, as its name says, found more.")
            yield shard.path, number, text, problem
            number += 1
        if number < wanted:
            raise DataError(
                f"Expected {wanted} records in {shard.path}, found {number}: it is cut off.", "Fetch it again."
            )


def check_properties(files: Files) -> None:
    """Checks that the table has one row per record, in one quick pass.

    Raises:
        DataError: it has not.
    """
    count = sum(1 for line in _lines(files.properties) if line.strip()) - 1
    if count != files.num_records:
        raise DataError(
            f"Expected {files.num_records} rows in {files.properties}, one for each record of the SDF files, "
            f"found {max(count, 0)}.",
            "Fetch the table again, or the SDF files that are missing.",
        )


def _properties(files: Files, targets: Sequence[str]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields CID and labels of every row."""
    reader = csv.reader(line for line in _lines(files.properties) if line.strip())
    header = [re.sub(r"[\s_]+", " ", name.strip().lower()) for name in next(reader, [])]
    wanted = {"cid": "cid", **{target: COLUMNS[target][0] for target in targets}}
    for column in wanted.values():
        if column not in header:
            raise DataError(
                f"Expected a column '{column}' in {files.properties}, found {', '.join(header) or 'no header'}."
            )
    places = {name: header.index(column) for name, column in wanted.items()}
    for row, cells in enumerate(reader):
        if len(cells) != len(header):
            raise DataError(
                f"Expected {len(header)} fields in row {row} of {files.properties}, found {len(cells)}.",
                "Fetch the table again.",
            )
        text = cells[places["cid"]].strip()
        if not text.isascii() or not text.isdigit():
            raise DataError(f"Expected a number as 'cid' in row {row} of {files.properties}, found '{text}'.")
        where = f"row {row} of {files.properties}"
        yield int(text), {target: _label(cells[places[target]], COLUMNS[target][0], where) for target in targets}


def _label(text: str, column: str, where: str) -> float:
    """Reads a label; an empty cell is none."""
    try:
        value = float(text.strip() or "nan")
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise DataError(f"Expected a number as '{column}' in {where}, found '{text}'.")
    return value


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from lines(path)
    except TruncatedStreamError as error:
        raise DataError(f"The compressed file {path} ends early.", "Fetch it again.") from error


def read_indices(path: Path, num_records: int) -> np.ndarray:
    """Reads a split file: {"train": [...], "valid": [...], "test": [...]}, numbers of records from 0.

    Returns:
        number of every record's split in `SPLITS`. (R,) uint8

    Raises:
        DataError: the file is something else, or does not put every record into one split.
    """
    try:
        content = json.loads(path.read_bytes())
        parts = [np.array(content[name]) for name in SPLITS]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"Expected lists train, valid and test in {path}, found something else ({type(error).__name__}: {error}).",
            "Fetch the file again, or take it away: then the split is made anew.",
        ) from error
    numbers = np.full(num_records, len(SPLITS), np.uint8)
    for split, part in enumerate(parts):
        if part.ndim != 1 or (len(part) and part.dtype.kind != "i"):
            raise DataError(f"Expected a list of record numbers as '{SPLITS[split]}' in {path}, found something else.")
        wrong = part[(part < 0) | (part >= num_records)] if len(part) else part
        if len(wrong):
            raise DataError(
                f"Expected record numbers from 0 to {num_records - 1} in {path}, found {wrong[0]} in {SPLITS[split]}.",
                "The file belongs to other SDF files.",
            )
        numbers[part.astype(np.int64)] = split
    total = sum(map(len, parts))
    if total != num_records or (numbers == len(SPLITS)).any():
        raise DataError(
            f"Expected each of {num_records} records in one split in {path}, found {total} numbers for "
            f"{int((numbers < len(SPLITS)).sum())} records.",
            "The file belongs to other SDF files, or is damaged.",
        )
    return numbers
