from __future__ import annotations

import numpy as np
import pytest
import torch
from checks.molecules import random_record, toy_config, write_dataset

from geomformer.chem.alignment import kabsch
from geomformer.prepared.collate import Sample, collate
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch, Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling
from geomformer.tasks.gap import GapTask, centred, random_rotation
from geomformer.training.batches import EpochBatches

ROWS = [np.array([4, 0, 11, 7]), np.array([3, 9]), np.array([2]), np.array([1, 2, 4, 5, 8])]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    """Rows 0, 3, 6 and 9 have no reference geometry, so that the second batch has none at all."""
    records = [random_record(i, reference=i % 3 > 0) for i in range(12)]
    return write_dataset(tmp_path_factory.mktemp("data") / "toy", {"train": records, "valid": records[:2]}).split(
        "train"
    )


def gap_task() -> GapTask:
    task = build_task(toy_config().task, {"gap": Scaling(6.0, 1.0)})
    assert isinstance(task, GapTask)
    return task


def sample_of(task: GapTask, record: Record, row: int, rng: np.random.Generator) -> Sample:
    """The recipe for one record, step by step."""
    conformer = record.positions[rng.integers(record.num_conformers)]
    if record.target_positions is None:
        return Sample(record, row, centred(conformer), None)
    reference = centred(record.target_positions) @ random_rotation(rng).T
    positions = task.noised_input(conformer, reference, rng)
    rotation, shift = kabsch(positions, reference)
    return Sample(record, row, (positions @ rotation.T + shift).astype(np.float32), reference.astype(np.float32))


def same(a: Batch, b: Batch) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, dict):
            assert value.keys() == other.keys()
        pairs = [(value[key], other[key]) for key in value] if isinstance(value, dict) else [(value, other)]
        for one, two in pairs:
            assert (one is None) == (two is None), name
            if one is not None:
                assert one.dtype == two.dtype, name
                torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_are_those_of_single_records_bit_for_bit(split: PreparedSplit, epoch: int) -> None:
    task = gap_task()
    batches = EpochBatches(split, task, ROWS, 5, epoch, True)
    for number, rows in enumerate(ROWS):
        samples = []
        for row in rows.tolist():
            rng = np.random.Generator(np.random.PCG64([5, epoch, row]))
            samples.append(sample_of(task, split[row], row, rng))
        same(batches[number], collate(samples))
    assert batches[1].target_positions is None and batches[0].target_positions is not None


def test_every_conformer_is_drawn(split: PreparedSplit) -> None:
    conformers = split[0].positions
    assert len(conformers) == 2
    seen = set()
    for epoch in range(30):
        positions = EpochBatches(split, gap_task(), [np.array([0])], 5, epoch, False)[0].positions[0].numpy()
        seen.update(c for c in (0, 1) if np.allclose(positions, centred(conformers[c]), atol=1e-5))
    assert seen == {0, 1}
