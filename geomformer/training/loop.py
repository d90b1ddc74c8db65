"""The training loop: Lightning Fabric for devices, precision and ranks; everything else is here to be read."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from geomformer.config.run import RunConfig
from geomformer.errors import GeomformerError, Interrupted
from geomformer.evaluation.metrics import metric_key
from geomformer.evaluation.vectors import selection
from geomformer.inference.averaging import InferenceSettings
from geomformer.prepared.images import ImageOptions, most_tokens
from geomformer.prepared.sampler import AtomBudgetSampler
from geomformer.prepared.split import PreparedSplit
from geomformer.records import Batch
from geomformer.tasks import MD17
from geomformer.tasks.base import Task
from geomformer.tasks.differentiation import by_positions, derivatives
from geomformer.training.batches import training_batches
from geomformer.training.ema import WeightAverage
from geomformer.training.run_folder import RunFolder
from geomformer.training.schedule import build_optimizer, learning_rate
from geomformer.training.signals import StopRequest
from geomformer.training.trackers import build_trackers
from geomformer.training.validation import validation_values

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
        self.model, self.optimizer = fabric.setup(model, build_optimizer(config.optim, model))
        self.average = WeightAverage(model, config.train.ema_decay)
        self.images = ImageOptions.of(config.model, training=True)
        self.sampler = AtomBudgetSampler(
            most_tokens(train.num_atoms, self.images),
            batch_size=max(1, config.data.batch_size // fabric.world_size),
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
        self.features = config.model.reads_graph
        self.score_key = selection(config.task.name, units) or ""
        if task.targets and config.task.name != MD17:  # there the energy is the easier part
            answer = config.task.answer or task.targets[0]
            self.score_key = metric_key(answer, "mae", units[answer])
        self.position = Position()
        self.sums: dict[str, Tensor] = {}
        self.stop = StopRequest()
        self.trackers = build_trackers(config.train.trackers, folder.path) if fabric.is_global_zero else []

    def fit(self) -> None:
        """Runs to the last step.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved.
            GeomformerError: the weights have become useless (not finite).
        """
        self.model.train()
        with self.stop.listening():
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
            images=self.images,
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
        losses = self.losses(batch, self.position.step / self.max_steps)
        count = self.molecules(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(losses["total"] / count)
        if self.config.optim.clip_norm is not None:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.config.optim.clip_norm, error_if_nonfinite=False
            )
            self.add("gradient_norm", norm.detach(), 1.0)
        self.optimizer.step()
        self.average.update(self.position.step)
        for name, value in losses.items():
            self.add(name, value.detach(), float(batch.num_systems))

    def losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """Runs the network and compares, with slopes by the positions where the task reads them."""
        if not self.config.task.differentiates:
            return self.task.losses(self.model(batch), batch, progress)
        with derivatives():
            batch = by_positions(batch)
            return self.task.losses(self.model(batch), batch, progress)

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
        if not last and self.stopping():
            self.checkpoint(improved)
            raise Interrupted(f"Stopped at step {step} of {self.max_steps}; the state is saved in {self.folder.path}.")
        if step % self.checkpoint_every == 0 or improved or last:
            self.checkpoint(improved)

    def stopping(self) -> bool:
        """Whether any rank was asked to stop: all must leave at the same step."""
        if self.fabric.world_size == 1:
            return bool(self.stop)
        asked = torch.tensor(float(bool(self.stop)), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum") > 0)

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
        """Validates the averaged weights; returns whether they are the best so far.

        The first rank does it for all, so that all agree on what is best.
        """
        values: dict[str, float] = {}
        if self.fabric.is_global_zero:
            with self.average.applied():
                values = self.validation_values(self.raw_model)
        values = self.fabric.broadcast(values)
        self.write("metrics.jsonl", step, {f"valid/{name}": value for name, value in values.items()})
        score = float(values.get(self.score_key, next(iter(values.values()))))
        if not math.isfinite(score):
            raise GeomformerError(
                f"Training has diverged: the validation error is {score} after step {step}.",
                "Start again with a lower optim.learning_rate, or a longer warm-up.",
            )
        improved = score < self.position.best
        self.position.best = min(score, self.position.best)
        return improved

    def validation_values(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the valid split."""
        name = self.config.task.name
        return validation_values(name, model, self.task, self.valid, self.units, self.inference_settings())

    def projected_seconds(self) -> float:
        """Time of the remaining steps, from one gradient of the next batch; nothing is changed by it."""
        rows = self.sampler.batches(self.position.epoch)
        batches = training_batches(
            self.train_split,
            self.task,
            self.sampler,
            0,
            self.position.epoch,
            len(rows) // 2,
            features=self.features,
            images=self.images,
            workers=0,
        )
        cuda = self.fabric.device.type == "cuda"
        batch = next(iter(batches)).to(self.fabric.device)
        seconds = 0.0
        with torch.random.fork_rng([self.fabric.device] if cuda else []):
            for _ in range(2):  # the first one warms up
                start = time.perf_counter()
                losses = self.losses(batch, 0.0)
                self.fabric.backward(losses["total"])
                if cuda:
                    torch.cuda.synchronize(self.fabric.device)
                seconds = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        return seconds * (self.max_steps - self.position.step)

    def inference_settings(self) -> InferenceSettings:
        data = self.config.data
        images = ImageOptions.of(self.config.model)
        return InferenceSettings(
            data.valid_conformers,
            data.batch_atoms,
            self.features,
            images,
            str(self.fabric.device),
            self.config.task.differentiates,
        )

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
