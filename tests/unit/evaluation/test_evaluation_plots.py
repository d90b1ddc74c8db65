from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geomformer.evaluation.plots import MAX_POINTS, error_plot, parity_plot, threshold_plot
from geomformer.evaluation.structures import THRESHOLDS, within_thresholds


@pytest.mark.parametrize("n", [1, 50, MAX_POINTS + 1])
def test_plots_are_written_whole_and_repeatably(tmp_path: Path, n: int) -> None:
    random = np.random.default_rng(0)
    target = random.normal(5.0, 1.0, n)
    prediction = target + random.normal(0.0, 0.1, n)
    for name in ("a", "b"):
        parity_plot(tmp_path / name / "parity.png", prediction, target, "gap", "eV")
        error_plot(tmp_path / name / "error.png", prediction - target, "gap", "eV")
    for file in ("parity.png", "error.png"):
        data = (tmp_path / "a" / file).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert data == (tmp_path / "b" / file).read_bytes()
    assert {item.name for item in (tmp_path / "a").iterdir()} == {"parity.png", "error.png"}


def test_axes_are_equal_and_hold_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("geomformer.evaluation.plots.write_figure", lambda figure, path: figures.append(figure))
    parity_plot(tmp_path / "p.png", [1.0, 9.0, 3.0, np.nan], [2.0, 4.0, np.nan, 1.0], "gap", "eV")
    axes = figures[0].axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < 1.0
    assert axes.get_xlim()[1] > 9.0
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reference gap (eV)", "predicted gap (eV)")
    assert axes.texts[0].get_text() == "MAE 3 eV\nRMSE 3.61 eV\nn = 2"


def test_perfect_and_constant_predictions_can_be_drawn(tmp_path: Path) -> None:
    parity_plot(tmp_path / "p.png", np.zeros(5), np.zeros(5), "gap", "")
    error_plot(tmp_path / "e.png", np.zeros(5), "gap", "")


def test_lines_of_thresholds_have_the_metric_as_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("geomformer.evaluation.plots.write_figure", lambda figure, path: figures.append(figure))
    random = np.random.default_rng(1)
    distances = {name: (random.uniform(0, 0.6, 40), random.uniform(0, 1, 40)) for name in ("ID", "OOD Ads")}
    distances["ID"][0][:4] = *THRESHOLDS[[0, 7, -1]], np.nan
    threshold_plot(tmp_path / "adwt.png", distances, THRESHOLDS)
    lines = figures[0].axes[0].get_lines()
    for line, values in zip(lines, (values for pair in distances.values() for values in pair), strict=False):
        expected = np.mean([within_thresholds(value) for value in values[np.isfinite(values)]])
        assert np.mean(line.get_ydata()) == pytest.approx(expected, rel=1e-12)
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--", "--"]
    labels = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert labels[0].startswith("ID: ") and labels[1].startswith("OOD Ads: ") and labels[2] == "no atom moved"


def test_a_figure_of_thresholds_is_written(tmp_path: Path) -> None:
    assert threshold_plot(tmp_path / "adwt.png", {"ID": ([0.1], [0.2])}, THRESHOLDS).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least one"):
        threshold_plot(tmp_path / "none.png", {"ID": ([np.nan], [np.nan])}, THRESHOLDS)


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        parity_plot(tmp_path / "p.png", [1.0], [np.nan], "gap", "eV")
    with pytest.raises(ValueError, match="at least one"):
        error_plot(tmp_path / "e.png", [], "gap", "eV")
    assert list(tmp_path.iterdir()) == []


def test_importing_plots_loads_no_matplotlib() -> None:
    code = "import sys, geomformer.evaluation.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
