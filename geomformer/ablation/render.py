"""The table of an ablation as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from geomformer.ablation.statistics import RULE, SIGNIFICANCE, Comparison, Sample
from geomformer.ablation.table import Cell, Table
from geomformer.files import write_atomic

QUICK = (
    "This is not the full plan: network, training and data are cut down until everything runs in minutes. "
    "Its numbers prove nothing; they show that the plan works."
)
ABSENT = "-"


def to_markdown(table: Table) -> str:
    """Heading, what the numbers prove, the table, how to read it, and the reasons of runs that failed."""
    plan = table.plan
    lines = [f"# {table.title}", ""]
    lines += [f"**{QUICK}**", ""] if table.quick else []
    source = f"Plan of {plan.source}" if plan.source else f"Plan {plan.name}"
    share = f", first {table.limit:,} rows of each split" if table.limit else ""
    lines += [f"{source}; dataset {table.dataset}{share}.", ""]
    lines += [*grid(table), "", legend(table), ""]
    failures = [f"- {row.variant}, seed {seed}: {text}" for row in table.rows for seed, text in row.failures.items()]
    lines += ["Runs that failed:", "", *failures, ""] if failures else []
    lines += [plan.notes.strip(), ""] if plan.notes else []
    return "\n".join(lines)


def grid(table: Table) -> list[str]:
    """The rows of the Markdown table."""
    plan = table.plan
    papers = {metric for row in table.rows for metric, cell in row.cells.items() if cell.paper_change is not None}
    papers |= {metric for row in table.rows for metric, cell in row.cells.items() if cell.paper is not None}
    columns = ["variant"]
    for metric in plan.metrics:
        columns += [metric.replace("/", " "), "change", "beyond seed noise"]
        columns += ["paper"] if metric in papers else []
    columns += ["runs", "parameters", "steps", "time per run"]
    lines = [columns, ["---", *("---:" for _ in columns[1:])]]
    for row in table.rows:
        cells = [row.variant]
        for metric in plan.metrics:
            cell = row.cells[metric]
            cells += [spread(cell.sample), change(cell.comparison), verdict(cell.comparison)]
            cells += [paper(cell)] if metric in papers else []
        tried = row.runs + len(row.failures)
        cells += [str(row.runs) if tried == row.runs else f"{row.runs} of {tried}"]
        cells += [count(row.parameters), count(row.steps), duration(row.seconds)]
        lines.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in lines]


def legend(table: Table) -> str:
    cells = [cell for row in table.rows for cell in row.cells.values()]
    compared = sum(cell.comparison is not None and cell.comparison.p is not None for cell in cells)
    expected = f" Of {compared} comparisons {compared * SIGNIFICANCE:.2g} are beyond it by chance."
    chance = expected if compared > 1 else ""
    text = (
        f"Mean ± sample standard deviation over seeds; change of the mean against {table.plan.base_name} ± its "
        f"standard error. Beyond seed noise: {RULE}.{chance} Time is that of training steps."
    )
    return f"{text} Runs: {'; '.join(table.software)}." if table.software else text


def spread(sample: Sample | None) -> str:
    if sample is None:
        return ABSENT
    return f"{sample.mean:.4g}" if sample.deviation is None else f"{sample.mean:.4g} ± {sample.deviation:.2g}"


def change(comparison: Comparison | None) -> str:
    if comparison is None:
        return ABSENT
    error = "" if comparison.error is None else f" ± {percents(comparison.error)}"
    return f"{percents(comparison.change, '+')}{error} %"


def percents(number: float, sign: str = "-") -> str:
    """One decimal; a run that has diverged without overflow may be off by sixty powers of ten."""
    return f"{number:{sign}.1f}" if abs(number) < 1e5 else f"{number:{sign}.2g}"


def verdict(comparison: Comparison | None) -> str:
    if comparison is None or comparison.beyond_noise is None:
        return ABSENT
    return "yes" if comparison.beyond_noise else "no"


def paper(cell: Cell) -> str:
    relative = "" if cell.paper_change is None else f"{cell.paper_change:+.3g} %"
    if cell.paper is None:
        return relative or ABSENT
    return f"{cell.paper:g} ({relative})" if relative else f"{cell.paper:g}"


def count(number: int | None) -> str:
    return ABSENT if number is None else f"{number:,}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ABSENT
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def to_json(table: Table) -> dict[str, Any]:
    """Everything that the table holds, numbers unrounded."""
    return {
        "plan": table.plan.name,
        "title": table.title,
        "source": table.plan.source,
        "notes": table.plan.notes,
        "quick": table.quick,
        "proves_nothing": table.quick,
        "task": table.plan.task,
        "dataset": table.dataset,
        "limit": table.limit,
        "base": table.plan.base_name,
        "metrics": list(table.plan.metrics),
        "beyond_noise_rule": RULE,
        "software": list(table.software),
        "rows": [
            {
                "variant": row.variant,
                "runs": row.runs,
                "parameters": row.parameters,
                "steps": row.steps,
                "seconds": row.seconds,
                "failures": {str(seed): text for seed, text in row.failures.items()},
                "metrics": {metric: numbers(cell) for metric, cell in row.cells.items()},
            }
            for row in table.rows
        ],
    }


def numbers(cell: Cell) -> dict[str, Any]:
    sample, comparison = cell.sample, cell.comparison
    return {
        "values": list(sample.values) if sample else [],
        "mean": sample.mean if sample else None,
        "std": sample.deviation if sample else None,
        "change_percent": comparison.change if comparison else None,
        "change_error_percent": comparison.error if comparison else None,
        "p": comparison.p if comparison else None,
        "beyond_noise": comparison.beyond_noise if comparison else None,
        "paper": cell.paper,
        "paper_change_percent": cell.paper_change,
    }


def to_csv(table: Table) -> str:
    """A line per variant and metric; empty where there is no number."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    written = False
    for row in to_json(table)["rows"]:
        facts = {key: row[key] for key in ("variant", "runs", "parameters", "steps", "seconds")}
        failures = "; ".join(f"seed {seed}: {reason}" for seed, reason in row["failures"].items())
        for metric, found in row["metrics"].items():
            values = {key: value for key, value in found.items() if key != "values"}
            line = {**facts, "metric": metric, **values, "failures": failures, "quick": table.quick}
            if not written:
                writer.writerow(line)
                written = True
            writer.writerow(line.values())
    return text.getvalue()


def write_table(out: Path, table: Table) -> None:
    """Writes table.md, table.csv and table.json; several commands may do so at a time."""
    write_atomic(out / "table.md", to_markdown(table), shared=True)
    write_atomic(out / "table.csv", to_csv(table), shared=True)
    write_atomic(out / "table.json", json.dumps(to_json(table), indent=2, ensure_ascii=False) + "\n", shared=True)
