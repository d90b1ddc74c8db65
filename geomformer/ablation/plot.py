"""The table of an ablation at one glance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.ablation.plan import rises
from geomformer.ablation.table import Row, Table
from geomformer.evaluation.plots import BLUE, GREY, INK, ORANGE, canvas, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEAN, _WITH_ERROR = "mean", "mean ± standard error"
_ROW_INCHES, _NAME_INCHES = 0.3, 0.085
_PANEL_INCHES, _NARROW_PANEL_INCHES, _WIDE_PANELS = 4.2, 3.2, 2


def draw(path: Path, table: Table) -> Path:
    """Change of every metric against the base: single runs, mean with its standard error, and what the paper prints.

    Args:
        path: PNG to write.
        table: with the base among its rows.

    Returns:
        `path`.
    """
    metrics = table.plan.metrics
    names = _NAME_INCHES * max(len(row.variant) for row in table.rows)
    panel = _PANEL_INCHES if len(metrics) <= _WIDE_PANELS else _NARROW_PANEL_INCHES
    size = (names + panel * len(metrics), 1.7 + _ROW_INCHES * len(table.rows))
    figure, panels = canvas(size, columns=len(metrics))
    for number, (metric, axes) in enumerate(zip(metrics, np.atleast_1d(panels), strict=True)):
        draw_metric(axes, table, metric)
        axes.set_yticks(range(len(table.rows)), [row.variant for row in table.rows] if number == 0 else [])
        axes.set_ylim(len(table.rows) - 0.5, -0.5)
    named: dict[str, Any] = {}
    for axes in np.atleast_1d(panels):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named[label] = handle
    if _WITH_ERROR in named:
        named.pop(_MEAN, None)
    figure.suptitle(table.title, fontsize=11, color=INK)
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=len(named), frameon=False, fontsize=8.5
    )
    return write_figure(figure, path)


def draw_metric(axes: Axes, table: Table, metric: str) -> None:
    """One panel: a line per row."""
    base = next((row.cells[metric].sample for row in table.rows if row.variant == table.plan.base_name), None)
    axes.axvline(0.0, color=GREY, linewidth=0.9, zorder=1)
    if base is not None and base.mean:
        if base.deviation is not None:
            reach = 100.0 * base.deviation / abs(base.mean)
            axes.axvspan(
                -reach, reach, color=GREY, alpha=0.18, linewidth=0, zorder=0, label=f"spread of {base_name(table)}"
            )
        for place, row in enumerate(table.rows):
            draw_row(axes, place, row, metric, base.mean)
    papers = [(row.cells[metric].paper_change, place) for place, row in enumerate(table.rows)]
    known = [(value, place) for value, place in papers if value is not None]
    if known:
        style: dict[str, Any] = {"marker": "D", "s": 26, "facecolors": "none", "edgecolors": ORANGE, "zorder": 3}
        axes.scatter(*zip(*known, strict=True), label="paper", **style)
    worse = "lower" if rises(metric) else "higher"
    axes.set_xlabel(
        f"{metric.replace('/', ' ')}\nchange against {base_name(table)} (%), {worse} is worse", fontsize=8.5
    )
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def draw_row(axes: Axes, place: int, row: Row, metric: str, base: float) -> None:
    sample, comparison = row.cells[metric].sample, row.cells[metric].comparison
    if sample is None:
        axes.text(0.02, place, "failed", transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=ORANGE)
        return
    runs = [100.0 * (value - base) / abs(base) for value in sample.values]
    axes.scatter(runs, [place] * len(runs), s=12, color=BLUE, alpha=0.4, linewidths=0, zorder=2, label="single runs")
    mean = 100.0 * (sample.mean - base) / abs(base)
    error = comparison.error if comparison is not None else None
    label = _MEAN if error is None else _WITH_ERROR
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "markersize": 5, "capsize": 2.5, "linewidth": 1.2, "zorder": 4}
    axes.errorbar([mean], [place], xerr=None if error is None else [error], label=label, **style)


def base_name(table: Table) -> str:
    return table.plan.base_name
