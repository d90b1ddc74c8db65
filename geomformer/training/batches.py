"""Batches of a split for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from geomformer.prepared.collate import collate_gathered
from geomformer.prepared.images import ImageOptions
from geomformer.prepared.sampler import AtomBudgetSampler
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch
from geomformer.tasks.base import Task
from geomformer.training.signals import interrupts_blocked


class EpochBatches(Dataset[Batch]):
    """The batches of one epoch, each made on demand from (seed, epoch, row) alone, so that workers change nothing."""

    def __init__(
        self,
        split: PreparedSplit,
        task: Task,
        rows: Sequence[np.ndarray],
        seed: int,
        epoch: int,
        features: bool,
        images: ImageOptions | None = None,
    ) -> None:
        self.split, self.task, self.rows = split, task, rows
        self.seed, self.epoch, self.features, self.images = seed, epoch, features, images

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Batch:
        rows = self.rows[number]
        rngs = [np.random.Generator(np.random.PCG64([self.seed, self.epoch, row])) for row in rows.tolist()]
        counts = self.split.num_conformers(rows).tolist()
        conformer = np.array([rng.integers(count) for rng, count in zip(rngs, counts, strict=True)], np.int64)
        systems = self.task.training_inputs(self.split.gather(rows, conformer), rngs)
        return collate_gathered(systems, features=self.features, images=self.images)


def training_batches(
    split: PreparedSplit,
    task: Task,
    sampler: AtomBudgetSampler,
    seed: int,
    epoch: int,
    first: int,
    *,
    features: bool,
    images: ImageOptions | None = None,
    workers: int,
) -> Iterator[Batch]:
    """Batches of `epoch`, from number `first` on. The number of workers changes no value and no generator."""
    batches = EpochBatches(split, task, sampler.batches(epoch), seed, epoch, features, images)
    numbers = range(first, len(batches))
    if workers == 0:
        return (batches[number] for number in numbers)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
        # The loader draws a seed for its workers: from the global generator it would change the model's dropout.
        generator=torch.Generator(),
    )
    with interrupts_blocked():
        return iter(loader)
