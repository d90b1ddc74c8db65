from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from checks.molecules import save_model, toy_config
from rdkit import Chem
from rdkit.Chem import AllChem

from geomformer import api
from geomformer.artifacts.manifest import Inputs
from geomformer.chem import xtb
from geomformer.chem.build import ChemistryOptions, build, build_record
from geomformer.errors import ArtifactError, ConfigError, DataError
from geomformer.executors import Failure, LocalExecutor
from geomformer.inference import predictor as predictor_module
from geomformer.inference.averaging import predict_records
from geomformer.inference.domain import describe
from geomformer.inference.predictor import Predictor, input_name, predict_file
from geomformer.io.sdf import records as sdf_records
from geomformer.records import RawMolecule, Record

SMILES = ("CCO", "c1ccccc1O", "CC(=O)N", "C1CCOC1", "CC(C)CN", "OCC(F)F", "C#CCO", "CCCCCC")
CONFORMERS = 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_model(root)
    inputs = Inputs(hydrogens=False, geometry="conformer", features=True, periodic=False, max_atoms=8)
    save_model(root, "small", inputs=inputs)
    orbitals = Inputs(hydrogens=False, geometry="conformer", features=True, orbitals="huckel", periodic=False)
    save_model(root, "orbitals", config=toy_config(model={"orbitals": "huckel"}), inputs=orbitals)
    save_model(root, "reference", config=toy_config(task={"input_geometry": "reference"}))
    return root


@pytest.fixture(scope="module")
def load(models: Path) -> Callable[..., Predictor]:
    def load_model(name: str = "toy", **options: Any) -> Predictor:
        return api.load_model(name, models=models, conformers=CONFORMERS, device="cpu", **options)

    return load_model


def raw(i: int, text: str, kind: str = "smiles", **fields: Any) -> RawMolecule:
    return RawMolecule(i, f"m{i}", text, kind, **fields)


def block(smiles: str, *, flat: bool = False, hydrogens: bool = True) -> str:
    mol = Chem.MolFromSmiles(smiles)
    if flat:
        AllChem.Compute2DCoords(mol)
    else:
        mol = Chem.AddHs(mol)
        AllChem.EmbedMolecule(mol, randomSeed=7)
        mol = mol if hydrogens else Chem.RemoveHs(mol)
    return Chem.MolToMolBlock(mol)


def rows_of(predictor: Predictor, molecules: Iterable[RawMolecule]) -> list[dict[str, Any]]:
    return list(predictor.rows(molecules, LocalExecutor(0)))


def write_csv(path: Path, smiles: Sequence[str], ids: Sequence[str] | None = None) -> Path:
    lines = [f"{name},{text}" for name, text in zip(ids or smiles, smiles, strict=True)]
    path.write_text("\n".join(["id,smiles", *lines]) + "\n")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predict(models: Path, source: Path, out: Path, **options: Any) -> list[dict[str, str]]:
    settings = {"model": "toy", "conformers": CONFORMERS, "workers": 0, "device": "cpu", **options}
    api.predict(source, out, models=models, **settings)
    return read_csv(out)


def test_every_row_has_a_number_or_a_reason(load: Callable[..., Predictor]) -> None:
    molecules = [
        raw(0, "CCO"),
        raw(1, "not a molecule"),
        raw(2, "CCBr"),
        raw(3, "CCCCCCCCC"),
        raw(4, "", problem="empty cell in column 'smiles'"),
        raw(5, "CC[U]"),
        raw(6, "*CC"),
        raw(7, "no\nmol\nblock\n", "mol"),
        raw(8, "CCN"),
    ]
    rows = rows_of(load("small"), molecules)
    assert [row["index"] for row in rows] == list(range(9)) and [row["id"] for row in rows] == [m.id for m in molecules]
    assert [row["status"] for row in rows] == [
        *("ok", "unparsable", "unsupported_element", "too_large", "unparsable"),
        *("unsupported_element", "unparsable", "unparsable", "ok"),
    ]
    for row in rows:
        good = row["status"] == "ok"
        assert (row["pred_gap_ev"] is not None) is (row["spread_gap_ev"] is not None) is good
        assert bool(row["error"]) is not good
        assert row["num_conformers"] == (CONFORMERS if good else 0)
    assert "Br (19)" in rows[2]["error"] and "U (0)" in rows[5]["error"] and "empty cell" in rows[4]["error"]
    assert (rows[0]["smiles"], rows[1]["smiles"], rows[7]["smiles"]) == ("CCO", "not a molecule", None)
    assert rows[0]["conformer_source"] == "etkdg" and rows[1]["conformer_source"] is None


