"""From a file to a model that knows its 32 molecules by heart, and back to numbers for the file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from geomformer import api
from geomformer.config.load import load_config
from geomformer.datasets.options import PrepareOptions

QM9 = Path(__file__).with_name("qm9_40.csv")
"""40 molecules of QM9 (CC0), drawn at random; gaps at B3LYP/6-31G(2df,p)."""

SETTINGS = (
    *("model.num_layers=2", "model.embed_dim=64", "model.ffn_dim=64", "model.num_heads=4", "model.num_kernels=16"),
    *("model.attention_dropout=0", "model.hidden_dropout=0", "data.batch_size=32", "data.valid_split=train"),
    *("optim.learning_rate=3e-3", "train.max_steps=300", "train.ema_decay=0.99", "train.validate_every=300"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the prepared molecules, 32 of them for training, and a model of them in `models`."""
    folder = tmp_path_factory.mktemp("qm9")
    options = PrepareOptions(
        chemistry={"num_conformers": 2},
        workers=0,
        targets=("gap_ev",),
        fractions={"train": 0.8, "valid": 0.2},
    )
    api.prepare("custom", raw=[QM9], out=folder / "prepared" / "qm9_40", root=folder, options=options)
    config = load_config("gap-small", [*SETTINGS, "data.dataset=qm9_40"])
    api.train(config, out=folder / "run", root=folder, models=folder / "models", name="known", device="cpu")
    return folder


def test_32_molecules_are_learnt_to_a_hundredth_of_an_ev(root: Path) -> None:
    assert api.open_dataset("qm9_40", root).splits == {"train": 32, "valid": 8}
    found = api.evaluate("qm9_40", model="known", splits=["train", "valid"], root=root, models=root / "models")
    assert found["splits"]["train"]["gap_mae_ev"] < 0.01
    assert found["splits"]["train"]["gap_mae_single_conformer_ev"] < 0.02
    assert found["splits"]["valid"]["gap_mae_ev"] > 0.05, "eight unknown molecules cannot be known as well"


def test_predict_gives_the_same_answers_from_the_file(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    api.predict(QM9, out, model="known", models=root / "models", conformers=2, workers=0, device="cpu")
    with out.open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 40
    train = api.open_dataset("qm9_40", root).split("train")
    compared = 0
    for record in train:
        row = rows[record.id]
        if row["status"] != "ok":
            assert row["status"] == "unsupported_element"
            continue
        compared += 1
        assert row["smiles"] == record.smiles
        assert float(row["pred_gap_ev"]) == pytest.approx(record.targets["gap"], abs=0.05)
    assert compared >= 10
