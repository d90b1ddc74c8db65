"""Figures of an evaluation as PNG. matplotlib loads on first use; its global state is left alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geomformer.evaluation.metrics import as_array
from geomformer.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 2000
"""More points than this are shown as a density."""

_DOTS_PER_INCH = 200
INK = "#262626"
BLUE = "#2a5c8a"
ORANGE = "#c8551b"
GREY = "#8c8c8c"
_LINES = (BLUE, ORANGE, "#3b7d4f", "#7a4b94", "#b08a1e", INK)


def parity_plot(path: Path, prediction: Any, target: Any, label: str, unit: str) -> Path:
    """Predictions over labels, on equal axes, with MAE, RMSE and number of labelled entries.

    Args:
        path: PNG to write.
        prediction, target: (M,); entries without label (NaN) are left out.
        label: what is predicted, such as "HOMO-LUMO gap".
        unit: of both, as people write it, such as "eV".

    Raises:
        ValueError: there is no labelled entry.
    """
    found, wanted = as_array(prediction).ravel(), as_array(target).ravel()
    both = np.isfinite(found) & np.isfinite(wanted)
    found, wanted = found[both], wanted[both]
    _require(found)
    dense = found.size > MAX_POINTS
    figure, axes = canvas((5.8 if dense else 4.6, 4.6))
    low, high = _limits(found, wanted)
    axes.axline((low, low), slope=1.0, color=GREY, linewidth=0.9, zorder=1)
    if dense:
        _density(figure, axes, wanted, found, (low, high))
    else:
        axes.scatter(wanted, found, s=14, color=BLUE, alpha=0.45, linewidths=0, zorder=2)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.yaxis.set_major_locator(axes.xaxis.get_major_locator())
    axes.set_xlabel(f"reference {_with_unit(label, unit)}")
    axes.set_ylabel(f"predicted {_with_unit(label, unit)}")
    _note(axes, found - wanted, unit, (0.04, 0.96), "left")
    return write_figure(figure, path)


def error_plot(path: Path, errors: Any, label: str, unit: str) -> Path:
    """Histogram of the signed errors, and the share of entries whose absolute error is below a value.

    Args:
        path: PNG to write.
        errors: (M,) prediction minus label; NaN where unlabelled.
        label: what is predicted.
        unit: of the errors, as people write it.

    Raises:
        ValueError: there is no error.
    """
    values = as_array(errors).ravel()
    values = values[np.isfinite(values)]
    _require(values)
    figure, (left, right) = canvas((8.4, 3.8), columns=2)
    reach = float(np.percentile(np.abs(values), 99.5)) or 1.0
    _histogram(left, values, reach)
    left.set_xlabel(f"error of {_with_unit(label, unit)}")
    left.set_ylabel("entries per bin")
    _note(left, values, unit, (0.97, 0.96), "right")
    _cumulative(right, np.sort(np.abs(values)), reach, unit)
    right.set_xlabel(f"absolute error of {_with_unit(label, unit)}")
    right.set_ylabel("share of entries below (%)")
    return write_figure(figure, path)


def threshold_plot(path: Path, distances: Mapping[str, tuple[Any, Any]], thresholds: Any) -> Path:
    """Share of structures whose distance lies below a threshold; the mean height of a line is its ADwT.

    Args:
        path: PNG to write.
        distances: by split, of every structure (S,), Angstrom: of the model (full line) and of the initial structure
            (dashed); NaN where a structure has no distance.
        thresholds: (T,) ascending, Angstrom.

    Raises:
        ValueError: there is no distance.
    """
    limits = as_array(thresholds)
    figure, axes = canvas((6.4, 4.4))
    for color, (name, pair) in zip(itertools.cycle(_LINES), distances.items()):
        for values, style, text in zip(map(as_array, pair), ("-", (0, (4, 3))), (name, None), strict=True):
            known = np.sort(values[np.isfinite(values)])
            _require(known)
            share = 100.0 * np.searchsorted(known, limits, side="left") / known.size
            label = None if text is None else f"{text}: {share.mean():.3g} %"
            axes.plot(limits, share, color=color, linewidth=1.5, linestyle=style, label=label)
    axes.plot([], [], color=GREY, linewidth=1.5, linestyle=(0, (4, 3)), label="no atom moved")
    axes.set_xlim(0.0, limits[-1])
    axes.set_ylim(0.0, 102.0)
    axes.set_xlabel("threshold of the mean distance of free atoms (Angstrom)")
    axes.set_ylabel("share of structures below (%)")
    axes.legend(title="ADwT", frameon=False, fontsize=9, title_fontsize=9)
    return write_figure(figure, path)


def _density(figure: Figure, axes: Axes, wanted: np.ndarray, found: np.ndarray, limits: tuple[float, float]) -> None:
    cells = axes.hexbin(
        wanted, found, gridsize=70, extent=(*limits, *limits), bins="log", mincnt=1, cmap="viridis", linewidths=0.1
    )
    bar = figure.colorbar(cells, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("entries per cell")
    bar.outline.set_visible(False)


def _histogram(axes: Axes, values: np.ndarray, reach: float) -> None:
    """Bins end at `reach`; the few errors beyond are counted in a note, since they would flatten all the rest."""
    bins = int(np.clip(np.sqrt(values.size), 12, 80)) | 1  # odd: one bin is centred on zero
    axes.hist(values, bins=bins, range=(-reach, reach), color=BLUE, alpha=0.85, edgecolor="white", linewidth=0.3)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_xlim(-reach, reach)
    axes.margins(y=0.12)
    beyond = int((np.abs(values) > reach).sum())
    if beyond:
        axes.text(
            0.03,
            0.96,
            f"{beyond:,} beyond the axis",
            transform=axes.transAxes,
            ha="left",
            va="top",
            fontsize=8,
            color=GREY,
        )


def _cumulative(axes: Axes, ordered: np.ndarray, reach: float, unit: str) -> None:
    share = 100.0 * np.arange(1, ordered.size + 1) / ordered.size
    axes.step(np.append(0.0, ordered), np.append(0.0, share), where="post", color=BLUE, linewidth=1.6)
    for percent, text in ((50.0, "median"), (90.0, "90 %")):
        value = float(np.percentile(ordered, percent))
        axes.plot([value, value, 0.0], [0.0, percent, percent], color=ORANGE, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{text}: {value:.3g} {unit}".rstrip(),
            (value, percent),
            xytext=(6, -5),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=ORANGE,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.0},
        )
    axes.set_xlim(0.0, reach)
    axes.set_ylim(0.0, 102.0)


def canvas(size: tuple[float, float], columns: int = 1) -> tuple[Figure, Any]:
    """A figure of its own, no pyplot: nothing global changes and nothing stays open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="compressed")
    axes = figure.subplots(1, columns)
    for item in np.atleast_1d(axes):
        item.spines[["top", "right"]].set_visible(False)
        item.tick_params(labelsize=9, color=INK, labelcolor=INK)
        item.xaxis.label.set_size(10)
        item.yaxis.label.set_size(10)
    return figure, axes


def _limits(*values: np.ndarray) -> tuple[float, float]:
    low, high = min(float(item.min()) for item in values), max(float(item.max()) for item in values)
    margin = 0.04 * (high - low) or 0.5 * max(abs(high), 1e-6)
    return low - margin, high + margin


def _note(axes: Axes, errors: np.ndarray, unit: str, place: tuple[float, float], align: str) -> None:
    mae, rmse = float(np.abs(errors).mean()), float(np.sqrt(np.square(errors).mean()))
    text = f"MAE {mae:.3g} {unit}".rstrip() + f"\nRMSE {rmse:.3g} {unit}".rstrip() + f"\nn = {errors.size:,}"
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2.0}
    axes.text(*place, text, transform=axes.transAxes, ha=align, va="top", fontsize=9, color=INK, bbox=box, zorder=3)


def _with_unit(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _require(values: np.ndarray) -> None:
    if not values.size:
        raise ValueError("a plot needs at least one labelled entry")


def write_figure(figure: Figure, path: Path) -> Path:
    """Renders in memory and renames into place: no half-written picture is ever seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path
