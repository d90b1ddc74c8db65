from __future__ import annotations

from pathlib import Path

import numpy as np

from geomformer.datasets import DATASETS
from geomformer.datasets.catalogue import catalogue
from geomformer.datasets.options import PrepareOptions
from geomformer.datasets.pipeline import prepare_records
from geomformer.prepared.storage import DatasetDescription
from geomformer.records import Record


def prepared(out: Path, dataset: str, part: tuple[int, int] | None = None) -> None:
    rows = [("train", Record(f"m{i}", np.zeros((1, 1, 3), np.float32), np.zeros(1, np.uint8))) for i in range(4)]
    description = DatasetDescription(dataset, {}, particles=True)
    prepare_records(rows, out, description, PrepareOptions(shard_rows=2, part=part), total=4)


def test_everything_that_lies_on_the_machine_is_found(tmp_path: Path) -> None:
    (tmp_path / "raw" / "qm9").mkdir(parents=True)
    (tmp_path / "raw" / "qm9" / "gdb9.sdf").write_bytes(b"x" * 1000)
    prepared(tmp_path / "prepared" / "nbody", "nbody")
    prepared(tmp_path / "prepared" / "nbody-isotropic", "nbody-isotropic")
    prepared(tmp_path / "prepared" / "nbody-windows", "nbody-windows", part=(1, 2))
    prepared(tmp_path / "prepared" / "rmd17" / "aspirin", "rmd17")
    prepared(tmp_path / "prepared" / "oc20", "oc20", part=(1, 2))
    prepared(tmp_path / "prepared" / "mine", "custom")
    found = {entry.name: entry for entry in catalogue(tmp_path)}
    assert set(found) == set(DATASETS)
    assert found["qm9"].raw_size == 1000 and not found["qm9"].prepared
    assert [item.path.name for item in found["nbody"].prepared] == ["nbody", "nbody-isotropic", "nbody-windows"]
    assert found["rmd17"].prepared[0].rows == {"train": 4} and found["rmd17"].prepared[0].size > 0
    assert [item.rows for item in found["oc20"].prepared] == [{}], "not finished"
    assert found["custom"].prepared[0].path == tmp_path / "prepared" / "mine"


def test_an_empty_machine_has_nothing(tmp_path: Path) -> None:
    assert all(not entry.prepared and not entry.raw_size for entry in catalogue(tmp_path))
