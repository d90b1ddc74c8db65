"""`geomformer ablate`: a grid of variants over seeds, and the table that a paper would print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomformer_cli import console
from geomformer_cli.options import (
    INPUT,
    MACHINE,
    MODEL,
    OUTPUT,
    DataRoot,
    Device,
    Executor,
    Json,
    Overrides,
    RayAddress,
)

if TYPE_CHECKING:
    from geomformer.ablation.plan import Plan
    from geomformer.ablation.results import Result
    from geomformer.ablation.run import Listener

EXAMPLES = (
    "Examples:\n\n"
    "geomformer ablate --list\n\n"
    "geomformer ablate nbody-attention --quick\n\n"
    "geomformer ablate nbody-attention --budget 0.1 --workers 8\n\n"
    "geomformer ablate md17-attention-forces --data md17/ethanol --variant no-equ-self --device cuda\n\n"
    "geomformer ablate mine.yaml --seeds 5 --set train.max_steps=20000 --json"
)
KEPT = "Finished runs and checkpoints are kept: the same command continues."
LINE_SECONDS = 60.0
"""Where there is no terminal, a long run says where it is at most so often."""

PlanName = Annotated[
    str | None,
    typer.Argument(metavar="PLAN", help="A plan that comes with geomformer, or a YAML file.", show_default=False),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Minutes on a laptop: small networks, few steps. Proves nothing.", rich_help_panel=MODEL
    ),
]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Runs of every variant.", show_default="the plan's", rich_help_panel=MODEL)
]
Variant = Annotated[
    list[str] | None,
    typer.Option(help="Run this variant, and the base; may be repeated.", show_default="all", rich_help_panel=MODEL),
]
Budget = Annotated[
    float | None,
    typer.Option(
        help="Training length, as a share of that of the plan's base.", show_default="the plan's", rich_help_panel=MODEL
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Prepared dataset: its name or folder.", show_default="the plan's", rich_help_panel=INPUT),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder of runs, models, results, table and plot.",
        show_default="ablations/PLAN, ablations/PLAN-quick",
        rich_help_panel=OUTPUT,
    ),
]
RunsAtATime = Annotated[
    int,
    typer.Option("--workers", min=1, help="Runs at a time. No influence on the result.", rich_help_panel=MACHINE),
]
List = Annotated[bool, typer.Option("--list", help="List the plans that come with geomformer.")]


def ablate(
    plan: PlanName = None,
    list_: List = False,
    quick: Quick = False,
    seeds: Seeds = None,
    variant: Variant = None,
    budget: Budget = None,
    set_: Overrides = None,
    data: Data = None,
    data_root: DataRoot = None,
    out: Out = None,
    json: Json = False,
    workers: RunsAtATime = 1,
    executor: Executor = "local",
    ray_address: RayAddress = None,
    device: Device = "auto",
) -> None:
    """Train variants of a model over several seeds and compare them with the base.

    Plans say what is changed; those that come with geomformer are the paper's tables.
    Writes table.md, table.csv, table.json and plot.png.

    Ctrl-C keeps what there is: the same command continues.
    """
    if list_ or plan is None:
        list_plans(json)
        return
    from geomformer.ablation.plan import load_plan
    from geomformer.ablation.render import to_json, to_markdown
    from geomformer.ablation.run import Options, ablate
    from geomformer.errors import Interrupted

    wanted = load_plan(plan)
    folder = out or Path("ablations") / (f"{wanted.name}-quick" if quick else wanted.name)
    options = Options(
        quick=quick,
        seeds=seeds,
        variants=tuple(variant or ()),
        data=data,
        budget=budget,
        overrides=tuple(set_ or ()),
        root=data_root,
        device=device,
        workers=workers,
        executor=executor,  # type: ignore[arg-type]
        ray_address=ray_address,
    )
    try:
        table = ablate(wanted, folder, options, listener(wanted, folder))
    except Interrupted as error:
        raise Interrupted(error.message, KEPT) from error
    if json:
        console.result_json(to_json(table))
    else:
        console.result(to_markdown(table).rstrip())
    console.message(f"Written: {', '.join(str(folder / name) for name in ('table.md', 'plot.png'))}")


def list_plans(json: bool) -> None:
    """The plans that come with geomformer, on stdout."""
    from geomformer.ablation.plan import load_plan, plan_names

    plans = [load_plan(name) for name in plan_names()]
    if json:
        console.result_json([summary(plan) for plan in plans])
        return
    columns = ["plan", "compares", "variants", "seeds", "dataset", "source", "full scale"]
    rows = [[str(value) for value in summary(plan).values()] for plan in plans]
    console.result_table(columns, rows, numbers=(2, 3))


def summary(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.name,
        "title": plan.title,
        "variants": len(plan.rows),
        "seeds": plan.seeds,
        "dataset": plan.data,
        "source": plan.source,
        "cost": plan.cost,
    }


def listener(plan: Plan, folder: Path) -> Listener:
    """Shows on stderr how a plan gets on."""
    from geomformer.ablation.run import Listener

    class Speaker(Listener):
        def preparing(self, dataset: str) -> AbstractContextManager[Callable[[int, int | None], None]]:
            console.message(f"There is no dataset {dataset} yet: simulating it, as `geomformer preprocess` does.")
            return console.progress("simulate", "systems")

        def begins(self, there: int, total: int) -> None:
            kept = f", of which {there} are finished already" if there else ""
            console.message(f"{plan.title}: {total} runs{kept}, in {folder}")

        def running(self, name: str) -> AbstractContextManager[Callable[[dict[str, Any]], None]]:
            return steps(name)

        def finished(self, number: int, total: int, result: Result) -> None:
            console.message(f"[{number}/{total}] {result.variant} seed {result.seed}: {outcome(plan, result)}")

    return Speaker()


@contextmanager
def steps(name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar of the steps of a run; lines where there is no terminal, and none for a short run."""
    with console.progress(name, "steps", pause=LINE_SECONDS) as progress:

        def advance(event: dict[str, Any]) -> None:
            if "step" in event and "event" not in event:
                progress(event["step"], event["max_steps"])

        yield advance


def outcome(plan: Plan, result: Result) -> str:
    """What is said of a run that has ended: its metrics and its time, or why it failed."""
    if not result.done:
        return f"failed: {result.reason}"
    short = len(plan.splits) == 1
    found = {metric.partition("/")[2] if short else metric: result.value(metric) for metric in plan.metrics}
    values = [f"{key} {value:.4g}" for key, value in found.items() if value is not None]
    return ", ".join([*values, f"{result.seconds:.0f} s"])
