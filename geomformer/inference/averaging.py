"""Predictions of records: one per conformer, in order, with flat memory."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from geomformer.models.network import ModelOutput
from geomformer.prepared.collate import Sample, collate, num_tokens
from geomformer.prepared.images import ImageOptions
from geomformer.records import Batch, Record
from geomformer.tasks.base import Task
from geomformer.tasks.differentiation import by_positions, derivatives

CHUNK_SAMPLES = 4096
"""Conformers held at a time: enough to pack them by size, little enough to keep memory flat."""


@dataclass
class ConformerPredictions:
    """Predictions of one record.

    Attributes:
        index: as given with the record.
        values: by target, one per conformer, in the target's unit. (C,) float64
        variances: by target, of each value over the networks of a committee; 0 of one network. (C,) float64
        vectors: by name, for every atom of every conformer, such as the predicted "positions". (C, N, 3) float64
    """

    index: int
    values: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    variances: dict[str, np.ndarray] = field(default_factory=dict)

    def mean(self, target: str) -> float:
        return float(self.values[target].mean())

    def spread(self, target: str) -> float:
        """Standard deviation over conformers and networks; 0 for one conformer and one network."""
        return float(np.sqrt(self.values[target].var() + np.mean(self.variances.get(target, 0.0))))


@dataclass(frozen=True)
class InferenceSettings:
    """How a model is run.

    Attributes:
        max_conformers: conformers averaged per record, at most.
        batch_atoms: padded atoms per batch.
        features: whether the model reads the 2D graph.
        images: how it reads periodic copies of atoms, if at all.
        device: torch device.
        derivatives: whether the task takes derivatives of the network by the positions.
    """

    max_conformers: int = 8
    batch_atoms: int = 4096
    features: bool = True
    images: ImageOptions | None = None
    device: str = "cpu"
    derivatives: bool = False


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
    variances = {target: np.zeros(len(samples)) for target in task.targets}
    vectors = {name: [np.empty((0, 3))] * len(samples) for name in task.vectors}
    dtype = next((parameter.dtype for parameter in model.parameters()), None)
    for batch in inference_batches(samples, settings):
        found = predict_batch(model, task, batch.to(settings.device, dtype), settings.derivatives)
        for places, scalars in ((values, found.scalars), (variances, found.variances)):
            for target, numbers in scalars.items():
                places[target][batch.index.numpy()] = numbers
        for name, atoms in found.vectors.items():
            for position, own in zip(batch.index.tolist(), atoms, strict=True):
                vectors[name][position] = own[: len(samples[position].positions)]
    results, start = [], 0
    for group in groups:
        end = start + len(group)
        results.append(
            ConformerPredictions(
                group[0].index,
                {name: found[start:end] for name, found in values.items()},
                {name: np.stack(found[start:end]) for name, found in vectors.items()},
                {name: found[start:end] for name, found in variances.items()},
            )
        )
        start = end
    return_freed_memory()
    return results


@dataclass(frozen=True)
class BatchPredictions:
    """Predictions of B systems of N atoms, by target or name, float64.

    Attributes:
        scalars: in the unit of each target. (B,)
        vectors: (B, N, 3)
        variances: of the scalars over the networks of a committee; empty for one network. (B,)
    """

    scalars: dict[str, np.ndarray]
    vectors: dict[str, np.ndarray]
    variances: dict[str, np.ndarray]


def predict_batch(model: nn.Module, task: Task, batch: Batch, slopes: bool) -> BatchPredictions:
    """Runs the model, which is in evaluation mode, on one batch.

    Args:
        model: on the device and in the type of the batch.
        task: what its output means.
        batch: the systems.
        slopes: whether the task takes derivatives of the network by the positions.
    """
    with derivatives() if slopes else torch.inference_mode():
        read = by_positions(batch) if slopes else batch
        output = model(read)
        found = task.predictions(output), task.vector_predictions(output, read), member_variances(task, output)
    return BatchPredictions(
        *({name: tensor.detach().double().cpu().numpy() for name, tensor in part.items()} for part in found)
    )


def member_variances(task: Task, output: ModelOutput) -> dict[str, torch.Tensor]:
    """Variance of every scalar over the networks of a committee, (B,); empty for one network."""
    each = [task.predictions(member) for member in output.members]
    names = each[0] if each else ()
    return {name: torch.stack([answers[name] for answers in each]).var(0, unbiased=False) for name in names}


def return_freed_memory() -> None:
    """Gives freed heap back to the system where the C library can: batches of ever new shapes fragment it otherwise,
    and memory would creep up with the number of molecules.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def inference_batches(samples: Sequence[Sample], settings: InferenceSettings) -> Iterator[Batch]:
    """Packs samples by size into batches of at most `batch_atoms` padded atoms; a larger one goes alone."""
    sizes = [num_tokens(sample, settings.images) for sample in samples]
    group: list[Sample] = []
    for position in sorted(range(len(samples)), key=sizes.__getitem__):
        if group and (len(group) + 1) * sizes[position] > settings.batch_atoms:
            yield collate(group, features=settings.features, images=settings.images)
            group = []
        group.append(samples[position])
    if group:
        yield collate(group, features=settings.features, images=settings.images)