def test_input_geometry_needs_three_dimensions(load: Callable[..., Predictor]) -> None:
    molecules = [raw(0, "CCO"), raw(1, block("CCO", flat=True), "mol"), raw(2, block("CCO"), "mol")]
    rows = rows_of(load(geometry="input"), molecules)
    assert [row["status"] for row in rows] == ["no_geometry", "no_geometry", "ok"]
    assert (rows[2]["num_conformers"], rows[2]["spread_gap_ev"], rows[2]["conformer_source"]) == (1, 0.0, "given")


def test_a_lost_worker_costs_one_row(load: Callable[..., Predictor]) -> None:
    class Losing:
        def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            for number, item in enumerate(items):
                yield Failure(1, "the worker process died") if number == 1 else function(item)

    rows = list(load().rows([raw(i, "CCO") for i in range(3)], Losing()))  # type: ignore[arg-type]
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["error"] == "the worker process died" and rows[1]["pred_gap_ev"] is None


def test_a_number_that_is_not_finite_is_no_answer(load: Callable[..., Predictor]) -> None:
    predictor = load()
    with torch.no_grad():
        for parameter in predictor.model.scalar_head.parameters():
            parameter.fill_(torch.nan)
    (row,) = rows_of(predictor, [raw(0, "CCO")])
    assert (row["status"], row["pred_gap_ev"]) == ("failed", None) and "finite" in row["error"]


