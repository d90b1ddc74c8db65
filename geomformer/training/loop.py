"""The training loop: Lightning Fabric for devices, precision and ranks; everything else is here to be read."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from geomformer.config.run import OptimConfig, RunConfig
from geomformer.errors import DataError, Interrupted
from geomformer.evaluation.metrics import metric_key
from geomformer.inference.averaging import InferenceSettings, predict_records
from geomformer.prepared.dataset import PreparedSplit
from geomformer.prepared.sampler import AtomBudgetSampler
from geomformer.records import Batch
from geomformer.tasks.base import Task
from geomformer.training.batches import training_batches
from geomformer.training.ema import WeightAverage
from geomformer.training.run_folder import RunFolder
from geomformer.training.schedule import learning_rate
from geomformer.training.trackers import build_trackers

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Called with every line of metrics, and with {"step", "max_steps"} after every step."""


@dataclass
class Position:
    """Where a run stands. Saved with every checkpoint; with the weights and generators it decides all that follows."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = float("inf")
    sums: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains one model on one split and validates on another.

    Args:
        config: the run.
        task, model: what is trained.
        train, valid: splits of the prepared dataset.
        units: unit of each target, for metric names.
        folder: where everything is written.
        fabric: launched Fabric.
        report: receives progress and metrics.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: nn.Module,
        train: PreparedSplit,
        valid: PreparedSplit,
        units: dict[str, str],
        folder: RunFolder,
        fabric: Fabric,
        report: Report,
    ) -> None:
        self.config, self.task, self.valid, self.units = config, task, valid, units
        self.train_split, self.folder, self.fabric, self.report = train, folder, fabric, report
        self.raw_model = model
        self.average = WeightAverage(model.to(fabric.device), config.train.ema_decay)
        self.model, self.optimizer = fabric.setup(model, build_optimizer(config.optim, model))
        self.sampler = AtomBudgetSampler(
            train.num_atoms,
            batch_size=config.data.batch_size,
            max_atoms=config.data.batch_atoms,
            seed=config.train.seed,
            shuffle=True,
            world_size=fabric.world_size,
            rank=fabric.global_rank,
        )
        self.steps_per_epoch = len(self.sampler.batches(0))
        self.max_steps = config.train.max_steps or max(1, round(config.train.epochs * self.steps_per_epoch))
        self.validate_every = config.train.validate_every or self.steps_per_epoch
        self.checkpoint_every = config.train.checkpoint_every or self.validate_every
        self.features = reads_graph(config)
        self.position = Position()
        self.sums: dict[str, Tensor] = {}
        self.stop_signal: int | None = None
        self.trackers = build_trackers(config.train.trackers, folder.path) if fabric.is_global_zero else []

    def fit(self) -> None:
        """Runs to the last step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved.
        """
        self.model.train()
        with self.signals_caught():
            try:
                while self.position.step < self.max_steps:
                    self.run_epoch()
            finally:
                self.folder.close()
                for tracker in self.trackers:
                    tracker.close()

    def run_epoch(self) -> None:
        batches = training_batches(
            self.train_split,
            self.task,
            self.sampler,
            self.config.train.seed,
            self.position.epoch,
            self.position.batch,
            features=self.features,
            workers=self.config.data.workers,
        )
        waiting = time.perf_counter()
        for batch in batches:
            loaded = time.perf_counter()
            self.step(batch.to(self.fabric.device))
            self.position.step += 1
            self.position.batch += 1
            self.report({"step": self.position.step, "max_steps": self.max_steps})
            self.after_step(loaded - waiting, time.perf_counter() - loaded)
            if self.position.step >= self.max_steps:
                return
            waiting = time.perf_counter()
        self.position.epoch += 1
        self.position.batch = 0

    def step(self, batch: Batch) -> None:
        """One optimiser step on one batch: loss summed over molecules, gradients divided by their number."""
        rate = learning_rate(self.config.optim, self.position.step, self.max_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self.task.losses(self.model(batch), batch, self.position.step / self.max_steps)
        count = self.molecules(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(losses["total"] / count)
        if self.config.optim.clip_norm is not None:
            norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.config.optim.clip_norm)
            self.add("gradient_norm", norm.detach(), 1.0)
        self.optimizer.step()
        self.average.update(self.position.step)
        for name, value in losses.items():
            self.add(name, value.detach(), float(batch.num_systems))

    def molecules(self, batch: Batch) -> Tensor | float:
        """Molecules per rank, averaged over ranks: gradients are averaged over ranks, so all molecules weigh alike."""
        if self.fabric.world_size == 1:
            return float(batch.num_systems)
        count = torch.tensor(float(batch.num_systems), device=self.fabric.device)
        return self.fabric.all_reduce(count, reduce_op="mean")

    def add(self, name: str, value: Tensor, weight: float) -> None:
        """Adds to the running mean of the next log line, on the device, without waiting for it."""
        zero = value.new_zeros(())
        self.sums[name] = self.sums.get(name, zero) + value
        self.sums[name + "/n"] = self.sums.get(name + "/n", zero) + weight

    def after_step(self, waited: float, computed: float) -> None:
        step = self.position.step
        last = step >= self.max_steps
        self.add("waiting", torch.tensor(waited), 1.0)
        self.add("computing", torch.tensor(computed), 1.0)
        if step % self.config.train.log_every == 0 or last:
            self.write_means(step)
        improved = False
        if step % self.validate_every == 0 or last:
            improved = self.validate(step)
        if self.stop_signal is not None and not last:
            self.checkpoint(improved)
            raise Interrupted(f"Stopped at step {step} of {self.max_steps}; the state is saved in {self.folder.path}.")
        if step % self.checkpoint_every == 0 or improved or last:
            self.checkpoint(improved)

    def write_means(self, step: int) -> None:
        """Writes the means since the last line; times go to a file of their own."""
        means = {
            name: float(value) / float(self.sums[name + "/n"])
            for name, value in self.sums.items()
            if not name.endswith("/n")
        }
        self.sums.clear()
        waiting, computing = means.pop("waiting"), means.pop("computing")
        rate = learning_rate(self.config.optim, step - 1, self.max_steps)
        line = {f"train/{name}": value for name, value in means.items()} | {"learning_rate": rate}
        timing = {"waiting_share": waiting / (waiting + computing), "step_seconds": waiting + computing}
        self.write("metrics.jsonl", step, {"epoch": self.position.epoch, **line})
        self.write("timing.jsonl", step, timing)

    def write(self, name: str, step: int, values: dict[str, Any]) -> None:
        if not self.fabric.is_global_zero:
            return
        self.folder.append(name, {"step": step, **values})
        for tracker in self.trackers:
            tracker.log(step, values)
        self.report({"step": step, "max_steps": self.max_steps, **values})

    def validate(self, step: int) -> bool:
        """Validates the averaged weights; returns whether they are the best so far."""
        with self.average.applied():
            values = self.validation_values(self.raw_model)
        self.write("metrics.jsonl", step, {f"valid/{name}": value for name, value in values.items()})
        answer = self.config.task.answer or self.task.targets[0]
        score = values.get(metric_key(answer, "mae", self.units[answer]), next(iter(values.values())))
        improved = score < self.position.best
        self.position.best = min(score, self.position.best)
        return improved

    def validation_values(self, model: nn.Module) -> dict[str, float]:
        """Mean absolute error of each target over the valid split: conformers averaged, and the first one alone."""
        values = {}
        for target, (averaged, single) in validation_errors(
            model, self.task, self.valid, self.inference_settings()
        ).items():
            values[metric_key(target, "mae", self.units[target])] = averaged
            values[metric_key(target, "mae_single_conformer", self.units[target])] = single
        return values

    def projected_seconds(self) -> float:
        """Time of the remaining steps, from one gradient of the next batch; nothing is changed by it."""
        rows = self.sampler.batches(self.position.epoch)
        state = torch.get_rng_state()
        batches = training_batches(
            self.train_split,
            self.task,
            self.sampler,
            0,
            self.position.epoch,
            len(rows) // 2,
            features=self.features,
            workers=0,
        )
        start = time.perf_counter()
        batch = next(iter(batches)).to(self.fabric.device)
        losses = self.task.losses(self.model(batch), batch, 0.0)
        self.fabric.backward(losses["total"])
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        torch.set_rng_state(state)
        return seconds * (self.max_steps - self.position.step)

    def inference_settings(self) -> InferenceSettings:
        data = self.config.data
        return InferenceSettings(data.valid_conformers, data.batch_atoms, self.features, str(self.fabric.device))

    def checkpoint(self, best: bool) -> None:
        if self.fabric.is_global_zero:
            self.folder.save_checkpoint(self.state(), self.position.step, best)
        self.fabric.barrier()

    def state(self) -> dict[str, Any]:
        """Everything the next step depends on, as tensors and plain values."""
        self.position.sums = {name: float(value) for name, value in self.sums.items()}
        return {
            "format_version": 1,
            "model": {name: tensor.detach().cpu() for name, tensor in self.raw_model.state_dict().items()},
            "average": {name: tensor.cpu() for name, tensor in self.average.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "position": vars(self.position),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly where `state` was taken."""
        self.raw_model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.position = Position(**state["position"])
        self.sums = {name: torch.tensor(value, device=self.fabric.device) for name, value in self.position.sums.items()}
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    @contextmanager
    def signals_caught(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step finish and the state be saved."""

        def remember(number: int, frame: FrameType | None) -> None:
            self.stop_signal = number

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[config.name](
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        foreach=True,
    )


def reads_graph(config: RunConfig) -> bool:
    """Whether the model reads the 2D graph (atom features, bonds, paths)."""
    model = config.model
    return model.atom_features or model.bond_encoding or model.path_encoding


def validation_errors(
    model: nn.Module, task: Task, split: PreparedSplit, settings: InferenceSettings
) -> dict[str, tuple[float, float]]:
    """By target: mean absolute error of the conformer average, and of the first conformer alone.

    Raises:
        DataError: the split has no label of any target.
    """
    averaged: dict[str, list[float]] = {target: [] for target in task.targets}
    single: dict[str, list[float]] = {target: [] for target in task.targets}
    labels = {target: split.target(target) for target in task.targets}
    for prediction in predict_records(model, task, enumerate(split), settings):
        for target in task.targets:
            label = labels[target][prediction.index]
            if not np.isnan(label):
                averaged[target].append(abs(prediction.mean(target) - label))
                single[target].append(abs(float(prediction.values[target][0]) - label))
    found = {t: (float(np.mean(averaged[t])), float(np.mean(single[t]))) for t in task.targets if averaged[t]}
    if not found:
        raise DataError(f"split '{split.name}' has no label of {', '.join(task.targets)}.", "Check data.valid_split.")
    return found
