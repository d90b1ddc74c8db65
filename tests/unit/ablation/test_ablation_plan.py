"""Plans are checked whole before anything runs; those that ship say what the paper prints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from geomformer.ablation.plan import Plan, load_plan, plan_names, rises
from geomformer.ablation.variants import configurations
from geomformer.config.load import load_config
from geomformer.errors import ConfigError

MODULES = ("inv_self_attention", "inv_cross_attention", "equ_self_attention", "equ_cross_attention")
BASE_MSE = 0.0047
"""Of the full model on N-body, Table 6 of the paper."""


def written(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", plan_names())
def test_shipped_plans_are_sound(name: str, quick: bool) -> None:
    plan = load_plan(name)
    found = configurations(plan, quick=quick)
    assert tuple(found) == plan.rows and plan.source and plan.cost
    if not quick and isinstance(plan.base, str):
        base = load_config(plan.base, [f"data.dataset={plan.data}"])
        assert found[plan.base_name] == base, "the full plan starts from the preset as it is"
    for numbers in plan.paper.numbers.values():
        assert set(numbers) >= set(plan.variants), "the paper prints every variant"


def test_attention_tables_have_the_combinations_that_are_printed() -> None:
    expected = {
        "nbody-attention": "0111 1011 1101 1110 0110 1010 0101 1001 0010",
        "md17-attention-energy": "0111 1011 1101 1110 1001 1010 0101 0110 1000",
        "md17-attention-forces": "0111 1011 1101 1110 0110 1010 0101 1001 0010",
    }
    for name, rows in expected.items():
        plan = load_plan(name)
        found = configurations(plan)
        switches = ["".join(str(int(getattr(found[row].model, key))) for key in MODULES) for row in plan.variants]
        assert switches == rows.split(), name
        base = found[plan.base_name].model_dump()
        for row in plan.variants:
            values = found[row].model_dump()
            values["model"] |= dict.fromkeys(MODULES, True)
            assert values == base, f"{row} differs from the base in something else"


@pytest.mark.parametrize("name", [name for name in plan_names() if name.startswith("nbody")])
def test_drops_are_rises_of_an_error_with_four_digits(name: str) -> None:
    plan = load_plan(name)
    assert plan.paper.form == "change"
    for drop in plan.paper.numbers["nbody"].values():
        rounded = round(BASE_MSE * (1 + drop / 100), 4)
        assert 100 * (rounded / BASE_MSE - 1) == pytest.approx(drop, abs=0.06)


def test_numbers_of_all_molecules_are_kept() -> None:
    for name, aspirin, uracil in (("energy", 0.118, 0.113), ("forces", 0.171, 0.258)):
        plan = load_plan(f"md17-attention-{name}")
        assert len(plan.paper.numbers) == 8 and all(len(row) == 10 for row in plan.paper.numbers.values())
        assert plan.paper.of("data/prepared/md17/aspirin")["full"] == aspirin
        assert list(plan.paper.of("md17/uracil").values())[-1] == uracil
        assert plan.paper.of("rmd17/aspirin") == {}, "another dataset, whatever the molecule"
        for numbers in plan.paper.numbers.values():
            assert min(numbers, key=lambda row: numbers[row]) == "full", "the paper's full model is the best"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"varients": {}}, "unknown key 'varients'. Did you mean 'variants'?"),
        ({"quick": {"sedes": 1}}, "unknown key 'quick.sedes'. Did you mean 'seeds'?"),
        ({"paper": {"from": "value"}}, "unknown key 'paper.from'. Did you mean 'form'?"),
        ({"task": "n-body"}, "task: expected one of gap, is2re, is2rs, nbody, md17, found 'n-body'"),
        ({"metrics": ["positions_mse"]}, "expected SPLIT/KEY such as test/energy_mae_ev, found 'positions_mse'"),
        ({"metrics": ["test/a", "test/a"]}, "a metric stands there twice"),
        ({"metrics": []}, "metrics: "),
        ({"variants": {"no ffn": {}}}, "expected names of letters"),
        ({"variants": {}}, "variants: "),
        ({"variants": {False: {}}}, "variants: expected names, found False, which needs quotes"),
        ({"variants": {"a": {"train": {"seed": 3}}}}, "variants.a.train.seed: every run has a seed of its own"),
        ({"quick": {"changes": {"train": {"seed": 3}}}}, "quick.changes.train.seed: every run"),
        ({"quick": {"variants": {"no-ffn": {"train": {"seed": 3}}}}}, "quick.variants.no-ffn.train.seed: every run"),
        ({"budget": math.inf}, "budget: "),
        ({"base_name": "no-ffn"}, "a variant has the name of the base, 'no-ffn'"),
        ({"base": 3}, "base: expected the name of a preset or a mapping of sections"),
        ({"seeds": 0}, "seeds: "),
        ({"paper": {"metric": "test/position_mse"}}, "Did you mean 'test/positions_mse'?"),
        ({"paper": {"numbers": {"nbody": {"no-fnn": 1.0, "base": 1.0}}}}, "Did you mean 'no-ffn'?"),
        ({"paper": {"numbers": {"nbody": {"no-ffn": 1.0}}}}, "has no number of the base, 'base'"),
        ({"quick": {"variants": {"noffn": {}}}}, "quick.variants: there is no variant 'noffn'. Did you mean 'no-ffn'?"),
    ],
)
def test_a_bad_plan_is_refused_with_the_nearest_name(
    values: dict[str, Any], tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan(written(tmp_path / "mine.yaml", values | change))
    assert expected in str(caught.value) and "mine.yaml" in caught.value.message


def test_missing_keys_and_files_are_named(values: dict[str, Any], tmp_path: Path) -> None:
    del values["title"]
    with pytest.raises(ConfigError, match="title is missing"):
        load_plan(written(tmp_path / "mine.yaml", values))
    with pytest.raises(ConfigError, match="Did you mean 'nbody-attention'"):
        load_plan("nbody-atention")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_plan(written(tmp_path / "bad.yaml", "a: [1"))
    with pytest.raises(ConfigError, match=r"expected a plan .* found list"):
        load_plan(written(tmp_path / "bad.yaml", "[1]"))


def test_name_is_that_of_the_file(values: dict[str, Any], tmp_path: Path) -> None:
    del values["name"]
    assert load_plan(written(tmp_path / "mine.yaml", values)).name == "mine"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"inv_fnn": False}}, "variant no-ffn: unknown key 'model.inv_fnn'. Did you mean 'inv_ffn'?"),
        ({"modle": {"inv_ffn": False}}, "unknown key 'modle'. Did you mean 'model'?"),
        ({"model": {"inv_ffn": True}}, "variant no-ffn: it changes nothing"),
        ({"model": {"architecture": "pain"}}, "variant no-ffn: model.architecture"),
        ({"task": {"name": "gap", "targets": ["gap"]}}, "expected task nbody, found gap"),
        ({"data": {"dataset": "other"}}, "expected the data of the base, nbody, found other"),
        ({"model": {"embed_dim": 7}}, "must be a multiple of num_heads"),
    ],
)
def test_every_variant_is_checked(values: dict[str, Any], change: dict[str, Any], expected: str) -> None:
    plan = Plan.model_validate(values | {"variants": {"no-ffn": change}})
    with pytest.raises(ConfigError) as caught:
        configurations(plan)
    assert expected in caught.value.message and "plan tiny" in caught.value.message


def test_base_is_checked_too(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'nbody-small'"):
        configurations(Plan.model_validate(values | {"base": "nbody-smal"}))
    with pytest.raises(ConfigError, match=r"quick.changes.model.embed_dm'. Did you mean 'embed_dim'"):
        configurations(Plan.model_validate(values | {"quick": {"changes": {"model": {"embed_dm": 8}}}}))


def test_changes_come_in_their_order(values: dict[str, Any]) -> None:
    values["variants"]["slow"] = {"train": {"max_steps": 7}, "optim": {"learning_rate": 1e-5}}
    values["quick"]["variants"] = {"slow": {"train": {"max_steps": 3}}}
    plan = Plan.model_validate(values)
    full, quick = configurations(plan), configurations(plan, quick=True)
    assert [full[name].train.max_steps for name in plan.rows] == [4, 4, 7]
    assert [quick[name].train.max_steps for name in plan.rows] == [2, 2, 3]
    assert quick["slow"].optim.learning_rate == 1e-5
    forced = configurations(plan, quick=True, data="mine/1", overrides=["train.max_steps=9", "optim.eps=1e-9"])
    assert {config.train.max_steps for config in forced.values()} == {9}
    assert {(config.data.dataset, config.optim.eps) for config in forced.values()} == {("mine/1", 1e-9)}


def test_budget_scales_epochs_or_steps(values: dict[str, Any]) -> None:
    values["budget"] = 0.5
    assert configurations(Plan.model_validate(values))["no-ffn"].train.max_steps == 2
    values["base"] = "nbody-paper"
    plan = Plan.model_validate(values)
    assert configurations(plan)["no-ffn"].train.epochs == 5_000
    assert configurations(plan, budget=0.01)["base"].train.epochs == 100
    assert configurations(plan, quick=True)["base"].train.max_steps == 2, "quick has its own length"


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_trains_nothing_or_forever_is_refused(plan: Plan, budget: float) -> None:
    with pytest.raises(ConfigError, match="Expected a budget above 0"):
        configurations(plan, budget=budget)


def test_a_variant_may_be_another_architecture(values: dict[str, Any]) -> None:
    values["variants"] = {"other": {"model": {"architecture": "painn", "num_layers": 3}}}
    values["quick"]["changes"]["model"] = {"embed_dim": 16, "ffn_dim": 16}
    plan = Plan.model_validate(values)
    full, quick = configurations(plan)["other"].model, configurations(plan, quick=True)
    assert (full.architecture, full.num_layers) == ("painn", 3) and full.particles and full.speed
    assert quick["base"].model.embed_dim == quick["other"].model.embed_dim == 16, "sizes go to all that have them"
    assert "ffn_dim" not in quick["other"].model.model_dump()
    values["base"]["model"] = {"architecture": "painn"}
    values["variants"] = {"ours": {"model": {"architecture": "geomformer"}}}
    found = configurations(Plan.model_validate(values))
    assert [config.model.architecture for config in found.values()] == ["painn", "geomformer"]


def test_overrides_leave_seeds_alone(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        configurations(plan, overrides=["train.seed=3"])
    with pytest.raises(ConfigError, match="it changes nothing"):
        configurations(plan, overrides=["model.inv_ffn=true", "model.equ_ffn=true"])


def test_the_base_is_always_selected(plan: Plan) -> None:
    assert plan.select(()) == plan.select(["no-ffn"]) == ("base", "no-ffn")
    assert plan.select(["base"]) == ("base",)
    with pytest.raises(ConfigError, match="Did you mean 'no-ffn'"):
        plan.select(["noffn"])


def test_shares_rise_and_errors_fall() -> None:
    assert rises("valid/energy_ewt_percent") and rises("valid/positions_adwt_all_atoms_percent")
    assert not rises("test/energy_mae_ev") and not rises("test/positions_mse")
