from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from checks.molecules import random_record, toy_config

from geomformer.inference import averaging
from geomformer.inference.averaging import InferenceSettings, inference_batches, predict_records
from geomformer.models import build_model
from geomformer.models.geomformer import GeoMFormer
from geomformer.prepared.collate import Sample, collate
from geomformer.records import Record
from geomformer.tasks import build_task
from geomformer.tasks.base import Scaling, Task


@pytest.fixture(scope="module")
def network() -> GeoMFormer:
    torch.manual_seed(1)
    return build_model(toy_config().model)


@pytest.fixture(scope="module")
def task() -> Task:
    return build_task(toy_config().task, {"gap": Scaling(6.0, 1.5)})


@pytest.fixture(scope="module")
def records() -> list[tuple[int, Record]]:
    """Small and large ones mixed, some with a single conformer, indices that are no positions."""
    found = []
    for i in range(13):
        record = random_record(i, atoms=3 + (5 * i) % 17)
        if i % 4 == 0:
            record.positions, record.conformer_source = record.positions[:1], record.conformer_source[:1]
        found.append((100 - 3 * i, record))
    return found


def one_by_one(network: GeoMFormer, task: Task, record: Record) -> np.ndarray:
    network.eval()
    values = []
    for positions in record.positions:
        with torch.no_grad():
            output = network(collate([Sample(record, 0, positions - positions.mean(axis=0))]))
        values.append(task.predictions(output)["gap"].item())
    return np.array(values)


@pytest.mark.parametrize(("chunk", "batch_atoms"), [(4096, 4096), (3, 4096), (1, 40), (5, 8)])
def test_predictions_equal_a_loop_of_single_passes(
    chunk: int,
    batch_atoms: int,
    network: GeoMFormer,
    task: Task,
    records: list[tuple[int, Record]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(averaging, "CHUNK_SAMPLES", chunk)
    found = list(predict_records(network, task, records, InferenceSettings(8, batch_atoms)))
    assert [prediction.index for prediction in found] == [index for index, _ in records]
    for prediction, (_, record) in zip(found, records, strict=True):
        expected = one_by_one(network, task, record)
        np.testing.assert_allclose(prediction.values["gap"], expected, atol=1e-4)
        assert prediction.mean("gap") == pytest.approx(expected.mean(), abs=1e-4)
        assert prediction.spread("gap") == pytest.approx(expected.std(), abs=1e-4)
        if len(expected) == 1:
            assert prediction.spread("gap") == 0.0
    assert max(prediction.spread("gap") for prediction in found) > 1e-3
    assert len({round(prediction.mean("gap"), 3) for prediction in found}) > 8


def test_the_spread_of_a_committee_is_over_conformers_and_networks(
    task: Task, records: list[tuple[int, Record]]
) -> None:
    torch.manual_seed(2)
    committee = build_model(toy_config(model={"members": 3}).model)
    found = list(predict_records(committee, task, records, InferenceSettings()))
    for prediction, (_, record) in zip(found, records, strict=True):
        each = np.array([one_by_one(network, task, record) for network in committee.networks])
        np.testing.assert_allclose(prediction.values["gap"], each.mean(0), atol=1e-4)
        np.testing.assert_allclose(prediction.variances["gap"], each.var(0), rtol=1e-2, atol=1e-5)
        assert prediction.spread("gap") == pytest.approx(each.std(), rel=1e-2, abs=1e-4)
    assert min(prediction.spread("gap") for prediction in found) > 1e-3, "of one conformer too"


def test_at_most_so_many_conformers(network: GeoMFormer, task: Task) -> None:
    record = random_record(1)
    (found,) = predict_records(network, task, [(0, record)], InferenceSettings(1))
    assert found.values["gap"] == pytest.approx(one_by_one(network, task, record)[:1], abs=1e-4)


def test_records_are_read_no_further_ahead_than_a_chunk(
    network: GeoMFormer, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "CHUNK_SAMPLES", 6)
    pulled = 0

    def endless() -> Iterator[tuple[int, Record]]:
        nonlocal pulled
        while True:
            pulled += 1
            yield pulled, random_record(pulled)

    predictions = predict_records(network, task, endless(), InferenceSettings())
    for _ in range(7):
        next(predictions)
    assert pulled == 9, "three records of two conformers make a chunk"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_runs_without_dropout_and_goes_back_to_its_mode(
    training: bool, network: GeoMFormer, task: Task
) -> None:
    network.train(training)
    settings = InferenceSettings()
    first, again = (list(predict_records(network, task, [(0, random_record(1))], settings)) for _ in range(2))
    np.testing.assert_array_equal(first[0].values["gap"], again[0].values["gap"])
    assert network.training is training
    with pytest.raises(AttributeError):
        list(predict_records(network, task, [(0, None)], settings))  # type: ignore[list-item]
    assert network.training is training


def test_batches_keep_to_the_budget_and_a_large_molecule_goes_alone() -> None:
    records = [random_record(i, atoms=atoms) for i, atoms in enumerate([4, 30, 5, 4, 6, 12, 5])]
    samples = [Sample(record, i, record.positions[0]) for i, record in enumerate(records)]
    batches = list(inference_batches(samples, InferenceSettings(batch_atoms=24, features=False)))
    assert sorted(row for batch in batches for row in batch.index.tolist()) == list(range(7))
    assert [batch.index.tolist() for batch in batches if batch.mask.shape[1] == 30] == [[1]]
    for batch in batches:
        assert batch.mask.numel() <= 24 or batch.num_systems == 1
        assert batch.atom_features is None
    assert len(batches) <= 4
    assert all(
        batch.atom_features is not None for batch in inference_batches(samples, InferenceSettings(batch_atoms=24))
    )
