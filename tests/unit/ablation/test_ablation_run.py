"""Runs of a plan: none is lost or repeated, whenever it is killed, and none takes the others with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checks.ablation import Heard

from geomformer import api
from geomformer.ablation.job import cpu_threads
from geomformer.ablation.plan import Plan
from geomformer.ablation.render import to_json
from geomformer.ablation.results import read_result
from geomformer.ablation.run import Options, ablate
from geomformer.ablation.table import Table
from geomformer.errors import ConfigError, DataError, GeomformerError
from geomformer.executors import Failure, LocalExecutor
from geomformer.executors.protocol import DIED

DIVERGES = {"optim": {"learning_rate": 1e12, "clip_norm": None, "warmup_fraction": 0.0}}


def values_of(table: Table) -> dict[str, list[float]]:
    return {row["variant"]: row["metrics"]["test/positions_mse"]["values"] for row in to_json(table)["rows"]}


@pytest.fixture(scope="module")
def whole(tiny: dict[str, Any], root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What an unbroken ablation finds."""
    out = tmp_path_factory.mktemp("whole")
    return values_of(ablate(Plan.model_validate(tiny), out, Options(root=root, device="cpu")))


def test_a_plan_runs_and_leaves_what_it_says(plan: Plan, options: Options, tmp_path: Path, heard: Heard) -> None:
    threads = torch.get_num_threads()
    table = ablate(plan, tmp_path, options, heard)
    assert torch.get_num_threads() == threads
    names = ["base-s1", "no-ffn-s1", "base-s2", "no-ffn-s2"]
    assert heard.there == (0, 4) and heard.lines == [(i, 4, name) for i, name in enumerate(names, 1)]
    for name in names:
        result = read_result(tmp_path / f"results/{name}.json")
        assert result is not None and result.done and result.steps == 4 and result.threads == 1
        assert result.model == f"{name}@1" and (tmp_path / f"models/{name}/1/config.yaml").exists()
        assert (tmp_path / f"runs/{name}/metrics.jsonl").exists()
        again = api.evaluate(
            "nbody", root=options.root, model=str(tmp_path / f"models/{name}/1"), splits=["test"], device="cpu"
        )
        assert result.value("test/positions_mse") == pytest.approx(again["splits"]["test"]["positions_mse"], rel=1e-6)
        assert set(again["baselines"]) > {"no_move", "linear"}
    bare = api.evaluate("nbody", root=options.root, model=str(tmp_path / "models/base-s1/1"), limit=3, baselines=False)
    assert "baselines" not in bare and set(bare["splits"]) == {"valid", "test"}
    results = [read_result(tmp_path / f"results/{name}.json") for name in names]
    assert len({result.config for result in results if result}) == 4, "every run has a configuration of its own"
    rows = {row.variant: row for row in table.rows}
    assert rows["no-ffn"].parameters < rows["base"].parameters  # type: ignore[operator]
    for name in ("table.md", "table.csv", "table.json", "plot.png", "ablation.json"):
        assert (tmp_path / name).stat().st_size > 0


def test_the_same_command_repeats_nothing(plan: Plan, options: Options, tmp_path: Path, heard: Heard) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))
    ablate(plan, tmp_path, one)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")}
    ablate(plan, tmp_path, one, heard)
    assert heard.there == (1, 1) and not heard.lines
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.jsonl")}
    more = ablate(plan, tmp_path, dataclasses.replace(options, seeds=1), heard)
    assert heard.there == (1, 2) and [row.variant for row in more.rows] == ["base", "no-ffn"]
    fewer = ablate(plan, tmp_path, one)
    assert [row.variant for row in fewer.rows] == ["base", "no-ffn"], "what is there stays in the table"


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_that_is_killed_in_training_continues(
    plan: Plan, options: Options, tmp_path: Path, whole: dict[str, list[float]], step: int, heard: Heard
) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))

    def kill(event: dict[str, Any]) -> None:
        if event.get("step") == step and len(event) == 2:
            raise KeyboardInterrupt

    heard.report = kill
    with pytest.raises(KeyboardInterrupt):
        ablate(plan, tmp_path, one, heard)
    assert not (tmp_path / "results/base-s1.json").exists()
    assert values_of(ablate(plan, tmp_path, one)) == {"base": whole["base"][:1]}
    logs = (tmp_path / "runs/base-s1/log.txt").read_text()
    assert f"from step {2 if step > 2 else 0} to 4" in logs, "from its last checkpoint"


