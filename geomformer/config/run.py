"""The sections of a run other than the model, and the whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from geomformer.config.geomformer import GeoMFormerConfig
from geomformer.config.model import ModelConfig
from geomformer.config.section import Section

TASKS = ("gap", "is2re", "is2rs", "nbody", "md17")


class TaskConfig(Section):
    """What is predicted, from what, and which losses train it."""

    name: Literal["gap", "is2re", "is2rs", "nbody", "md17"] = Field("gap", description="task")
    targets: tuple[str, ...] = Field(("gap",), description="target columns of the prepared dataset")
    answer: str | None = Field(None, description="target that `predict` reports; the first one if not set")
    levels: dict[str, str] = Field({}, description="level of theory by target, where the dataset mixes several")
    input_geometry: Literal["conformer", "reference", "given"] = Field(
        "conformer",
        description="positions at inference: generated conformers, the reference (DFT) geometry, or a structure as it "
        "is given",
    )
    reference_probability: float = Field(
        0.8, ge=0, le=1, description="training on gaps: chance that the input is the noised reference geometry"
    )
    mixture_probability: float = Field(
        0.1,
        ge=0,
        le=1,
        description="training: chance of a mixture of conformer and noised reference; of catalysts, that atoms lie "
        "between the initial and the relaxed structure, plus noise",
    )
    noise_scale: float = Field(0.2, ge=0, description="Angstrom, standard deviation per coordinate")
    position_loss: Literal["l1", "distance", "mse"] = Field(
        "l1",
        description="catalysts and nbody: error of a displacement in units of its scale, absolute values of its "
        "components, its length, or its components squared",
    )
    position_weight: tuple[float, float] = Field((0.3, 0.06), description="position loss, first to last step")
    distance_weight: tuple[float, float] = Field((1.5, 0.3), description="pair-distance loss, first to last step")
    start: Literal["x", "x+v"] = Field(
        "x",
        description="nbody: what the predicted displacement is counted from, the input position or where the velocity "
        "alone would lead",
    )
    conserved: bool = Field(
        False,
        description="nbody: momentum is conserved, and neither the frame nor the sign shared by all charges matters; "
        "needs start: x+v",
    )
    forces: Literal["direct", "conservative"] = Field(
        "direct", description="md17: forces as vectors of the network, or as minus the gradient of its energy"
    )
    force_loss: Literal["mse", "distance"] = Field(
        "mse",
        description="md17: squared errors, or absolute ones: that of the energy, and the length of a force's error",
    )
    energy_weight: float = Field(
        0.01, ge=0, description="md17: weight of the energy's error, in the unit of the dataset (squared for mse)"
    )
    force_weight: float = Field(0.8, ge=0, description="md17: weight of the error of forces, likewise")

    @model_validator(mode="after")
    def _consistent(self) -> TaskConfig:
        if self.answer is not None and self.answer not in self.targets:
            raise ValueError(f"answer {self.answer!r} must be one of the targets {list(self.targets)}")
        if self.reference_probability + self.mixture_probability > 1:
            raise ValueError("reference_probability + mixture_probability must not exceed 1")
        if self.name == "nbody" and self.targets:
            raise ValueError(f"task nbody predicts positions alone: targets must be [], found {list(self.targets)}")
        if self.conserved and self.start != "x+v":
            raise ValueError(f"conserved: true needs start: x+v, which keeps the momentum, found {self.start!r}")
        if self.name == "md17" and len(self.targets) != 1:
            raise ValueError(f"task md17 predicts one energy: targets must name one, found {list(self.targets)}")
        if self.name == "md17" and not self.energy_weight + self.force_weight:
            raise ValueError("energy_weight and force_weight must not both be zero")
        return self

    @property
    def differentiates(self) -> bool:
        """Whether the answer holds a derivative of the network by the positions."""
        return self.name == "md17" and self.forces == "conservative"


class DataConfig(Section):
    """Which prepared dataset, and how it is cut into batches."""

    dataset: str = Field("pcqm4mv2", description="name or folder of a prepared dataset")
    split_scheme: str | None = Field(
        None, description="which scheme, where the dataset has several; its default one if not set"
    )
    train_split: str = "train"
    valid_split: str = "valid"
    batch_size: int = Field(256, ge=1, description="molecules per step over all devices, at most")
    batch_atoms: int = Field(8192, ge=1, description="padded atoms per step and device, at most")
    valid_conformers: int = Field(8, ge=1, description="conformers averaged in validation, at most")
    workers: int = Field(0, ge=0, description="processes that load batches; 0 loads in the training process")


class OptimConfig(Section):
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0, description="peak")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(5.0, description="gradients are scaled down to this norm; null for no clipping")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="after the warm-up, down to zero")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising learning rate")


class TrainConfig(Section):
    """Length, precision and bookkeeping of a run."""

    max_steps: int | None = Field(None, ge=1, description="optimiser steps; wins over epochs")
    epochs: float = Field(100.0, gt=0, description="passes over the train split")
    seed: int = Field(1, ge=0)
    precision: Literal["auto", "32-true", "bf16-mixed", "64-true"] = Field(
        "auto", description="auto: bf16-mixed on a GPU that has it, else 32-true"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="exponential moving average of the weights; 0 for none")
    log_every: int = Field(50, ge=1, description="steps")
    validate_every: int | None = Field(None, ge=1, description="steps; once per epoch if not set")
    checkpoint_every: int | None = Field(None, ge=1, description="steps; with every validation if not set")
    trackers: tuple[Literal["tensorboard"], ...] = Field((), description="in addition to metrics.jsonl")


class RunConfig(Section):
    """Everything a run depends on; saved resolved in its folder and in the artifact."""

    preset: str | None = Field(None, description="preset this configuration started from")
    task: TaskConfig = TaskConfig()
    model: ModelConfig = GeoMFormerConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        passes = self.model.passes if isinstance(self.model, GeoMFormerConfig) else 1
        if passes > 1 and self.task.name in ("is2re", "is2rs", "nbody"):
            raise ValueError(
                f"task {self.task.name} needs model.passes: 1, found {passes}: its displacements are scaled "
                "and some atoms are fixed, which passes after the first do not know"
            )
        if self.model.orbitals != "none" and self.task.input_geometry == "reference":
            raise ValueError(
                f"model.orbitals: {self.model.orbitals} needs task.input_geometry: conformer, found 'reference': "
                "prepared orbitals are those of a generated conformer"
            )
        if self.task.differentiates:
            self._check_differentiable()
        elif self.task.name == "md17" and self.model.num_vectors != 1:
            raise ValueError(f"task.forces: direct needs model.num_vectors: 1, found {self.model.num_vectors}")
        if self.task.name == "nbody" and not (self.model.particles and self.model.num_vectors == 1):
            raise ValueError("task nbody needs model.particles: true and model.num_vectors: 1")
        return self

    def _check_differentiable(self) -> None:
        """Refuses what has no derivative by the positions, or no second one to train it with."""
        model, precision = self.model, self.train.precision
        if precision == "bf16-mixed":
            raise ValueError("task.forces: conservative needs train.precision: 32-true or 64-true, found 'bf16-mixed'")
        if not isinstance(model, GeoMFormerConfig):
            return
        if model.passes > 1:
            raise ValueError(
                f"task.forces: conservative needs model.passes: 1, found {model.passes}: later passes start from "
                "positions that are no function of the first ones"
            )
        if model.images == "tokens":
            raise ValueError("task.forces: conservative needs model.images: keys or none, found 'tokens'")
        if not (model.structural_encoding or model.inv_cross_attention):
            raise ValueError(
                "task.forces: conservative needs an energy that depends on the positions: switch "
                "model.structural_encoding or model.inv_cross_attention on"
            )
