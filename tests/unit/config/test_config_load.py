from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from geomformer.config.load import load_config, preset_names, to_yaml, validate
from geomformer.config.model import ARCHITECTURES
from geomformer.config.painn import PaiNNConfig
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError


def test_overrides_win_in_order_and_keep_their_types() -> None:
    config = load_config(
        "gap-small",
        [
            "train.max_steps=7",
            "train.max_steps=8",
            "optim.learning_rate=1e-4",
            "optim.clip_norm=null",
            "task.targets=[gap, mu]",
            "model.atom_features=false",
            "data.dataset=my/data=1",
        ],
    )
    assert config.train.max_steps == 8
    assert config.optim.learning_rate == 1e-4 and config.optim.clip_norm is None
    assert config.task.targets == ("gap", "mu") and config.model.num_scalars == 2
    assert config.model.atom_features is False
    assert config.data.dataset == "my/data=1"
    assert config.preset == "gap-small"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.max_steps=3", r"no section 'trian'\. Did you mean 'train'"),
        ("train.max_stps=3", r"unknown key 'train\.max_stps'\. Did you mean 'max_steps'"),
        ("train.max_steps=many", r"train\.max_steps: .*integer.*found 'many'"),
        ("train.max_steps=0", r"train\.max_steps: .*greater than or equal to 1, found 0"),
        ("train.max_steps", r"expects section\.key=value, found 'train\.max_steps'"),
        ("train=3", r"expects section\.key=value"),
        ("train.a.b=3", r"expects section\.key=value"),
        ("preset.x=1", "no section 'preset'"),
        ("task.targets=[gap", "not valid YAML"),
        ("model.num_heads=3", "embed_dim 128 must be a multiple of num_heads 3"),
        ("task.answer=mu", "answer 'mu' must be one of the targets"),
        ("task.mixture_probability=0.5", "must not exceed 1"),
        ("model.wiring=paralel", "'sequential' or 'parallel'"),
    ],
)
def test_wrong_overrides_are_named_with_what_is_near(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as wrong:
        load_config("gap-small", [override])
    assert wrong.value.exit_code == 2


def test_a_file_extends_the_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "first.yaml").write_text("extends: gap-small\ntrain: {seed: 7}\n")
    (tmp_path / "mine" / "second.yaml").write_text("extends: first.yaml\nmodel: {num_layers: 2}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config("mine/second.yaml")
    assert (config.train.seed, config.model.num_layers) == (7, 2)
    (tmp_path / "mine" / "round.yaml").write_text("extends: ../mine/round.yaml\n")
    with pytest.raises(ConfigError, match="in a circle"):
        load_config("mine/round.yaml")


@pytest.mark.parametrize(
    ("written", "method"), [("true", "huckel"), ("false", "none"), ("huckel", "huckel"), ("xtb", "xtb")]
)
def test_orbitals_are_named_by_their_theory(written: str, method: str) -> None:
    """Files from before there were two theories say true or false."""
    assert load_config("gap-small", [f"model.orbitals={written}"]).model.orbitals == method


def test_orbitals_of_conformers_do_not_go_with_reference_geometries() -> None:
    with pytest.raises(ConfigError, match=r"model\.orbitals: huckel needs task\.input_geometry: conformer"):
        load_config("gap-small", ["model.orbitals=huckel", "task.input_geometry=reference"])


def test_files_extend_presets(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: gap-small\nmodel: {num_layers: 2}\ntrain:\n  # nothing yet\n")
    config, preset = load_config(path), load_config("gap-small")
    assert config.model == preset.model.model_copy(update={"num_layers": 2})
    assert config.train == preset.train and config.optim == preset.optim


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "expected sections"),
        ("train: [1", "not valid YAML"),
        ("trian: {seed: 1}\n", "unknown key 'trian'. Did you mean 'train'"),
        ("train: 5\n", "train: "),
        ("model: [3]\n", r"model: expected keys with values, found \[3\]"),
        ("extends: gap-smal\n", "Did you mean 'gap-small'"),
        ("extends: SELF\n", "in a circle"),
    ],
)
def test_wrong_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("SELF", str(path)))
    with pytest.raises(ConfigError, match=message):
        load_config(path, ["train.seed=2"])


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match=r"neither a preset nor a configuration file.*Presets: .*gap-paper"):
        load_config("nothing-like-it")


def test_the_saved_configuration_is_the_same_again() -> None:
    for preset in preset_names():
        config = load_config(preset, ["optim.eps=1e-16"])
        assert validate(yaml.safe_load(to_yaml(config)), "again") == config


def test_sections_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().train.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_architecture_keeps_inputs_and_outputs(architecture: str) -> None:
    config = load_config("nbody-small", [f"model.architecture={architecture}"])
    assert config.model.architecture == architecture
    assert config.model.particles and config.model.speed and not config.model.atom_features
    assert config.model.num_scalars == 0 and config.model.num_vectors == 1
    assert validate(config.model_dump(mode="json"), "again") == config


def test_sizes_do_not_travel_between_architectures() -> None:
    config = load_config("md17-small", ["model.architecture=painn", "model.embed_dim=48"])
    assert config.model.num_layers == PaiNNConfig().num_layers and config.model.embed_dim == 48


def test_the_architecture_is_chosen_before_its_keys_wherever_it_stands() -> None:
    keys = ["model.embed_dim=48", "train.seed=3"]
    config = load_config("md17-small", ["model.architecture=sake", *keys, "model.architecture=painn"])
    assert config == load_config("md17-small", ["model.architecture=painn", *keys])
    assert config.model.architecture == "painn" and config.model.embed_dim == 48 and config.train.seed == 3
    with pytest.raises(ConfigError, match=r"unknown key 'model.equ_ffn'"):
        load_config("md17-small", ["model.equ_ffn=false", "model.architecture=painn"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture=PAINN", "Did you mean 'painn'"),
        ("model.architecture=pain", "expected one of geomformer, painn.*found 'pain'.*Did you mean 'painn'"),
        ("model.embed_dimm=3", "unknown key 'model.embed_dimm'.*Did you mean 'embed_dim'"),
    ],
)
def test_wrong_architecture(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("md17-small", [override])


def test_keys_of_another_architecture_are_unknown() -> None:
    with pytest.raises(ConfigError, match=r"'model.equ_ffn': architecture painn has none, only geomformer"):
        load_config("md17-small", ["model.architecture=painn", "model.equ_ffn=false"])


def test_architectures_without_copies_refuse_periodic_systems() -> None:
    with pytest.raises(ConfigError, match="sake reads no periodic systems"):
        load_config("is2re-small", ["model.architecture=sake"])


def test_a_file_may_change_the_architecture_of_what_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: nbody-small\nmodel: {architecture: egnn, num_layers: 3}\n")
    model = load_config(path).model
    assert model.architecture == "egnn" and model.particles and model.num_layers == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_groups_of_the_pooling_must_fit(architecture: str) -> None:
    changes = [f"model.architecture={architecture}", "model.num_heads=8", "model.embed_dim=30"]
    with pytest.raises(ConfigError, match="multiple of num_heads 8"):
        load_config("gap-small", changes)
    if architecture not in ("geomformer", "torchmd-et"):  # whose attention needs the same
        assert load_config("gap-small", [*changes, "model.pooling=sum"]).model.embed_dim == 30
