"""The official files of PCQM4Mv2: the table of molecules, the split, and the geometries of the train split.

Source: Hu et al., OGB-LSC, arXiv:2103.09430. All are read in one pass, from their archives or unpacked.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from geomformer.datasets.raw.archives import tar_members, zip_members
from geomformer.errors import DataError
from geomformer.io.sdf import MAX_RECORD

ARCHIVE = "pcqm4m-v2.zip"
GEOMETRIES = "pcqm4m-v2-train.sdf.tar.gz"
SPLITS = ("train", "valid", "test-dev", "test-challenge")
OFFICIAL_ROWS = {"train": 3_378_606, "valid": 73_545, "test-dev": 147_037, "test-challenge": 147_432}
CHUNK = 2**20
MAX_ROWS = 10**8
"""More than any table of this kind has; a larger row number is damage."""

_COLUMNS = ("idx", "smiles", "homolumogap")
_TABLE, _SPLIT, _GEOMETRY = "the table", "the split", "the geometries"
_NAMES = {
    ARCHIVE: (_TABLE, _SPLIT),
    "data.csv.gz": (_TABLE,),
    "data.csv": (_TABLE,),
    "split_dict.pt": (_SPLIT,),
    GEOMETRIES: (_GEOMETRY,),
    "pcqm4m-v2-train.sdf": (_GEOMETRY,),
    "pcqm4m-v2-train.sdf.gz": (_GEOMETRY,),
}
"""What is found in files of these names, the first ones preferred."""
_ENDINGS = {
    ".zip": (_TABLE, _SPLIT),
    ".csv.gz": (_TABLE,),
    ".csv": (_TABLE,),
    ".pt": (_SPLIT,),
    ".tar.gz": (_GEOMETRY,),
    ".sdf": (_GEOMETRY,),
    ".sdf.gz": (_GEOMETRY,),
}
"""The same for files that the user names one by one."""
_AGAIN = "Download it again."
_LOST = re.compile(r" \(row of ([\w-]+)\)$")


@dataclass(frozen=True)
class Files:
    """Where the parts of the dataset are.

    Attributes:
        table, splits: `data.csv.gz` and `split_dict.pt`, or the archive that holds both.
        geometry: SDF of the train split, None if it is not wanted.
    """

    table: Path
    splits: Path
    geometry: Path | None

    @property
    def all(self) -> list[Path]:
        """Every file once."""
        return list(dict.fromkeys(path for path in (self.table, self.splits, self.geometry) if path is not None))


def find(paths: Sequence[Path], *, geometry: bool) -> Files | list[str]:
    """Looks for the files in folders, at any depth, and among files that are named.

    Args:
        paths: files and folders.
        geometry: whether the geometries are wanted.

    Returns:
        The files, or the names of the official ones that are missing.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside: dict[str, list[Path]] = {}
        for item in sorted(path.rglob("*")) if path.is_dir() else ():
            if item.name in _NAMES and item.is_file():
                inside.setdefault(item.name, []).append(item)
        for name, parts in _NAMES.items():
            for part in parts if name in inside else ():
                found.setdefault(part, inside[name][0])
        if path.is_file():
            for part in next((parts for end, parts in _ENDINGS.items() if path.name.lower().endswith(end)), ()):
                found.setdefault(part, path)
    missing = [] if {_TABLE, _SPLIT} <= found.keys() else [ARCHIVE]
    if geometry and _GEOMETRY not in found:
        missing.append(GEOMETRIES)
    return missing or Files(found[_TABLE], found[_SPLIT], found[_GEOMETRY] if geometry else None)


def lost_reason(reason: str, split: str | None) -> str:
    """Returns the reason of a row in `rejected.parquet` together with its split, for `lost_from`."""
    return f"{reason} (row of {split})"


def lost_from(reason: str) -> str | None:
    """Returns the split that a row in `rejected.parquet` is lost from; None for train rows."""
    found = _LOST.search(reason)
    return found[1] if found else None


