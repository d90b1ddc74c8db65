"""What the commands hand to the library and how they show what comes back."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import geomformer.api
import geomformer.artifacts.store
from geomformer.errors import Interrupted
from geomformer_cli import console
from geomformer_cli.app import app
from geomformer_cli.commands.evaluate import describe


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMFORMER_MODELS", str(tmp_path / "models"))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@dataclass
class Call:
    """Stands in for a function of the library and keeps how it was called."""

    answer: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.args, self.kwargs = args, kwargs
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    def replace(name: str, answer: Any, module: Any = geomformer.api) -> Call:
        call = Call(answer)
        monkeypatch.setattr(module, name, call)
        return call

    return replace


def test_preprocess_hands_over_its_options(stand_in: Any) -> None:
    call = stand_in("prepare", Path("data/prepared/custom"))
    found = run(
        *("preprocess", "custom", "in.csv", "--target", "gap_ev", "--target", "homo_ev", "--conformers", "2"),
        *("--workers", "3", "--hydrogens", "--no-use-geometry", "--seed", "7", "--limit", "5", "--overwrite"),
        *("--raw", "more.csv", "--split-column", "fold", "--level-of-theory", "PBE0", "--data-root", "d"),
        *("--num-systems", "3", "2", "1", "--executor", "ray", "--molecule", "aspirin"),
    )
    assert found.exit_code == 0, found.stderr
    assert found.stdout == f"{Path('data/prepared/custom')}\n"
    assert call.args == ("custom",)
    assert call.kwargs["raw"] == [Path("in.csv"), Path("more.csv")]
    assert (call.kwargs["out"], call.kwargs["root"]) == (None, Path("d"))
    options = call.kwargs["options"]
    assert options.targets == ("gap_ev", "homo_ev")
    assert options.chemistry == {"num_conformers": 2, "hydrogens": True}
    assert (options.workers, options.use_geometry, options.seed, options.limit) == (3, False, 7, 5)
    assert (options.num_systems, options.executor, options.molecules) == ((3, 2, 1), "ray", ("aspirin",))
    assert (options.split_column, options.level_of_theory, options.overwrite) == ("fold", "PBE0", True)


def test_preprocess_reads_the_number_of_a_part(stand_in: Any) -> None:
    call = stand_in("prepare", Path("out"))
    assert run("preprocess", "qm9", "--shard", "3/10").exit_code == 0
    assert call.kwargs["options"].part == (3, 10)
    assert "3/100, found '3'" in run("preprocess", "qm9", "--shard", "3").stderr
    assert run("preprocess", "qm9", "--shard", "11/10").exit_code == 2


def test_preprocess_of_an_unknown_dataset_names_the_known_ones() -> None:
    found = run("preprocess", "qm99")
    assert found.exit_code == 2
    assert "custom" in found.stderr and "Did you mean 'qm9'?" in found.stderr


def summary(**statuses: int) -> SimpleNamespace:
    rows = sum(statuses.values())
    out = Path("gaps.csv")
    return SimpleNamespace(out=out, model="gap@1", target="gap", unit="ev", rows=rows, statuses=statuses, outside=None)


def test_predict_sums_up_on_stderr(stand_in: Any) -> None:
    call = stand_in("predict", summary(ok=7, unparsable=2, too_large=1))
    found = run("predict", "in.sdf", "--out", "gaps.csv", "--geometry", "input", "--workers", "0")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "7 of 10 rows ok" in found.stderr
    assert "unparsable  2" in found.stderr and "too_large   1" in found.stderr
    assert "column 'error' of gaps.csv" in found.stderr
    assert (call.kwargs["geometry"], call.kwargs["workers"], call.kwargs["conformers"]) == ("input", 0, 8)


def test_predict_json(stand_in: Any) -> None:
    stand_in("predict", summary(ok=1))
    found = run("predict", "in.sdf", "--out", "gaps.csv", "--json")
    assert json.loads(found.stdout) == {
        "out": "gaps.csv",
        "model": "gap@1",
        "target": "gap",
        "unit": "ev",
        "rows": 1,
        "statuses": {"ok": 1},
        "outside": None,
    }


def test_predict_says_how_many_rows_are_outside_of_the_training_data(stand_in: Any) -> None:
    result = summary(ok=3)
    result.outside = 2
    stand_in("predict", result)
    found = run("predict", "in.sdf", "--out", "gaps.csv")
    assert "2 of them outside" in found.stderr and "column 'domain'" in found.stderr


def test_predict_tells_of_the_better_model_whoever_named_none(stand_in: Any) -> None:
    for model, options, told in (
        ("gap-geomformer@6", [], True),
        ("gap-geomformer@6", ["--model", "gap-geomformer"], False),
        ("gap-geomformer-xtb@3", [], False),
    ):
        result = summary(ok=1)
        result.model = model
        stand_in("predict", result)
        found = run("predict", "in.sdf", "--out", "gaps.csv", *options)
        assert ("pip install tblite" in found.stderr) == told


def test_predict_without_any_number_exits_3(stand_in: Any) -> None:
    stand_in("predict", summary(unparsable=2))
    found = run("predict", "in.sdf", "--out", "gaps.csv")
    assert found.exit_code == 3
    assert "none of the 2 rows" in found.stderr


def test_train_builds_the_configuration(stand_in: Any) -> None:
    call = stand_in("train", SimpleNamespace(reference="gap@3", path=Path("m"), run=Path("r"), metrics={"mae": 0.1}))
    found = run("train", "--task", "gap", "--data", "a: b", "--seed", "9", "--set", "train.max_steps=4", "--name", "n")
    assert (found.exit_code, found.stdout) == (0, "gap@3\n")
    config = call.args[0]
    assert (config.preset, config.data.dataset, config.train.seed, config.train.max_steps) == (
        "gap-small",
        "a: b",
        9,
        4,
    )
    assert call.kwargs["name"] == "n" and call.kwargs["resume"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "gab"], "Did you mean 'gap'?"),
        ([], "--task"),
        (["--preset", "gap-smal"], "Did you mean 'gap-small'?"),
        (["--task", "gap", "--preset", "md17-small"], "does not fit"),
        (["--preset", "gap-small", "--config", "a.yaml"], "exclude"),
        (["--task", "gap", "--set", "train.max_step=3"], "Did you mean 'max_steps'?"),
        (["--task", "gap", "--set", "trian.max_steps=3"], "Did you mean 'train'?"),
    ],
)
def test_train_refuses_with_the_nearest_name(stand_in: Any, words: list[str], said: str) -> None:
    call = stand_in("train", None)
    found = run("train", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert call.args == ()


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        (["--task", "gap", "--data", "molecule3d"], "molecule3d-small"),
        (["--task", "gap", "--data", "prepared/molecule3d"], "molecule3d-small"),
        (["--task", "gap", "--data", "mine"], "gap-small"),
        (["--task", "is2re", "--data", "molecule3d"], "is2re-small"),
        (["--preset", "gap-small", "--data", "molecule3d"], "gap-small"),
    ],
)
def test_train_takes_the_preset_of_its_data(stand_in: Any, words: list[str], preset: str) -> None:
    call = stand_in("train", SimpleNamespace(reference="gap@3", path=Path("m"), run=Path("r"), metrics={}))
    assert run("train", *words).exit_code == 0
    assert (call.args[0].preset, call.args[0].data.dataset) == (preset, words[-1])


def test_train_interrupted_says_how_to_continue(stand_in: Any) -> None:
    stand_in("train", Interrupted("Stopped at step 3 of 9."))
    found = run("train", "--task", "gap", "--out", "my run", "--name", "n", "--device", "cpu")
    assert found.exit_code == 130
    again = "geomformer train --task gap --out 'my run' --name n --device cpu --resume"
    assert f"State saved, continue with: {again}" in found.stderr


def test_train_shows_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Any, *, report: Any, **kwargs: Any) -> SimpleNamespace:
        start = {"event": "start", "run": "runs/x", "dataset": "data/d", "parameters": 1825485, "rows": 1000}
        start["padding"] = 0.042
        report(start | {"step": 0, "max_steps": 4, "seconds": 7200.0, "device": "cpu", "precision": "32-true"})
        report({"step": 1, "max_steps": 4})
        report({"step": 1, "max_steps": 4, "train/gap": 0.5, "learning_rate": 1e-3})
        report({"step": 2, "max_steps": 4, "valid/gap_mae_ev": 0.25})
        return SimpleNamespace(reference="gap@1", path=Path("m"), run=Path("runs/x"), metrics={})

    monkeypatch.setattr(geomformer.api, "train", train)
    monkeypatch.setattr(console, "PLAIN_PAUSE", 0.0)
    found = run("train", "--task", "gap")
    assert found.exit_code == 0, found.stderr
    for text in ("1,825,485", "2.0 h", "runs/x", "data/d", "1,000, 4% of", "train: 1 of 4 steps (25%)", "gap 0.5"):
        assert text in found.stderr
    assert "step 2: validation gap_mae_ev 0.25" in found.stderr
    assert "\x1b" not in found.stderr and "\r" not in found.stderr
    quiet = run("-q", "train", "--task", "gap")
    assert (quiet.stderr, quiet.stdout) == ("", "gap@1\n")


METRICS = {
    "model": "gap@1",
    "dataset": "qm9",
    "rows": {"valid": 10, "test": 20},
    "splits": {"valid": {"gap_mae_ev": 0.125}, "test": {"gap_mae_ev": 0.25, "gap_mse_ev2": 0.5}},
    "average": {"gap_mae_ev": 0.1875},
}


@pytest.fixture
def artifact(stand_in: Any) -> None:
    config = SimpleNamespace(data=SimpleNamespace(dataset="qm9"))
    loaded = SimpleNamespace(reference="gap@1", manifest=SimpleNamespace(task="gap"), config=config)
    stand_in("load_artifact", loaded, geomformer.artifacts.store)


@pytest.mark.usefixtures("artifact")
def test_evaluate_prints_a_table_with_units(stand_in: Any) -> None:
    call = stand_in("evaluate", METRICS)
    found = run("evaluate", "--task", "gap", "--split", "valid", "--split", "test")
    assert found.exit_code == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert lines[0] == ["metric", "unit", "valid", "test", "average"]
    assert ["gap", "MAE", "eV", "0.125", "0.25", "0.1875"] in lines
    assert ["gap", "MSE", "eV^2", "-", "0.5", "-"] in lines
    assert call.args == ("qm9",)
    assert call.kwargs["splits"] == ("valid", "test")
    assert call.kwargs["out"] == Path("evaluations/gap@1-qm9")


@pytest.mark.usefixtures("artifact")
def test_evaluate_json_is_the_library_s(stand_in: Any) -> None:
    stand_in("evaluate", METRICS)
    assert json.loads(run("evaluate", "--data", "d/e", "--json").stdout) == METRICS


def test_models_are_evaluated_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Table 5 of the paper has the splits of two schemes."""
    calls = []

    def evaluate(dataset: str, **options: Any) -> dict[str, Any]:
        calls.append(options)
        splits = {"valid": {"gap_mae_ev": 0.1 * len(calls)}, "test": {"gap_mae_ev": 0.2 * len(calls)}}
        return {**METRICS, "model": options["model"], "split_scheme": options["model"][:-2], "splits": splits}

    def load(reference: str) -> SimpleNamespace:
        config = SimpleNamespace(data=SimpleNamespace(dataset="qm9"))
        return SimpleNamespace(reference=reference, manifest=SimpleNamespace(task="gap"), config=config)

    monkeypatch.setattr(geomformer.api, "evaluate", evaluate)
    monkeypatch.setattr(geomformer.artifacts.store, "load_artifact", load)
    words = ("evaluate", "--model", "random@1", "--model", "scaffold@1")
    found = run(*words)
    assert found.exit_code == 0, found.stderr
    heads, rows, errors = [re.split(" {2,}", line.strip()) for line in found.stdout.splitlines() if "─" not in line]
    assert heads[2:] == [f"{name}@1 {name} {split}" for name in ("random", "scaffold") for split in ("valid", "test")]
    assert rows[1:] == ["10", "20", "10", "20"]
    assert errors[2:] == ["0.1", "0.2", "0.2", "0.4"]
    assert [metrics["model"] for metrics in json.loads(run(*words, "--json").stdout)] == ["random@1", "scaffold@1"]
    assert len(calls) == 4
    assert run(*words, "--out", "here").exit_code == 0
    assert calls[-1]["out"] == Path("here/scaffold@1-qm9")
    twice = run("evaluate", "--model", "random@1", "--model", "random@1")
    assert twice.exit_code == 2
    assert "Two evaluations would be written as random@1-qm9." in twice.stderr
    refused = run(*words, "--submission", "there")
    assert refused.exit_code == 2
    assert "--submission takes the predictions of one model, found 2." in refused.stderr


