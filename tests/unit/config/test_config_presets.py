"""Presets against the table of the paper's appendix E."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from geomformer.config.load import load_config, preset_names
from geomformer.config.run import RunConfig
from geomformer.models import build_model

PAPER: dict[str, dict[str, Any]] = {
    "is2re-paper": {
        "model": {"num_layers": 12, "embed_dim": 768, "ffn_dim": 768, "num_heads": 48, "num_kernels": 128},
        "optim": {"name": "adamw", "eps": 1e-6, "betas": (0.9, 0.98), "learning_rate": 2e-4, "schedule": "linear"},
        "dropout": (0.0, 0.1, 0.0),
        "batch": 128,
        "steps": (1_000_000, 60_000),
    },
    "is2rs-paper": {
        "model": {"num_layers": 12, "embed_dim": 768, "ffn_dim": 768, "num_heads": 48, "num_kernels": 128},
        "optim": {"name": "adamw", "eps": 1e-6, "betas": (0.9, 0.98), "learning_rate": 2e-4, "schedule": "linear"},
        "dropout": (0.0, 0.1, 0.0),
        "batch": 64,
        "steps": (1_000_000, 60_000),
    },
    "pcqm4mv2-paper": {
        "model": {"num_layers": 8, "embed_dim": 512, "ffn_dim": 512, "num_heads": 32, "num_kernels": 128},
        "optim": {"name": "adamw", "eps": 1e-8, "betas": (0.9, 0.999), "learning_rate": 2e-4, "schedule": "linear"},
        "dropout": (0.0, 0.1, 0.1),
        "batch": 1024,
        "steps": (1_500_000, 150_000),
    },
    "molecule3d-paper": {
        "model": {"num_layers": 12, "embed_dim": 768, "ffn_dim": 768, "num_heads": 48, "num_kernels": 128},
        "optim": {"name": "adamw", "eps": 1e-8, "betas": (0.9, 0.999), "learning_rate": 3e-4, "schedule": "linear"},
        "dropout": (0.0, 0.1, 0.1),
        "batch": 1024,
        "steps": (1_000_000, 60_000),
    },
    "nbody-paper": {
        "model": {"num_layers": 4, "embed_dim": 80, "ffn_dim": 80, "num_heads": 8, "num_kernels": 64},
        "optim": {"name": "adam", "eps": 1e-8, "betas": (0.9, 0.999), "learning_rate": 3e-4, "schedule": "constant"},
        "dropout": (0.4, 0.4, 0.4),
        "batch": 100,
        "steps": (None, 0),
    },
}
CLIPPED = {"is2re-paper", "is2rs-paper", "pcqm4mv2-paper", "molecule3d-paper"}
TORCHMD_NET_PARAMETERS = 1_339_906


def parameters(preset: str) -> int:
    with torch.device("meta"):
        return build_model(load_config(preset).model).num_parameters


@pytest.mark.parametrize("preset", sorted(PAPER))
def test_paper_presets_are_as_printed(preset: str) -> None:
    config, printed = load_config(preset), PAPER[preset]
    for section in ("model", "optim"):
        found = {name: getattr(getattr(config, section), name) for name in printed[section]}
        assert found == printed[section]
    model = config.model
    assert (model.embedding_dropout, model.attention_dropout, model.hidden_dropout) == printed["dropout"]
    assert config.data.batch_size == printed["batch"]
    steps, warmup = printed["steps"]
    assert config.train.max_steps == steps
    assert config.optim.warmup_fraction * (steps or 0) == pytest.approx(warmup)
    assert config.optim.clip_norm == (5.0 if preset in CLIPPED else None)
    assert config.optim.weight_decay == 0.0
    assert (model.kernel_affine, model.bias_per_head, model.wiring) == ("pairwise", False, "sequential")


def test_gap_paper_is_the_pcqm4mv2_recipe() -> None:
    gap, printed = load_config("gap-paper"), load_config("pcqm4mv2-paper")
    assert gap.model_copy(update={"preset": None}) == printed.model_copy(update={"preset": None})
    task = gap.task
    assert (task.reference_probability, task.mixture_probability, task.noise_scale) == (0.8, 0.1, 0.2)
    assert (task.position_weight, task.distance_weight) == ((0.3, 0.06), (1.5, 0.3))
    assert gap.train.ema_decay == 0.999 and gap.data.valid_conformers == 8
    assert gap.model.atom_features and gap.model.bond_encoding and gap.model.path_encoding
    assert (gap.model.passes, gap.task.input_geometry) == (1, "conformer")


def test_molecule3d_paper_reads_the_dft_geometry_alone() -> None:
    config = load_config("molecule3d-paper")
    task, model = config.task, config.model
    assert (task.input_geometry, task.reference_probability, task.mixture_probability) == ("reference", 1.0, 0.0)
    assert (task.noise_scale, task.position_weight, task.distance_weight) == (0.0, (0.0, 0.0), (0.0, 0.0))
    assert (model.atom_features, model.bond_encoding, model.path_encoding) == (False, False, False)
    assert (model.num_vectors, model.pooling) == (0, "mean")


def test_pcqm4mv2_improved_is_the_recipe_with_another_model() -> None:
    printed, improved = load_config("pcqm4mv2-paper"), load_config("pcqm4mv2-improved")
    assert {name for name in RunConfig.model_fields if getattr(improved, name) != getattr(printed, name)} == {
        "preset",
        "model",
    }
    changed = {
        "orbitals": "huckel",
        "bias_per_head": True,
        "kernel_affine": "factorised",
        "kernel_start": "spread",
        "pooling": "attention",
        "passes": 2,
    }
    assert improved.model == printed.model.model_copy(update=changed)
    assert improved.model.atom_features and improved.model.bond_encoding and improved.model.path_encoding
    assert improved.data.valid_conformers == 8 and improved.train.ema_decay == 0.999
    one_pass = improved.model.model_copy(update={"passes": 1})
    with torch.device("meta"):
        assert build_model(one_pass).num_parameters == parameters("pcqm4mv2-improved")


def test_nbody_paper_has_the_printed_remaining_dropouts_and_epochs() -> None:
    config = load_config("nbody-paper")
    assert (config.model.activation_dropout, config.model.drop_path) == (0.4, 0.4)
    assert config.model.streams == ("positions", "velocities")
    assert config.train.epochs == 10_000 and config.train.ema_decay == 0.0
    assert (config.task.start, config.task.conserved) == ("x", False)


def test_md17_paper_keeps_the_parameter_budget_of_torchmd_net() -> None:
    assert 0.99 * TORCHMD_NET_PARAMETERS < parameters("md17-paper") <= TORCHMD_NET_PARAMETERS


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_builds(preset: str) -> None:
    config = load_config(preset)
    assert config.preset == preset
    assert config.model.num_scalars == len(config.task.targets)
    assert parameters(preset) > 0


def test_every_task_has_a_small_and_a_paper_preset() -> None:
    names = set(preset_names())
    for task in ("gap", "is2re", "is2rs", "nbody", "md17"):
        assert {f"{task}-small", f"{task}-paper"} <= names
        small, paper = load_config(f"{task}-small"), load_config(f"{task}-paper")
        assert small.task.name == paper.task.name == task
        assert parameters(f"{task}-small") < parameters(f"{task}-paper")
