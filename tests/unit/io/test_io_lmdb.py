"""LMDBs that the library of that name wrote are read as it reads them; damaged ones never end the process."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from geomformer.errors import DataError
from geomformer.io.lmdb import LmdbFile, count_values, read_value

SAMPLE = Path(__file__).parents[3] / "data" / "samples" / "oc20" / "is2re_oc20_derived.lmdb"


def write(path: Path, count: int, longest: int, per_transaction: int) -> dict[bytes, bytes]:
    draw = random.Random(count)
    contents = {str(index).encode(): draw.randbytes(draw.randrange(longest + 1)) for index in range(count)}
    keys = list(contents)
    with lmdb.open(str(path), subdir=False, map_size=2**28, lock=False, meminit=False, sync=False) as environment:
        for start in range(0, count, per_transaction):
            with environment.begin(write=True) as transaction:
                for key in keys[start : start + per_transaction]:
                    transaction.put(key, contents[key])
    return contents


@pytest.mark.parametrize(
    ("count", "longest", "per_transaction"),
    [(0, 0, 1), (1, 10, 1), (30, 5000, 1), (2000, 3000, 50), (20_000, 60, 20_000), (20, 100_000, 20)],
)
def test_all_values_of_trees_of_all_depths(tmp_path: Path, count: int, longest: int, per_transaction: int) -> None:
    path = tmp_path / "data.lmdb"
    contents = write(path, count, longest, per_transaction)
    file = LmdbFile(str(path))
    assert file.entries == count == count_values(path)
    assert all(file.get(key) == value for key, value in contents.items())
    assert not any(file.get(key) for key in (b"", b"-1", b"0x", b"zzz", str(count).encode()))
    file.close()


def test_values_that_were_replaced_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    contents = write(path, 500, 3000, 10)
    with lmdb.open(str(path), subdir=False, map_size=2**28, lock=False) as environment:
        for key in list(contents)[::3]:
            with environment.begin(write=True) as transaction:
                contents[key] = key * 1000
                transaction.put(key, contents[key])
        with environment.begin(write=True) as transaction:
            for key in list(contents)[400:]:
                del contents[key]
                transaction.delete(key)
    file = LmdbFile(str(path))
    assert file.entries == len(contents) == 400
    assert all(file.get(key) == value for key, value in contents.items())
    file.close()


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    write(path, 3, 10, 3)
    before = read_value(str(path), "0")
    path.unlink()
    after = write(path, 4, 10, 4)
    assert read_value(str(path), "0") == after[b"0"] != before
    with pytest.raises(DataError, match="Expected the key '4'"):
        read_value(str(path), "4")
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_value(str(path), "0")


def test_no_process_leaves_a_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write(path, 2, 10, 2)
    code = f"from geomformer.io.lmdb import read_value; read_value({str(path)!r}, '0')"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_many_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.lmdb" for index in range(20)]
    contents = [write(path, 2, 10, 2) for path in paths]
    for _ in range(2):
        for path, expected in zip(paths, contents, strict=True):
            assert read_value(str(path), "1") == expected[b"1"]


def test_any_change_of_bytes_gives_values_or_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    write(path, 2000, 3000, 50)
    draw = random.Random(0)
    for source in (SAMPLE.read_bytes(), path.read_bytes()):
        for _ in range(150):
            damaged = bytearray(source)
            for _ in range(40):
                damaged[draw.randrange(len(source) // 4096) * 4096 + draw.randrange(draw.choice((64, 4096)))] = (
                    draw.randrange(256)
                )
            path.write_bytes(damaged[: draw.choice((len(source), draw.randrange(len(source))))])
            _ignoring_data_errors(lambda: count_values(path))
            _ignoring_data_errors(lambda: read_value(str(path), str(draw.randrange(26))))


def _ignoring_data_errors(action: Callable[[], object]) -> None:
    try:
        action()
    except DataError:
        return
