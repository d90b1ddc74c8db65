"""Statistics over seeds, and the table in all its forms."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from geomformer.ablation.plan import Plan
from geomformer.ablation.plot import draw
from geomformer.ablation.render import to_csv, to_json, to_markdown, write_table
from geomformer.ablation.results import Result
from geomformer.ablation.statistics import Sample, compare, welch
from geomformer.ablation.table import Table, build_table

METRICS = ("test/energy_rmse_ev", "test/forces_rmse_ev")


@pytest.mark.parametrize("counts", [(2, 2), (3, 5), (10, 3)])
def test_welch_is_the_one_of_the_textbook(counts: tuple[int, int]) -> None:
    generator = np.random.default_rng(3)
    first, second = (generator.normal(1.0 + shift, 0.3, size) for shift, size in zip((0, 1), counts, strict=True))
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    found = welch(Sample(tuple(first)), Sample(tuple(second)))
    assert found == pytest.approx(expected, rel=1e-10)
    assert welch(Sample((1.0,)), Sample((1.0, 2.0))) is None
    assert welch(Sample((1.0, 1.0)), Sample((1.0, 1.0))) == 1.0 and welch(Sample((1.0, 1.0)), Sample((2.0, 2.0))) == 0.0


def test_error_of_a_change_is_that_of_a_ratio() -> None:
    sample, base = Sample((2.0, 2.4, 2.6)), Sample((1.0, 1.1))
    found = compare(sample, base)
    assert found is not None and found.change == pytest.approx(100 * (sample.mean / base.mean - 1))
    step = 1e-6
    slopes = np.array(
        [
            ((sample.mean + step) / base.mean - (sample.mean - step) / base.mean) / (2 * step),
            (sample.mean / (base.mean + step) - sample.mean / (base.mean - step)) / (2 * step),
        ]
    )
    errors = np.array([np.std(one.values, ddof=1) / np.sqrt(one.count) for one in (sample, base)])
    assert found.error == pytest.approx(100 * np.linalg.norm(slopes * errors), rel=1e-8)
    assert compare(sample, Sample((0.0, 0.0))) is None
    negative = compare(Sample((-1.0,)), Sample((-2.0,)))
    assert negative is not None and negative.change == pytest.approx(50.0), "it has risen"
    assert negative.error is None and negative.beyond_noise is None


def results(variant: str, *values: tuple[float, float], failed: int = 0) -> list[Result]:
    done = [
        Result(
            variant,
            seed,
            "done",
            metrics={"test": {"energy_rmse_ev": energy, "forces_rmse_ev": forces}},
            parameters=1234,
            steps=10,
            seconds=2.0 * seed,
            device="cpu",
            software={"geomformer": "0", "torch": "2"},
        )
        for seed, (energy, forces) in enumerate(values, 1)
    ]
    return done + [Result(variant, 10 + seed, "failed", reason="Training has diverged.") for seed in range(failed)]


@pytest.fixture
def wide(values: dict[str, Any]) -> Plan:
    """Two metrics, three variants, numbers of the paper for the second metric."""
    values |= {
        "base_name": "full",
        "metrics": METRICS,
        "variants": {"worse": {}, "same": {}, "broken": {}, "not-run": {}},
        "notes": "As printed.",
        "paper": {"metric": METRICS[1], "numbers": {"nbody": {"full": 0.05, "worse": 0.06}}},
    }
    return Plan.model_validate(values)


@pytest.fixture
def table(wide: Plan) -> Table:
    found = {
        "full": results("full", (1.0, 0.1), (1.02, 0.11), (0.98, 0.09)),
        "worse": results("worse", (2.0, 0.1), (2.1, 0.12), (1.9, 0.11), failed=1),
        "same": results("same", (1.01, 0.1)),
        "broken": results("broken", failed=2),
    }
    return build_table(wide, found, dataset="data/prepared/nbody", quick=False)


def test_table_compares_means_with_the_base(table: Table) -> None:
    rows = {row["variant"]: row for row in to_json(table)["rows"]}
    assert list(rows) == ["full", "worse", "same", "broken"], "in the plan's order, without what has not run"
    worse = rows["worse"]["metrics"][METRICS[0]]
    assert worse["mean"] == pytest.approx(2.0) and worse["std"] == pytest.approx(0.1)
    assert worse["change_percent"] == pytest.approx(100.0) and worse["beyond_noise"] is True
    assert worse["p"] == pytest.approx(stats.ttest_ind([2.0, 2.1, 1.9], [1.0, 1.02, 0.98], equal_var=False).pvalue)
    assert rows["worse"]["metrics"][METRICS[1]]["beyond_noise"] is False
    assert rows["worse"]["runs"] == 3 and rows["worse"]["seconds"] == pytest.approx(4.0)
    assert rows["worse"]["failures"] == {"10": "Training has diverged."}
    same = rows["same"]["metrics"][METRICS[0]]
    assert same["std"] is None and same["beyond_noise"] is None and same["change_percent"] == pytest.approx(1.0)
    assert rows["full"]["metrics"][METRICS[0]]["change_percent"] is None
    assert rows["broken"]["metrics"][METRICS[0]]["mean"] is None and rows["broken"]["parameters"] is None


def test_paper_stands_beside_its_own_metric(table: Table) -> None:
    rows = {row["variant"]: row["metrics"] for row in to_json(table)["rows"]}
    assert rows["worse"][METRICS[1]]["paper"] == 0.06
    assert rows["worse"][METRICS[1]]["paper_change_percent"] == pytest.approx(20.0)
    assert rows["worse"][METRICS[0]]["paper"] is None and rows["same"][METRICS[1]]["paper"] is None
    lines = to_markdown(table).splitlines()
    head = next(line for line in lines if line.startswith("| variant"))
    assert [cell.strip() for cell in head.split("|")].count("paper") == 1
    assert "0.06 (+20 %)" in next(line for line in lines if line.startswith("| worse"))


def test_markdown_says_everything(table: Table) -> None:
    text = to_markdown(table)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1, "all rows have all columns"
    assert "| 2 ± 0.1 | +100.0 ± 6.2 % | yes |" in text and "| 3 of 4 |" in text and "| 0 of 2 |" in text
    assert "- broken, seed 11: Training has diverged." in text
    assert "Welch's t-test" in text and "Of 2 comparisons 0.1 are" in text and "As printed." in text
    assert "quick" not in text and "prove nothing" not in text


def test_a_change_beyond_all_measure_is_no_row_of_digits(wide: Plan) -> None:
    found = {"full": results("full", (1.0, 0.1)), "worse": results("worse", (2.0e60, 0.1), (1.0e60, 0.1))}
    assert "| +1.5e+62 % |" in to_markdown(build_table(wide, found, dataset="nbody", quick=False))


def test_quick_says_that_it_proves_nothing(wide: Plan) -> None:
    found = {"full": results("full", (1.0, 0.1))}
    quick = build_table(wide, found, dataset="nbody", quick=True)
    text = to_markdown(quick)
    assert text.startswith("# Feed-forward networks (quick, not the full plan)") and "prove nothing" in text
    assert "first 5 rows of each split" in text
    assert to_json(quick)["proves_nothing"] is True


def test_csv_and_json_hold_the_same_numbers(table: Table, tmp_path: Path) -> None:
    write_table(tmp_path, table)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "table.csv", "table.json"}
    assert json.loads((tmp_path / "table.json").read_text()) == to_json(table)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert to_csv(table) == (tmp_path / "table.csv").read_text()
    assert len(lines) == 8
    for line in lines:
        row = next(row for row in to_json(table)["rows"] if row["variant"] == line["variant"])
        mean = row["metrics"][line["metric"]]["mean"]
        assert line["mean"] == ("" if mean is None else str(mean))


def test_plot_shows_runs_means_and_paper(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr("geomformer.ablation.plot.write_figure", lambda figure, path: figures.append(figure) or path)
    draw(tmp_path / "plot.png", table)
    (figure,) = figures
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["full", "worse", "same", "broken"]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the base is on top"
    runs = [offset for path in left.collections for offset in path.get_offsets().tolist()]
    assert [100.0, 1.0] in [[round(x, 6), y] for x, y in runs] and [110.0, 1.0] in [[round(x, 6), y] for x, y in runs]
    assert [text.get_text() for text in left.texts] == ["failed"]
    diamonds = [path.get_offsets().tolist() for path in right.collections if path.get_label() == "paper"]
    assert [[round(x, 6), y] for x, y in diamonds[0]] == [[20.0, 1.0]]
    assert not [path for path in left.collections if path.get_label() == "paper"]
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert len(set(named)) == len(named) and set(named) == {
        *("paper", "single runs", "spread of full", "mean ± standard error")
    }


def test_plot_of_single_runs_and_of_a_lost_base_is_written(wide: Plan, tmp_path: Path) -> None:
    for found in (
        {"full": results("full", (1.0, 0.1)), "worse": results("worse", (2.0, 0.1))},
        {"full": results("full", failed=1), "worse": results("worse", (2.0, 0.1))},
    ):
        path = draw(tmp_path / "plot.png", build_table(wide, found, dataset="other", quick=True))
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000