@contextlib.contextmanager
def opened(path: Path, endings: tuple[str, ...]) -> Iterator[IO[bytes]]:
    """Opens a file, or the member of an archive whose name has one of the endings; without gzip around it.

    Raises:
        DataError: there is no such member, or the file is damaged; also while it is read.
    """
    with _undamaged(path), contextlib.ExitStack() as stack:
        members: Iterator[tuple[str, IO[bytes], int]] = iter(())
        if path.name.lower().endswith((".zip", ".tar.gz")):
            read = zip_members if path.name.lower().endswith(".zip") else tar_members
            members = read(path, lambda name: name.endswith(endings) and not name.rpartition("/")[2].startswith("."))
            name, handle, _ = next(members, ("", None, 0))
            if handle is None:
                raise DataError(f"Expected {endings[0]} in {path}, found no such member.", _AGAIN)
        else:
            name, handle = path.name, stack.enter_context(path.open("rb"))
        if name.endswith(".gz"):
            handle = cast(IO[bytes], stack.enter_context(gzip.open(handle)))
        yield handle
        for _ in members:
            # To the end of the archive, where its checksum is.
            pass


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or ends early: {error}.", _AGAIN) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.", "Check the file and its disk.") from error


def table_rows(path: Path) -> Iterator[tuple[int, str, float]]:
    """Yields idx, SMILES and gap (eV, NaN where the table has none) of every row of the table.

    Args:
        path: `data.csv.gz`, `data.csv`, or the archive.

    Raises:
        DataError: the table is damaged, or idx does not ascend.
    """
    with opened(path, ("data.csv.gz", "data.csv")) as handle:
        reader = csv.reader(io.TextIOWrapper(handle, encoding="utf-8-sig", errors="replace", newline=""))
        last = -1
        try:
            header = next(reader, [])
            if not set(_COLUMNS) <= set(header):
                found = ", ".join(header)[:200] or "none"
                raise DataError(f"Expected the columns {', '.join(_COLUMNS)} in {path}, found {found}.", _AGAIN)
            places = [header.index(name) for name in _COLUMNS]
            for fields in reader:
                index, smiles, gap = (fields[place] for place in places)
                row = int(index), smiles, float(gap) if gap.strip() else math.nan
                if not last < row[0] < MAX_ROWS or math.isinf(row[2]):
                    raise ValueError(f"idx {index[:20]} and gap {gap[:20]} after idx {last}")
                last = row[0]
                yield row
        except (ValueError, IndexError, csv.Error) as error:
            raise DataError(
                f"Expected ascending idx, SMILES and finite gaps in the table of {path}, found line {reader.line_num} "
                f"damaged: {error}.",
                _AGAIN,
            ) from error


def sdf_records(path: Path) -> Iterator[str]:
    """Yields the mol block of every record of an SDF.

    Args:
        path: `.sdf`, `.sdf.gz`, or the `.tar.gz` that holds one.

    Raises:
        DataError: the file is damaged or ends within a record.
    """
    with opened(path, (".sdf",)) as handle:
        # The rest of the line that ends a record stands before the next record: so it does here.
        rest = b"\n"
        while chunk := handle.read(CHUNK):
            *whole, rest = (rest + chunk).split(b"\n$$$$")
            for record in whole:
                yield _block(record)
            if len(rest) > MAX_RECORD:
                raise DataError(
                    f"Expected records ended by $$$$ in {path}, found one of more than {MAX_RECORD} bytes.", _AGAIN
                )
        if rest.partition(b"\n")[2].strip():
            raise DataError(f"{path} ends within a record, without $$$$.", _AGAIN)


def _block(record: bytes) -> str:
    text = record.partition(b"\n")[2].decode("utf-8", "replace").replace("\r\n", "\n")
    block, end, _ = text.partition("\nM  END")
    return f"{block}{end}\n"