@pytest.mark.usefixtures("artifact")
@pytest.mark.parametrize(("task", "code"), [("md17", 4), ("gab", 2)])
def test_evaluate_checks_the_task(stand_in: Any, task: str, code: int) -> None:
    call = stand_in("evaluate", METRICS)
    assert run("evaluate", "--task", task).exit_code == code
    assert call.args == ()


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("gap_mae_ev", ("gap MAE", "eV")),
        ("gap_mae_single_conformer_ev", ("gap MAE, first conformer alone", "eV")),
        ("forces_mae_kcal_mol_angstrom", ("forces MAE", "kcal/mol/Angstrom")),
        ("positions_mse", ("positions MSE", "")),
        ("energy_ewt_percent", ("energy EwT", "%")),
        ("something_else", ("something_else", "")),
    ],
)
def test_metric_names(key: str, shown: tuple[str, str]) -> None:
    assert describe(key) == shown


def test_benchmark_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"preset": "gap-small", "num_layers": 4, "embed_dim": 128, "forward_ms": 12.345, "peak_memory_mb": None}
    call = Call([line])
    monkeypatch.setitem(sys.modules, "geomformer.benchmark", SimpleNamespace(benchmark_model=call))
    found = run("benchmark", "model", "--preset", "gap-small", "--device", "cpu", "--repeats", "2")
    assert found.exit_code == 0, found.stderr
    assert "12.35" in found.stdout and "gap-small" in found.stdout
    assert call.args == (["gap-small"],)
    settings = {"systems": None, "atoms": (), "device": "cpu", "dtype": "float32", "repeats": 2}
    assert call.kwargs == {"architecture": None, **settings}
    assert json.loads(run("benchmark", "model", "--json").stdout) == [line]


