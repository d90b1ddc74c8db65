"""Predictions of records: one per conformer, in order, with flat memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from geomformer.prepared.collate import Sample, collate
from geomformer.records import Batch, Record
from geomformer.tasks.base import Task

CHUNK_SAMPLES = 4096
"""Conformers held at a time: enough to pack them by size, little enough to keep memory flat."""


@dataclass
class ConformerPredictions:
    """Predictions of one record.

    Attributes:
        index: as given with the record.
        values: by target, one per conformer, in the target's unit. (C,) float64
    """

    index: int
    values: dict[str, np.ndarray]

    def mean(self, target: str) -> float:
        return float(self.values[target].mean())

    def spread(self, target: str) -> float:
        """Standard deviation over conformers; 0 for a single one."""
        return float(self.values[target].std())


@dataclass(frozen=True)
class InferenceSettings:
    """How a model is run.

    Attributes:
        max_conformers: conformers averaged per record, at most.
        batch_atoms: padded atoms per batch.
        features: whether the model reads the 2D graph.
        device: torch device.
    """

    max_conformers: int = 8
    batch_atoms: int = 4096
    features: bool = True
    device: str = "cpu"


def predict_records(
    model: nn.Module, task: Task, records: Iterable[tuple[int, Record]], settings: InferenceSettings
) -> Iterator[ConformerPredictions]:
    """Runs the model in evaluation mode over (index, record) pairs and yields their predictions in the same order."""
    was_training = model.training
    model.eval()
    try:
        pending: list[list[Sample]] = []
        held = 0
        for index, record in records:
            pending.append(task.inference_samples(record, index, settings.max_conformers))
            held += len(pending[-1])
            if held >= CHUNK_SAMPLES:
                yield from predict_chunk(model, task, pending, settings)
                pending, held = [], 0
        if pending:
            yield from predict_chunk(model, task, pending, settings)
    finally:
        model.train(was_training)


def predict_chunk(
    model: nn.Module, task: Task, groups: list[list[Sample]], settings: InferenceSettings
) -> list[ConformerPredictions]:
    """Packs all conformers of the groups by size, predicts, and sorts the results back."""
    samples = [
        Sample(sample.record, position, sample.positions)
        for position, sample in enumerate(sample for group in groups for sample in group)
    ]
    values = {target: np.empty(len(samples)) for target in task.targets}
    dtype = next((parameter.dtype for parameter in model.parameters()), None)
    with torch.inference_mode():
        for batch in inference_batches(samples, settings.batch_atoms, features=settings.features):
            predictions = task.predictions(model(batch.to(settings.device, dtype)))
            for target, prediction in predictions.items():
                values[target][batch.index.numpy()] = prediction.double().cpu().numpy()
    results, start = [], 0
    for group in groups:
        end = start + len(group)
        results.append(ConformerPredictions(group[0].index, {name: v[start:end] for name, v in values.items()}))
        start = end
    return_freed_memory()
    return results


def return_freed_memory() -> None:
    """Gives freed heap back to the system where the C library can: batches of ever new shapes fragment it otherwise,
    and memory would creep up with the number of molecules.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def inference_batches(samples: Sequence[Sample], max_atoms: int, *, features: bool) -> Iterator[Batch]:
    """Packs samples by size into batches of at most `max_atoms` padded atoms; a larger one goes alone."""
    order = sorted(range(len(samples)), key=lambda position: len(samples[position].positions))
    group: list[Sample] = []
    for position in order:
        sample = samples[position]
        if group and (len(group) + 1) * len(sample.positions) > max_atoms:
            yield collate(group, features=features)
            group = []
        group.append(sample)
    if group:
        yield collate(group, features=features)
