"""The table of an ablation: which numbers it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geomformer.ablation.plan import Plan
from geomformer.ablation.results import Result
from geomformer.ablation.statistics import Comparison, Sample, compare


@dataclass(frozen=True)
class Cell:
    """A metric of a variant.

    Attributes:
        sample: over seeds.
        comparison: with the base; None for the base itself, or where it has no run.
        paper: the printed number, in the metric's unit; None where the paper prints none.
        paper_change: against the paper's base, in %.
    """

    sample: Sample | None
    comparison: Comparison | None
    paper: float | None = None
    paper_change: float | None = None


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        variant: its name.
        cells: by metric.
        parameters, steps: None where no run succeeded.
        seconds: mean time of a run's training steps.
        failures: reasons by seed.
    """

    variant: str
    cells: Mapping[str, Cell]
    parameters: int | None
    steps: int | None
    seconds: float | None
    failures: Mapping[int, str]

    @property
    def runs(self) -> int:
        """Runs that succeeded."""
        return max((cell.sample.count for cell in self.cells.values() if cell.sample), default=0)


@dataclass(frozen=True)
class Table:
    """All rows of a plan that have a run, the base first.

    Attributes:
        plan: what was compared.
        dataset: on which data.
        limit: rows evaluated of each split; None for all.
        quick: whether the numbers prove nothing.
        rows: in the plan's order.
        software: versions and devices of the runs.
    """

    plan: Plan
    dataset: str
    limit: int | None
    quick: bool
    rows: tuple[Row, ...]
    software: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.plan.title} (quick, not the full plan)" if self.quick else self.plan.title


def build_table(plan: Plan, results: Mapping[str, Sequence[Result]], *, dataset: str, quick: bool) -> Table:
    """Summarises results by variant; one without any is left out.

    Args:
        plan: says what is compared, and what the paper found.
        results: by variant, done and failed ones.
        dataset: name or folder, which decides what the paper's numbers are.
        quick: whether the runs are those of the quick plan.
    """
    printed = plan.paper.of(dataset)
    base = results.get(plan.base_name, ())
    rows = [build_row(plan, name, found, base, printed) for name in plan.rows if (found := results.get(name, ()))]
    every = [result for found in results.values() for result in found if result.done]
    software = {
        f"geomformer {run.software.get('geomformer', '?')}, torch {run.software.get('torch', '?')}, "
        f"{run.device} with {run.threads} thread{'s' if run.threads > 1 else ''} per run"
        for run in every
    }
    limit = plan.quick.limit if quick else plan.limit
    return Table(plan, dataset, limit, quick, tuple(rows), tuple(sorted(software)))


def build_row(
    plan: Plan, name: str, results: Sequence[Result], base: Sequence[Result], printed: Mapping[str, float]
) -> Row:
    done = [result for result in results if result.done]
    cells = {}
    for metric in plan.metrics:
        own, other = sample_of(results, metric), sample_of(base, metric)
        comparison = compare(own, other) if own and other and name != plan.base_name else None
        paper = printed if metric == (plan.paper.metric or plan.metrics[0]) else {}
        cells[metric] = Cell(own, comparison, *printed_numbers(plan, name, paper))
    return Row(
        name,
        cells,
        done[0].parameters if done else None,
        done[0].steps if done else None,
        float(np.mean([run.seconds or 0.0 for run in done])) if done else None,
        {result.seed: result.reason for result in results if not result.done},
    )


def sample_of(results: Sequence[Result], metric: str) -> Sample | None:
    values = [value for result in results if result.done and (value := result.value(metric)) is not None]
    return Sample(tuple(values)) if values else None


def printed_numbers(plan: Plan, name: str, printed: Mapping[str, float]) -> tuple[float | None, float | None]:
    """The paper's number and its change against the paper's base in %."""
    found = printed.get(name)
    if found is None or plan.paper.form == "change":
        return None, found
    base = printed[plan.base_name]
    return found, None if name == plan.base_name or not base else 100.0 * (found / base - 1.0)