def test_rows_over_several_chunks_keep_their_order(
    load: Callable[..., Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rows_of(load(), [raw(i, smiles) for i, smiles in enumerate(SMILES)])
    monkeypatch.setattr(predictor_module, "CHUNK_ROWS", 3)
    cut = rows_of(load(), [raw(i, smiles) for i, smiles in enumerate(SMILES)])
    assert [row["smiles"] for row in cut] == [row["smiles"] for row in whole]
    assert [row["pred_gap_ev"] for row in cut] == pytest.approx([row["pred_gap_ev"] for row in whole], abs=1e-4)


def test_the_way_a_molecule_is_written_changes_nothing(load: Callable[..., Predictor]) -> None:
    same = [
        raw(0, "CC(C)CN"),
        raw(1, "NCC(C)C"),
        raw(2, "[CH3][CH]([CH3])[CH2][NH2]"),
        raw(3, block("CC(C)CN"), "mol"),
        raw(4, block("NCC(C)C", flat=True), "mol"),
        raw(5, block("NCC(C)C", hydrogens=False), "mol"),
    ]
    rows = rows_of(load(), same)
    assert {row["smiles"] for row in rows} == {"CC(C)CN"}
    assert [row["pred_gap_ev"] for row in rows] == pytest.approx([rows[0]["pred_gap_ev"]] * 6, abs=1e-4)
    assert [row["spread_gap_ev"] for row in rows] == pytest.approx([rows[0]["spread_gap_ev"]] * 6, abs=1e-4)


def test_without_the_package_for_its_orbitals_nothing_is_begun(
    load: Callable[..., Predictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load("orbitals")
    predictor = replace(predictor, chemistry=replace(predictor.chemistry, orbitals="xtb"))
    source = tmp_path / "in.csv"
    source.write_text("smiles\nCCO\n")
    monkeypatch.setattr(xtb, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match="take the package tblite"):
        predict_file(predictor, [source], tmp_path / "out.csv", workers=0)
    assert [item.name for item in tmp_path.iterdir()] == ["in.csv"]


def test_a_model_of_frontier_orbitals_finds_them_in_any_input(load: Callable[..., Predictor]) -> None:
    predictor = load("orbitals")
    texts = [raw(0, "C#CCO"), raw(1, "OCC#C"), raw(2, block("C#CCO"), "mol"), raw(3, "[Na+].CC(=O)[O-]"), raw(4, "C")]
    rows = rows_of(predictor, texts)
    values = [row["pred_gap_ev"] for row in rows]
    assert [row["status"] for row in rows[:3]] == ["ok"] * 3 and len(set(values[:3])) == 1
    assert rows[3]["status"] == "unsupported_element" and rows[4]["status"] == "ok"
    assert predictor.chemistry.orbitals == "huckel"
    assert load("toy").chemistry.orbitals == "none"  # nobody waits for what is not read
    record = build_record(texts[0], predictor.chemistry)
    unknown = replace(record, orbital_energies=np.full(8, np.nan, np.float32))
    [known, other] = predict_records(predictor.model, predictor.task, enumerate([record, unknown]), predictor.settings)
    assert known.mean("gap") == pytest.approx(values[0], abs=1e-5)
    assert np.isfinite(other.mean("gap")) and abs(other.mean("gap") - known.mean("gap")) > 1e-4


def test_neither_order_nor_neighbours_nor_workers_change_the_answer(models: Path, tmp_path: Path) -> None:
    rows = predict(models, write_csv(tmp_path / "in.csv", SMILES), tmp_path / "out.csv")
    back = predict(models, write_csv(tmp_path / "back.csv", SMILES[::-1]), tmp_path / "back_out.csv")
    alone = predict(models, write_csv(tmp_path / "one.csv", SMILES[3:4]), tmp_path / "one_out.csv")
    shared = predict(models, tmp_path / "in.csv", tmp_path / "shared.csv", workers=2)
    assert [row["id"] for row in back] == list(SMILES[::-1])
    for name in ("pred_gap_ev", "spread_gap_ev"):
        expected = [float(row[name]) for row in rows]
        assert [float(row[name]) for row in reversed(back)] == pytest.approx(expected, abs=1e-4)
        assert float(alone[0][name]) == pytest.approx(expected[3], abs=1e-4)
    assert shared == rows


def test_colliding_columns_are_renamed_and_all_are_kept(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id,smiles,status,pred_gap_ev,price\na,OCC,old,1.5,7\nb,nonsense,,,\n")
    rows = predict(models, source, tmp_path / "out.csv")
    assert list(rows[0]) == [
        *("index", "id", "smiles", "pred_gap_ev", "spread_gap_ev", "num_conformers", "conformer_source", "domain"),
        *(
            "expected_error_gap_ev",
            "status",
            "error",
            "input_id",
            "input_smiles",
            "input_status",
            "input_pred_gap_ev",
            "price",
        ),
    ]
    assert [rows[0][name] for name in ("id", "smiles", "status", "price")] == ["a", "CCO", "ok", "7"]
    assert [rows[0][f"input_{name}"] for name in ("id", "smiles", "status", "pred_gap_ev")] == [
        "a",
        "OCC",
        "old",
        "1.5",
    ]
    assert rows[1]["status"] == "unparsable" and rows[1]["pred_gap_ev"] == "" and rows[1]["input_smiles"] == "nonsense"
    assert (input_name("status", {"status": str}), input_name("price", {"status": str})) == ("input_status", "price")


def test_a_column_that_has_the_name_of_a_renamed_one_is_kept_too(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles,status,input_status,input_index\nCCO,a,b,c\n")
    (row,) = predict(models, source, tmp_path / "out.csv")
    assert (row["status"], row["input_status"], row["input_input_status"], row["input_index"]) == ("ok", "b", "a", "c")
    (again,) = predict(models, tmp_path / "out.csv", tmp_path / "again.csv")
    assert again["input_input_status"] == "a" and again["input_index"] == "c" and again["input_input_index"] == "0"


def test_the_input_is_not_replaced_by_the_output(models: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", SMILES[:1])
    before = source.read_bytes()
    (tmp_path / "link.csv").hardlink_to(source)
    for out in (source, tmp_path / "link.csv"):
        with pytest.raises(ConfigError, match="other than the input"):
            predict(models, source, out)
    assert source.read_bytes() == before


def sdf(*records: str) -> str:
    return "".join(f"{record}$$$$\n" for record in records)


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz"])
def test_an_sdf_comes_back_record_by_record(models: Path, tmp_path: Path, suffix: str) -> None:
    good = block("CCO") + "> <price>\n7\n\n"
    source, out = tmp_path / "in.sdf", tmp_path / f"out{suffix}"
    source.write_text(sdf(good, "", "rubbish\n", block("CCBr"), block("c1ccccc1", flat=True)))
    summary = api.predict(source, out, models=models, model="toy", conformers=CONFORMERS, workers=0, device="cpu")
    assert summary.rows == 5
    assert summary.statuses == {"ok": 2, "unparsable": 2, "unsupported_element": 1}
    found = [text for text, _ in sdf_records(out)]
    assert len(found) == 5
    assert "> <price>\n7\n" in found[0] and "> <pred_gap_ev>\n" in found[0] and "> <pred_gap_ev>" not in found[3]
    supplier = Chem.SDMolSupplier()
    supplier.SetData(gzip.decompress(out.read_bytes()).decode() if suffix.endswith("gz") else out.read_text())
    molecules = list(supplier)
    assert len(molecules) == 5 and molecules[0].GetProp("status") == "ok"
    assert float(molecules[4].GetProp("pred_gap_ev")) != 0


def test_smiles_become_an_sdf_with_the_first_conformer(models: Path, tmp_path: Path) -> None:
    source, out = write_csv(tmp_path / "in.csv", ["CCO", "nonsense"]), tmp_path / "out.sdf"
    api.predict(source, out, models=models, model="toy", conformers=1, workers=0, device="cpu")
    supplier = Chem.SDMolSupplier(str(out))
    assert len(supplier) == 2 and Chem.MolToSmiles(supplier[0]) == "CCO"
    assert supplier[0].GetConformer().Is3D()


def test_jsonl_and_parquet_hold_the_same_rows(models: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", ["CCO", "nonsense", "CCN"])
    rows = predict(models, source, tmp_path / "out.csv")
    for suffix in ("jsonl", "parquet"):
        api.predict(
            source, tmp_path / f"out.{suffix}", models=models, model="toy", conformers=2, workers=0, device="cpu"
        )
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == found
    assert [float(row["pred_gap_ev"] or "nan") for row in rows] == pytest.approx(
        [row["pred_gap_ev"] if row["pred_gap_ev"] is not None else float("nan") for row in found], nan_ok=True
    )
    assert found[1]["pred_gap_ev"] is None and found[1]["status"] == "unparsable"


def test_only_the_first_rows_on_request(models: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    source = write_csv(tmp_path / "in.csv", SMILES)
    rows = predict(
        models, source, tmp_path / "out.csv", limit=3, progress=lambda done, total: seen.append((done, total))
    )
    assert [row["id"] for row in rows] == list(SMILES[:3])
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_model_of_reference_geometries_is_not_fed_generated_ones(
    load: Callable[..., Predictor], models: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"trained on reference \(DFT\) geometries.*--geometry input") as refused:
        predict(models, write_csv(tmp_path / "in.csv", SMILES), tmp_path / "out.csv", model="reference")
    assert refused.value.exit_code == 4
    (row,) = rows_of(load("reference", geometry="input"), [raw(0, block("CCO"), "mol")])
    assert row["status"] == "ok"


def test_bad_files_are_refused_and_leave_no_output(models: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "column.csv").write_text("name,drawing\na,CCO\n")
    out = tmp_path / "out.csv"
    for name, error in (("missing.csv", DataError), ("empty.csv", DataError), ("column.csv", ConfigError)):
        with pytest.raises(error):
            predict(models, tmp_path / name, out)
    with pytest.raises(ConfigError, match="docx"):
        predict(models, write_csv(tmp_path / "in.csv", SMILES), tmp_path / "out.docx")
    assert not list(tmp_path.glob("out*"))


def test_an_interrupted_file_keeps_what_is_there(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_module, "CHUNK_ROWS", 2)
    out = tmp_path / "out.csv"
    out.write_text("an older result\n")

    def stop(done: int, total: int | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(models, write_csv(tmp_path / "in.csv", SMILES), out, progress=stop)
    assert out.read_text() == "an older result\n"
    assert [row["id"] for row in read_csv(tmp_path / "out.csv.partial")] == list(SMILES[:4])


def with_domain(root: Path) -> None:
    """A model trained on nothing but chains of carbon and one oxygen, whose errors are 0.1 eV."""
    trained = [build(raw(i, "C" * (2 + i % 5) + "O"), ChemistryOptions(num_conformers=1)) for i in range(60)]
    records = [record for record in trained if isinstance(record, Record)]
    domain = describe(records).fitted(records, np.zeros(60), np.full(60, 0.1))
    save_model(root, "domain", domain=domain.to_bytes())


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "sdf"])
def test_rows_say_whether_they_are_like_what_was_trained_on(models: Path, tmp_path: Path, suffix: str) -> None:
    with_domain(tmp_path / "store")
    out = tmp_path / f"out.{suffix}"
    source = write_csv(tmp_path / "in.csv", ["CCCO", "nonsense", "CC#N", "CCCBr"])
    summary = api.predict(source, out, models=tmp_path / "store", model="domain", conformers=1, workers=0, device="cpu")
    assert (summary.outside, summary.statuses["ok"]) == (1, 2)
    found = {
        "csv": lambda: [row["domain"] or None for row in read_csv(out)],
        "jsonl": lambda: [json.loads(line)["domain"] for line in out.read_text().splitlines()],
        "parquet": lambda: pq.read_table(out)["domain"].to_pylist(),
        "sdf": lambda: [mol.GetPropsAsDict().get("domain") or None for mol in Chem.SDMolSupplier(str(out))],
    }[suffix]()
    assert found == ["inside", None, "outside", None]


def test_a_model_that_does_not_know_its_data_leaves_the_judgement_empty(models: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles,domain,expected_error_gap_ev\nCCO,mine,7\n")
    (row,) = predict(models, source, tmp_path / "out.csv")
    assert (row["status"], row["domain"], row["expected_error_gap_ev"]) == ("ok", "", "")
    assert (row["input_domain"], row["input_expected_error_gap_ev"]) == ("mine", "7")
    summary = api.predict(
        source, tmp_path / "out.csv", models=models, model="toy", conformers=1, workers=0, device="cpu"
    )
    assert summary.outside is None


def test_a_predictor_says_what_it_adds(load: Callable[..., Predictor]) -> None:
    predictor = load()
    assert predictor.target == "gap"
    assert predictor.columns["pred_gap_ev"] is float and predictor.columns["num_conformers"] is int
    row = rows_of(predictor, [raw(0, "CCO")])[0]
    assert list(row) == list(predictor.columns)
    with_block = replace(predictor, blocks=True)
    assert "V2000" in rows_of(with_block, [raw(0, "CCO")])[0]["_mol"]