def test_config_show_is_a_configuration(tmp_path: Path) -> None:
    found = run("config", "show", "gap-small", "--set", "train.max_steps=3")
    assert found.stdout.startswith("# 1,8")
    (tmp_path / "mine.yaml").write_text(found.stdout)
    again = json.loads(run("config", "show", "mine.yaml", "--json").stdout)
    assert again["config"]["train"]["max_steps"] == 3
    assert again["parameters"] > 1_000_000


def test_config_list_holds_both_sizes_of_every_task() -> None:
    found = json.loads(run("config", "list", "--json").stdout)
    assert {"gap-small", "gap-paper", "md17-small", "nbody-paper"} <= set(found)
    table = run("config", "list").stdout.splitlines()
    assert len(table) == len(found) + 2
    assert run("config", "show", "gap-smal").exit_code == 2


def test_duration() -> None:
    shown = [console.duration(value) for value in (5, 300, 7200, 1e6, None, float("nan"))]
    assert shown == ["5 s", "5 min", "2.0 h", "11.6 days", "unknown", "unknown"]


def test_plain_progress_speaks_every_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "message", said.append)
    monkeypatch.setattr(console, "PLAIN_PAUSE", 0.0)
    advance = console.PlainProgress("work", "rows")
    for done in range(1, 1001):
        advance(done, 1000)
    assert len(said) == 10
    assert said[4].startswith("work: 500 of 1000 rows (50%)")


def test_plain_progress_is_silent_about_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "message", said.append)
    advance = console.PlainProgress("work", "rows")
    for done in range(1, 101):
        advance(done, 100)
    assert said == []
