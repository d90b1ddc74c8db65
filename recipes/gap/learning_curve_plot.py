"""The table of `learning_curve.py` and its plot.

python recipes/gap/learning_curve_plot.py runs/learning-curve/learning_curve.csv docs/learning_curve.png
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MORE = 4
"""Factor whose gain the plot states."""
BLUE, ORANGE, INK = "#2a5c8a", "#c8551b", "#262626"


@dataclass(frozen=True)
class Finished:
    """One row of the table."""

    rows: int
    width: int
    seed: int
    parameters: int
    steps: int
    valid_mae_ev: float
    test_mae_ev: float
    seconds: float


def read_table(path: Path) -> list[Finished]:
    """Returns the finished runs; none where there is no table yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf8") as file:
        return [
            Finished(
                *(int(row[name]) for name in ("rows", "width", "seed", "parameters", "steps")),
                *(float(row[name]) for name in ("valid_mae_ev", "test_mae_ev", "seconds")),
            )
            for row in csv.DictReader(file)
        ]


def power_law(x: np.ndarray, error: np.ndarray) -> Callable[[Any], Any]:
    """The fit of error = a x^b by least squares of the logarithms."""
    slope, intercept = np.polyfit(np.log(x), np.log(error), 1)
    return lambda value: np.exp(intercept + slope * np.log(value))


def draw(axes: Axes, x: Sequence[int], errors: Sequence[float], name: str) -> None:
    """Points of all seeds, the fitted power law to `MORE` times the largest x, and what is gained there."""
    known, error = np.array(x, float), np.array(errors)
    axes.scatter(known, error, s=34, color=BLUE, zorder=3, label="one training each")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(name)
    ticks = sorted(set(known))
    if len(ticks) > 1:
        fit = power_law(known, error)
        last = ticks[-1]
        exponent = float(np.log(fit(MORE) / fit(1)) / np.log(MORE))
        ends = np.array([ticks[0], last])
        axes.plot(ends, fit(ends), color=BLUE, linewidth=1.4, label=f"fit: MAE ~ x$^{{{exponent:.2f}}}$")
        beyond = np.array([last, MORE * last])
        gain = 1 - float(fit(MORE)) / float(fit(1))
        text = f"{MORE}x more: {fit(MORE * last):.3f} eV ({-100 * gain:+.0f} %)"
        axes.plot(beyond, fit(beyond), color=ORANGE, linewidth=1.4, linestyle="--", label=text)
        axes.scatter(beyond[1:], fit(beyond[1:]), s=44, facecolors="white", edgecolors=ORANGE, zorder=3)
        ticks.append(MORE * last)
    axes.set_xticks(ticks, [short(value) for value in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=8.5, frameon=False)


def label_errors(left: Axes, right: Axes) -> None:
    """Round errors on the common vertical axis, in eV and not as powers of ten."""
    low, high = left.get_ylim()
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 8)
    values = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    left.set_yticks(values, [f"{value:.2f}" for value in values])
    for axes in (left, right):
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.7, zorder=0)


def short(value: float) -> str:
    return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k"


def plot(path: Path, table: Sequence[Finished]) -> None:
    """Two panels: against training rows at one width, against parameters with the most rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    largest = max(row.rows for row in table)
    width = max({row.width for row in table}, key=lambda w: len({row.rows for row in table if row.width == w}))
    by_rows = [row for row in table if row.width == width]
    by_size = [row for row in table if row.rows == largest]
    figure = Figure(figsize=(9.0, 4.0), dpi=200, layout="compressed")
    left, right = figure.subplots(1, 2, sharey=True)
    draw(left, [row.rows for row in by_rows], [row.test_mae_ev for row in by_rows], "training molecules")
    draw(right, [row.parameters for row in by_size], [row.test_mae_ev for row in by_size], "parameters")
    left.set_title(f"{short(by_rows[0].parameters)} parameters", fontsize=10)
    right.set_title(f"{largest:,} training molecules", fontsize=10)
    left.set_ylabel("test MAE of the gap (eV)")
    label_errors(left, right)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, color=INK, labelcolor=INK)
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    plot(arguments.plot, read_table(arguments.table))


if __name__ == "__main__":
    main()
