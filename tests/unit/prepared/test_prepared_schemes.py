"""Several split schemes over one set of shards, from the writer to a trained model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from checks.molecules import CHEMISTRY, random_record, toy_config

from geomformer import api
from geomformer.errors import DataError
from geomformer.prepared.check import check_dataset
from geomformer.prepared.dataset import PreparedDataset
from geomformer.prepared.schemes import ALL, NO_SPLIT
from geomformer.prepared.storage import DatasetDescription, PreparedWriter, Row

ROWS = 24
REJECTED = (3, 11)
KEPT = [row for row in range(ROWS) if row not in REJECTED]
HALVES = np.array([0 if row < 14 else 1 for row in range(ROWS)], np.uint8)
THIRDS = np.array([(0, 1, 2)[row % 3] for row in range(ROWS)], np.uint8)


class Divide:
    """Splits by source row; remembers what it was told."""

    def __init__(self, schemes: Mapping[str, np.ndarray]) -> None:
        self.schemes = schemes
        self.seen: list[tuple[list[str], list[int]]] = []

    def __call__(self, shards: Sequence[Path], rejected: np.ndarray) -> dict[str, np.ndarray]:
        self.seen.append(([path.name for path in shards], rejected.tolist()))
        kept = np.setdiff1d(np.arange(ROWS), rejected)
        return {name: numbers[kept] for name, numbers in self.schemes.items()}


def write(out: Path, schemes: Mapping[str, np.ndarray] | None = None, *, overwrite: bool = False) -> Divide:
    divide = Divide({"thirds": THIRDS, "halves": HALVES} if schemes is None else schemes)
    description = DatasetDescription("toy", {"gap": "ev"}, options={"chemistry": CHEMISTRY}, divide=divide)
    writer = PreparedWriter(out, description, shard_rows=10, overwrite=overwrite)
    for number in range(3):
        span = range(10 * number, min(ROWS, 10 * number + 10))
        writer.write_shard(
            number,
            [
                Row(i, f"m{i}", reason="unparsable: test")
                if i in REJECTED
                else Row(i, f"m{i}", ALL, random_record(i, targets={"gap": float(i)}))
                for i in span
            ],
        )
    writer.finish(ROWS)
    return divide


def ids(rows: Sequence[int]) -> list[str]:
    return [f"m{row}" for row in rows]


def test_each_scheme_divides_the_same_shards(tmp_path: Path) -> None:
    divide = write(tmp_path)
    assert divide.seen == [(["all-00000.parquet", "all-00001.parquet", "all-00002.parquet"], list(REJECTED))]
    assert {path.name for path in tmp_path.glob("*.parquet")} == {
        *divide.seen[0][0],
        "rejected.parquet",
        "scheme-halves.parquet",
        "scheme-thirds.parquet",
    }
    halves, thirds = PreparedDataset(tmp_path, "halves"), PreparedDataset(tmp_path, "thirds")
    assert (halves.splits, halves.scheme) == ({"train": 12, "valid": 10}, "halves")
    assert (thirds.splits, thirds.schemes) == ({"train": 7, "valid": 8, "test": 7}, ("halves", "thirds"))
    assert halves.split("train").ids == ids([row for row in KEPT if row < 14])
    assert thirds.split("test").ids == ids([row for row in KEPT if row % 3 == 2])
    assert thirds.split("valid").target("gap").tolist() == [float(row) for row in KEPT if row % 3 == 1]
    again = pickle.loads(pickle.dumps(thirds.split("valid")))
    assert again[2].id == "m7" and np.array_equal(again.gather(np.array([2])).positions, again[2].positions[0])
    assert len(list(tmp_path.glob(".cache/*/*.arrow"))) == 1
    assert check_dataset(tmp_path) == []


def test_default_scheme_is_the_first_and_statistics_are_its_own(tmp_path: Path) -> None:
    write(tmp_path)
    default = PreparedDataset(tmp_path)
    assert default.scheme == "thirds"
    for name, numbers in (("thirds", THIRDS), ("halves", HALVES)):
        dataset = PreparedDataset(tmp_path, name)
        train = [row for row in KEPT if numbers[row] == 0]
        assert dataset.manifest["targets"]["gap"]["mean"] == pytest.approx(np.mean(train))
        assert dataset.manifest["targets"]["gap"]["count"] == len(train)
        carbon = sum(6 in random_record(row).atomic_numbers for row in train)
        assert dataset.manifest["training_molecules_per_element"]["6"] == carbon
        assert dataset.fingerprint == default.fingerprint
    assert default.manifest["targets"] == PreparedDataset(tmp_path, "thirds").manifest["targets"]


def test_schemes_are_written_the_same_every_time(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").glob("*.*"))
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    write(tmp_path / "b", {"thirds": THIRDS}, overwrite=True)
    assert not (tmp_path / "b" / "scheme-halves.parquet").exists()


def test_rows_can_be_in_no_split_of_a_scheme(tmp_path: Path) -> None:
    numbers = np.where(np.arange(ROWS) < 6, THIRDS, NO_SPLIT).astype(np.uint8)
    write(tmp_path, {"few": numbers})
    dataset = PreparedDataset(tmp_path)
    assert dataset.splits == {"train": 1, "valid": 2, "test": 2}
    assert dataset.split("train").ids == ["m0"]
    column = pq.read_table(tmp_path / "scheme-few.parquet").column("split").to_pylist()
    assert column == ["train", "valid", "test", "valid", "test"] + [None] * 17
    assert check_dataset(tmp_path) == []


def test_unknown_schemes_and_splits_name_what_there_is(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"'third' in .*, found halves, thirds\. Did you mean 'thirds'\?"):
        PreparedDataset(tmp_path, "third")
    with pytest.raises(DataError, match="found train, valid"):
        PreparedDataset(tmp_path, "halves").split("test")
    description = DatasetDescription("toy", {"gap": "ev"})
    writer = PreparedWriter(tmp_path / "plain", description)
    writer.write_shard(0, [Row(0, "m0", "train", random_record(0))])
    writer.finish(1)
    with pytest.raises(DataError, match="found no schemes but one split"):
        PreparedDataset(tmp_path / "plain", "random")
    plain = PreparedDataset(tmp_path / "plain")
    assert (plain.scheme, plain.schemes, plain.splits) == (None, (), {"train": 1})


def test_damaged_index_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "scheme-halves.parquet"
    path.write_bytes((tmp_path / "scheme-thirds.parquet").read_bytes())
    with pytest.raises(DataError, match=r"scheme-halves\.parquet is damaged"):
        PreparedDataset(tmp_path, "halves").split("train")
    assert any("scheme-halves.parquet is damaged" in problem for problem in check_dataset(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="found nothing"):
        PreparedDataset(tmp_path, "halves").split("train")
    assert PreparedDataset(tmp_path, "thirds").split("train").ids


def test_division_that_does_not_fit_leaves_no_manifest(tmp_path: Path) -> None:
    writer = PreparedWriter(
        tmp_path, DatasetDescription("toy", {"gap": "ev"}, divide=lambda shards, rejected: {"a": THIRDS})
    )
    writer.write_shard(0, [Row(0, "m0", ALL, random_record(0))])
    with pytest.raises(DataError, match=r"'a' is for 24 rows, the shards in .* have 1"):
        writer.finish(1)
    assert not (tmp_path / "manifest.json").exists()


def test_model_is_trained_and_judged_on_the_scheme_of_its_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "prepared" / "toy")
    models = tmp_path / "models"
    config = toy_config(
        task={"reference_probability": 0.0, "mixture_probability": 0.0},
        data={"split_scheme": "halves"},
        train={"max_steps": 2},
    )
    result = api.train(config, root=tmp_path, out=tmp_path / "run", models=models, name="halves", device="cpu")
    (target,) = api.load_model("halves", models=models, device="cpu").manifest.targets
    assert target.mean == pytest.approx(np.mean([row for row in KEPT if row < 14]))
    own = api.evaluate("toy", model="halves", root=tmp_path, models=models, device="cpu")
    assert (own["rows"], own["split_scheme"]) == ({"valid": 10}, "halves")
    assert own["splits"]["valid"]["gap_mae_ev"] == pytest.approx(result.metrics["gap_mae_ev"], rel=1e-4)
    assert "was trained on" not in caplog.text
    other = api.evaluate("toy", model="halves", root=tmp_path, models=models, device="cpu", split_scheme="thirds")
    assert other["rows"] == {"valid": 8, "test": 7}
    assert "halves@1 was trained on halves splits: it may have seen these rows in training." in caplog.text
