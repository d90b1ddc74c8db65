"""What is refused before anything runs: a folder of something else, and what cannot be done."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from checks.ablation import Heard

from geomformer.ablation.plan import Plan
from geomformer.ablation.run import Options, ablate
from geomformer.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"overrides": ["optim.eps=1e-9"]}, "variant base with optim.eps 1e-08, found 1e-09"),
        ({"quick": True}, "holds the full plan tiny"),
        ({"budget": 0.5}, "variant base with train.max_steps 4, found 2"),
    ],
)
def test_another_ablation_in_the_same_folder_is_refused(
    plan: Plan, options: Options, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))
    ablate(plan, tmp_path, one)
    with pytest.raises(ConfigError) as caught:
        ablate(plan, tmp_path, dataclasses.replace(one, **change))
    assert expected in caught.value.message and "--out" in str(caught.value)


def test_a_plan_that_has_changed_is_refused_for_what_has_changed(
    values: dict[str, Any], options: Options, tmp_path: Path, heard: Heard
) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))
    ablate(Plan.model_validate(values), tmp_path, one)
    changed = {**values, "variants": {"no-ffn": {"model": {"inv_ffn": False}}}}
    with pytest.raises(ConfigError, match=r"variant no-ffn with model.equ_ffn False, found True"):
        ablate(Plan.model_validate(changed), tmp_path, one)
    with pytest.raises(ConfigError, match="holds plan tiny, found other"):
        ablate(Plan.model_validate({**values, "name": "other"}), tmp_path, one)
    with pytest.raises(ConfigError, match="limit None, found 3"):
        ablate(Plan.model_validate({**values, "limit": 3}), tmp_path, one)
    grown = {**values, "variants": {**values["variants"], "no-norm": {"model": {"inv_norm": False}}}}
    ablate(Plan.model_validate(grown), tmp_path, one, heard)
    assert heard.there == (1, 1), "variants may be added"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"format_version": 1}', "expected plan, quick, data"),
        ('{"format_version": 1, "plan": "tiny"}', "expected quick, data"),
        ('{"format_version": "x"}', "cannot be read"),
        ('{"format_version": 9}', "newer"),
        ("[]", "cannot be read"),
    ],
)
def test_damaged_notes_are_named(plan: Plan, options: Options, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "ablation.json").write_text(text)
    with pytest.raises(DataError, match=expected):
        ablate(plan, tmp_path, options)


def test_other_data_are_refused(plan: Plan, options: Options, tmp_path: Path, root: Path) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))
    ablate(plan, tmp_path / "out", one)
    manifest = json.loads((tmp_path / "out/ablation.json").read_text())
    (tmp_path / "out/ablation.json").write_text(json.dumps(manifest | {"data": "0"}))
    with pytest.raises(ConfigError, match="other data"):
        ablate(plan, tmp_path / "out", one)
    (tmp_path / "out/ablation.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        ablate(plan, tmp_path / "out", one)


def test_what_workers_cannot_do_is_refused(plan: Plan, options: Options, tmp_path: Path) -> None:
    loading = dataclasses.replace(options, workers=2, overrides=["data.workers=1"])
    with pytest.raises(ConfigError, match=r"data.workers=0"):
        ablate(plan, tmp_path, loading)
    with pytest.raises(ConfigError, match="local or ray"):
        ablate(plan, tmp_path, dataclasses.replace(options, executor="slurm"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="geomformer preprocess"):
        ablate(plan, tmp_path, dataclasses.replace(options, data="md17/aspirin"))