@pytest.mark.parametrize("place", ["geomformer.api.evaluate", "geomformer.ablation.job.Result"])
def test_a_run_that_is_killed_after_training_is_not_trained_again(
    plan: Plan,
    options: Options,
    tmp_path: Path,
    whole: dict[str, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    one = dataclasses.replace(options, seeds=1, variants=("base",))

    def kill(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(place, kill)
        ablate(plan, tmp_path, one)
    before = (tmp_path / "runs/base-s1/metrics.jsonl").stat().st_mtime_ns
    assert values_of(ablate(plan, tmp_path, one)) == {"base": whole["base"][:1]}
    assert (tmp_path / "runs/base-s1/metrics.jsonl").stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "models/base-s1").iterdir()] == ["1"]


def test_workers_have_no_influence(
    plan: Plan, options: Options, tmp_path: Path, whole: dict[str, list[float]], heard: Heard
) -> None:
    found = ablate(plan, tmp_path, dataclasses.replace(options, workers=2, seeds=1), heard)
    assert values_of(found) == {name: runs[:1] for name, runs in whole.items()}, "to the last bit"
    assert heard.lines == [(1, 2, "base-s1"), (2, 2, "no-ffn-s1")]


def test_a_worker_that_dies_is_a_failed_run(
    plan: Plan, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LosesTheSecond(LocalExecutor):
        def map(self, function: Any, items: Any) -> Iterator[Any]:
            for number, job in enumerate(items):
                yield Failure(number, DIED) if number == 1 else function(job)

    monkeypatch.setattr("geomformer.ablation.run.open_executor", lambda options: LosesTheSecond())
    found = ablate(plan, tmp_path, dataclasses.replace(options, workers=2, seeds=1))
    assert found.rows[0].runs == 1 and found.rows[1].failures == {1: "The worker process died."}


def test_a_run_that_diverges_is_a_row_with_its_reason(
    values: dict[str, Any], options: Options, tmp_path: Path, heard: Heard
) -> None:
    values["variants"] = {"hot": DIVERGES, **values["variants"]}
    values["seeds"] = 1
    table = ablate(Plan.model_validate(values), tmp_path, options)
    rows = {row.variant: row for row in table.rows}
    assert rows["base"].runs == rows["no-ffn"].runs == 1 and rows["hot"].runs == 0
    assert "Training has diverged" in rows["hot"].failures[1]
    assert "hot, seed 1: Training has diverged" in (tmp_path / "table.md").read_text()
    ablate(Plan.model_validate(values), tmp_path, options, heard)
    assert heard.there == (2, 3) and heard.lines == [(3, 3, "hot-s1")], "it is tried again"


def test_a_bug_in_one_run_is_a_row_with_a_traceback_in_its_log(
    values: dict[str, Any], options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = api.train

    def breaks(config: Any, **kwargs: Any) -> Any:
        if not config.model.inv_ffn:
            raise ZeroDivisionError("so it goes")
        return train(config, **kwargs)

    monkeypatch.setattr(api, "train", breaks)
    table = ablate(Plan.model_validate(values | {"seeds": 1}), tmp_path, options)
    reason = table.rows[1].failures[1]
    assert reason.startswith("ZeroDivisionError: so it goes") and "log.txt" in reason
    assert "Traceback" in (tmp_path / "runs/no-ffn-s1/log.txt").read_text()


def test_nothing_but_failures_is_an_error(values: dict[str, Any], options: Options, tmp_path: Path) -> None:
    values["base"] |= DIVERGES
    values["seeds"] = 1
    with pytest.raises(GeomformerError, match="None of 2 runs succeeded; base-s1: Training has diverged") as caught:
        ablate(Plan.model_validate(values), tmp_path, options)
    assert caught.value.exit_code == 1
    assert "0 of 1" in (tmp_path / "table.md").read_text()


def test_metrics_and_splits_must_exist(values: dict[str, Any], options: Options, tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(ConfigError, match=r"split 'tset'.*Did you mean 'test'"):
        ablate(Plan.model_validate({**values, "metrics": ["tset/positions_mse"]}), tmp_path, options)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="Did you mean 'test/positions_mse'"):
        ablate(Plan.model_validate({**values, "metrics": ["test/positions_mae"]}), tmp_path, options)
    ablate(Plan.model_validate({**values, "seeds": 1}), tmp_path, options, heard)
    assert heard.there == (1, 2), "the run that was done stays done"
    both = ["test/positions_mse", "valid/positions_mse"]
    before = (tmp_path / "runs/base-s1/metrics.jsonl").stat().st_mtime_ns
    table = ablate(Plan.model_validate({**values, "seeds": 1, "metrics": both}), tmp_path, options)
    assert all(cell.sample for row in table.rows for cell in row.cells.values()), "another split is evaluated"
    assert (tmp_path / "runs/base-s1/metrics.jsonl").stat().st_mtime_ns == before, "without training again"


def test_a_missing_simulation_is_made(
    plan: Plan, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    prepare = api.prepare

    def small(dataset: str, *, options: Any, **others: Any) -> Path:
        asked.append({"dataset": dataset, "variant": options.variant, **others})
        if options.variant:
            raise DataError("seen")
        return prepare(dataset, options=dataclasses.replace(options, num_systems=(30, 12, 14)), **others)

    monkeypatch.setattr(api, "prepare", small)
    empty = dataclasses.replace(options, root=tmp_path / "empty", seeds=1, variants=("base",))
    for name in ("a", "b"):
        ablate(plan, tmp_path / name, empty)
    for name in ("nbody-isotropic", "nbody-windows"):
        with pytest.raises(DataError, match="seen"):
            ablate(plan, tmp_path / name, dataclasses.replace(empty, data=name))
    found = [(call["dataset"], call["variant"]) for call in asked]
    assert found == [("nbody", ""), ("nbody", "-isotropic"), ("nbody", "-windows")]
    assert (tmp_path / "empty/prepared/nbody/manifest.json").exists()


def test_damaged_results_are_named(plan: Plan, options: Options, tmp_path: Path) -> None:
    path = tmp_path / "results/base-s1.json"
    path.parent.mkdir()
    for text, expected in (
        ("{", "is no result"),
        ('{"format_version": 9}', "newer"),
        ('{"format_version": 1}', "no result"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=expected):
            ablate(plan, tmp_path, options)


def test_threads_are_set_and_put_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before
