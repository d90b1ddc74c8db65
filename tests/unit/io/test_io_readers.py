from __future__ import annotations

import gzip
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geomformer.errors import ConfigError, DataError
from geomformer.io.readers import input_columns, read_molecules
from geomformer.units import HARTREE_IN_EV

BLOCK = "{title}\n  test\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0 0.0 C   0  0\nM  END\n"


def write(path: Path, text: str) -> Path:
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def contract_count(text: str) -> int:
    return text.count("$$$$") + bool(text.rsplit("$$$$", 1)[-1].strip())


@pytest.mark.parametrize("ending", ["", "\n\n", "\n" + BLOCK.format(title="cut"), "\n   \n"])
@pytest.mark.parametrize("name", ["a.sdf", "a.sdf.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_sdf_records_are_those_of_the_contract(tmp_path: Path, ending: str, name: str, newline: str) -> None:
    text = BLOCK.format(title="first") + "> <gap_ev>\n1.5\n\n> 25 <note> (7)\ntwo\nlines\n\n$$$$\n"
    text += BLOCK.format(title="") + "$$$$\n$$$$" + ending
    path = write(tmp_path / name, text.replace("\n", newline))
    found = list(read_molecules(path))
    assert len(found) == contract_count(text)
    assert [raw.index for raw in found] == list(range(len(found)))
    assert [raw.id for raw in found[:3]] == ["first", "1", "2"]
    assert found[0].columns == {"gap_ev": "1.5", "note": "two\nlines"}
    assert found[0].text == BLOCK.format(title="first")
    assert found[0].kind == "mol" and found[0].problem is None
    assert found[2].problem == "empty record"


def test_sdf_columns_that_appear_late_are_known_up_front(tmp_path: Path) -> None:
    text = BLOCK.format(title="a") + "$$$$\n" + BLOCK.format(title="b") + "> <late_hartree>\n0.5\n\n$$$$\n"
    path = write(tmp_path / "a.sdf", text)
    assert input_columns(path) == ["late_hartree"]
    labels = [raw.targets["late"] for raw in read_molecules(path, targets=["late_hartree"])]
    assert math.isnan(labels[0]) and labels[1] == pytest.approx(0.5 * HARTREE_IN_EV)
    with pytest.raises(ConfigError, match="Did you mean 'late_hartree'"):
        read_molecules(path, targets=["late_hartee"])


def test_truncated_gzip_yields_what_is_readable_and_a_problem(tmp_path: Path) -> None:
    text = "".join(BLOCK.format(title=f"m{i}-{hash(i * 7919)}") + "$$$$\n" for i in range(5000))
    path = tmp_path / "a.sdf.gz"
    data = gzip.compress(text.encode())
    path.write_bytes(data[: len(data) // 2])
    found = list(read_molecules(path))
    assert 100 < len(found) < 5000
    assert all(raw.problem is None for raw in found[:-1])
    assert "ends early" in str(found[-1].problem)
    csv = tmp_path / "a.csv.gz"
    csv.write_bytes(gzip.compress(b"smiles\n" + b"CCO\n" * 10)[:-6])
    assert list(read_molecules(csv))[-1].problem is not None


def test_undecodable_bytes_do_not_stop_an_sdf(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    path.write_bytes(BLOCK.format(title="caf?").encode().replace(b"?", b"\xe9") + b"$$$$\n")
    assert next(iter(read_molecules(path))).id == "caf\ufffd"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_rows(tmp_path: Path, delimiter: str, name: str) -> None:
    rows = ["\ufeffName,SMILES,gap_mev,set", '"a ""x""",CCO,1500,train', "b,C", ",N,,valid", "", "d,,3,", "e,O,4,test,"]
    path = write(tmp_path / name, "\r\n".join(rows).replace(",", delimiter))
    assert input_columns(path) == ["Name", "SMILES", "gap_mev", "set"]
    found = list(read_molecules(path, targets=["gap_mev"], split_column="set"))
    assert [raw.id for raw in found] == ['a "x"', "1", "2", "d", "e"]
    assert found[0].targets == {"gap": 1.5} and found[0].columns["gap_mev"] == "1500"
    assert found[1].problem == "expected 4 fields, found 2"
    assert math.isnan(found[2].targets["gap"])
    assert found[3].problem == "empty cell in column 'SMILES'"
    assert [raw.split for raw in found] == ["train", None, "valid", None, "test"]


def test_csv_with_a_delimiter_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'note,smiles\n"a,b;c\nd",CCO\n')
    (raw,) = read_molecules(path)
    assert (raw.text, raw.columns["note"]) == ("CCO", "a,b;c\nd")


def test_csv_errors_name_what_was_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "smile,gap_ev\nC,1\n")
    with pytest.raises(ConfigError, match=r"found smile, gap_ev\. Did you mean 'smile'"):
        list(read_molecules(path))
    with pytest.raises(ConfigError, match="Did you mean 'gap_ev'"):
        list(read_molecules(path, smiles_column="smile", targets=["gap_v"]))
    bad = write(tmp_path / "b.csv", "smiles,gap_ev\nC,1\nCC,high\n")
    with pytest.raises(DataError, match=r"found 'high' \(not numeric\) in record 1 of .*b.csv"):
        list(read_molecules(bad, targets=["gap_ev"]))
    for text in ("inf", "-Infinity", "1e999"):
        endless = write(tmp_path / "c.csv", f"smiles,gap_ev\nC,{text}\n")
        with pytest.raises(DataError, match=rf"found '{text}' \(not finite\) in record 0 of .*c.csv"):
            list(read_molecules(endless, targets=["gap_ev"]))
    with pytest.raises(ConfigError, match="one column for target 'gap'"):
        read_molecules(bad, targets=["gap_ev", "gap_hartree"])


def test_smi(tmp_path: Path) -> None:
    path = write(tmp_path / "a.smi", "smiles name\nCCO ethanol one\n\n# note\nC\nCC |$A;B$| x\n")
    found = list(read_molecules(path))
    assert [(raw.text, raw.id) for raw in found] == [("CCO", "ethanol one"), ("C", "1"), ("CC |$A;B$|", "x")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"id": [7, 8], "SMILES": ["C", None], "gap_ev": [1.0, None], "xyz": [[1.0], [2.0]]})
    pq.write_table(table, path)
    assert input_columns(path) == ["id", "SMILES", "gap_ev"]
    first, second = read_molecules(path, targets=["gap_ev"])
    assert (first.id, first.text, first.targets) == ("7", "C", {"gap": 1.0})
    assert second.problem is not None and math.isnan(second.targets["gap"])


def test_parquet_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["C"]), pa.array(["CC"])], names=["smiles", "smiles"]), path)
    with pytest.raises(DataError, match="'smiles' more than once"):
        input_columns(path)


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("gone.csv", None, DataError, "found nothing"),
        ("a.docx", b"x", ConfigError, ".parquet"),
        ("a.csv", b"", DataError, "empty file"),
        ("a.csv", b"smiles\n", DataError, "no record"),
        ("a.smi", b"\n\n", DataError, "no record"),
        ("a.sdf.gz", b"plain text", DataError, "gzip"),
        ("a.parquet", b"plain text", DataError, "Parquet"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes | None, error: type[Exception], text: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=text):
        list(read_molecules(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        read_molecules(tmp_path)


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_csv_with_an_open_quote_says_so(tmp_path: Path, end: str) -> None:
    text = 'smiles,note\nC,"two\nlines"\nCC,"open\nCCC,x\nCCCC,y' + end
    found = list(read_molecules(write(tmp_path / "a.csv", text)))
    assert [row.text for row in found] == ["C", ""]
    assert found[0].columns["note"] == "two\nlines"
    assert found[1].problem is not None and "never closed" in found[1].problem
    found = list(read_molecules(write(tmp_path / "b.csv", 'smiles,note\nC,"a"\nCC,"b"' + end)))
    assert [row.problem for row in found] == [None, None]


def test_csv_that_is_not_utf_8_or_cut_off_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("smiles,gap\nC,1\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"text in UTF-8 in .*a.csv, found zero bytes"):
        list(read_molecules(tmp_path / "a.csv"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"smiles,gap\nC,1\n")[:15])
    with pytest.raises(DataError, match="ends early, before its first line"):
        list(read_molecules(tmp_path / "b.csv.gz"))
