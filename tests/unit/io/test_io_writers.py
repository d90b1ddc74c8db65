from __future__ import annotations

import csv
import errno
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from geomformer.errors import ConfigError, DataError
from geomformer.io.readers import read_molecules
from geomformer.io.writers import MOL_KEY, open_writer

COLUMNS = {"index": int, "id": str, "gap": float}
BLOCK = "a\n  test\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0 0.0 C   0  0\nM  END\n> <old>\n1\n\n"
ROWS: list[dict[str, Any]] = [
    {"index": 0, "id": "a", "gap": np.float64(0.1), MOL_KEY: BLOCK},
    {"index": np.int64(1), "id": "b\n$$$$", "gap": None, "other": 3},
    {"index": 2, "id": None, "gap": float("nan"), MOL_KEY: "garbage"},
]


def write(path: Path) -> None:
    with open_writer(path, COLUMNS) as writer:
        writer.write(ROWS[:1])
        writer.write(ROWS[1:])
    assert not list(path.parent.glob("*.partial"))


def test_csv(tmp_path: Path) -> None:
    write(tmp_path / "new" / "a.csv")
    rows = list(csv.reader((tmp_path / "new" / "a.csv").read_text().splitlines(keepends=True)))
    assert rows == [["index", "id", "gap"], ["0", "a", "0.1"], ["1", "b\n$$$$", ""], ["2", "", ""]]


def test_jsonl_gz(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz")
    with gzip.open(tmp_path / "a.jsonl.gz", "rt") as handle:
        rows = [json.loads(line) for line in handle]
    assert rows[0] == {"index": 0, "id": "a", "gap": 0.1} and rows[2]["gap"] is None


def test_parquet(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("gap").to_pylist() == [0.1, None, None]
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "double"]


@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz"])
def test_sdf_has_one_record_per_row(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    found = list(read_molecules(tmp_path / name))
    assert len(found) == 3
    assert found[0].columns == {"index": "0", "id": "a", "gap": "0.1"}
    assert " C " in found[0].text and "old" not in found[0].columns
    assert "gap" not in found[1].columns and "  0  0" in found[1].text


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.sdf"])
def test_an_interrupted_run_keeps_its_rows_and_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt) as caught, open_writer(path, COLUMNS) as writer:
        writer.write(ROWS[:1])
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    partial = tmp_path / f"{name}.partial"
    assert str(partial) in caught.value.__notes__[0]
    if name.endswith("parquet"):
        assert pq.read_table(partial).num_rows == 1
    else:
        assert "0.1" in partial.read_text()


def test_a_full_disk_is_a_data_error_that_names_the_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(DataError, match=r"No space left.*a.csv.partial"),
        open_writer(tmp_path / "a.csv", COLUMNS) as writer,
    ):
        writer.write(ROWS[:1])

        def full(rows: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(writer, "_write", full)
        writer.write(ROWS[1:])
    assert (tmp_path / "a.csv.partial").read_text().startswith("index,id,gap\n0,a,0.1")


def test_a_user_error_keeps_its_message_and_names_the_partial_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad row. Fix it. .*a.csv.partial"), open_writer(tmp_path / "a.csv", COLUMNS):
        raise DataError("bad row.", "Fix it.")


def test_unusable_outputs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsonl"):
        open_writer(tmp_path / "a.xlsx", COLUMNS)
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(ConfigError, match="folder"):
        open_writer(tmp_path / "b.csv", COLUMNS)


def test_a_second_writer_of_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with open_writer(path, ["a"]) as writer:
        with pytest.raises(DataError, match="Another process"), open_writer(path, ["a"]):
            pass
        writer.write([{"a": "1"}])
    assert path.read_text().split() == ["a", "1"]
    with open_writer(path, ["a"]) as writer:
        writer.write([{"a": "2"}])
    assert path.read_text().split() == ["a", "2"]
