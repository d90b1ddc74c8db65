"""All runs of a plan: those that are missing, one after the other or several at a time, then the table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geomformer.ablation.folder import Settings, claim
from geomformer.ablation.job import Job, Report, failed, run_in_worker, run_job
from geomformer.ablation.plan import Plan
from geomformer.ablation.plot import draw
from geomformer.ablation.render import write_table
from geomformer.ablation.results import Result, read_results
from geomformer.ablation.table import Table, build_table
from geomformer.ablation.variants import configurations
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, GeomformerError, nearest
from geomformer.executors import Executor, Failure, LocalExecutor
from geomformer.prepared.dataset import SIMULATED, PreparedDataset

LONGEST = 20 * 86_400.0
"""Seconds that a run in a worker may take; systems count to 24 days."""

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True)
class Options:
    """How a plan is run.

    Attributes:
        quick: with its quick changes.
        seeds: runs of every variant; None takes the plan's.
        variants: those to run, the base always; () for all.
        data: dataset in place of the plan's.
        budget: training length as a share of the base's, in place of the plan's.
        overrides: `section.key=value` for all runs.
        root: root of all data.
        device: "auto", "cpu", "cuda".
        workers: runs at a time, each in a process of its own; 1 runs them in this one.
        executor: "local" processes of this machine, or a "ray" cluster, whose nodes must see the folders.
        ray_address: of a running Ray cluster; None starts one on this machine.
    """

    quick: bool = False
    seeds: int | None = None
    variants: Sequence[str] = ()
    data: str | None = None
    budget: float | None = None
    overrides: Sequence[str] = ()
    root: Path | None = None
    device: str = "auto"
    workers: int = 1
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None


class Listener:
    """Hears how a plan gets on. This one does not listen."""

    def preparing(self, dataset: str) -> AbstractContextManager[Progress | None]:
        """Inside, a dataset is made."""
        return nullcontext()

    def begins(self, there: int, total: int) -> None:
        """So many of all runs are finished already."""

    def running(self, name: str) -> AbstractContextManager[Report | None]:
        """Inside, a run goes on in this process; what comes back receives its progress."""
        return nullcontext()

    def finished(self, number: int, total: int, result: Result) -> None:
        """One more run has ended."""


def ablate(plan: Plan, out: Path, options: Options | None = None, listener: Listener | None = None) -> Table:
    """Runs a plan, or what is missing of it, and writes table and plot.

    Every run is an ordinary training run, OUT/runs/VARIANT-sSEED, whose model is OUT/models/VARIANT-sSEED. Finished
    ones are not repeated, an interrupted one continues at its last checkpoint, a failed one is tried again.

    Args:
        plan: see `load_plan`.
        out: folder of the ablation.
        options: how it is run.
        listener: hears of its progress.

    Returns:
        the table, of all runs that the folder holds.

    Raises:
        ConfigError: a variant, an option or the folder does not fit; nothing has run then. Or no run has measured a
            metric of the plan.
        DataError: there is no such dataset.
        Interrupted: stopped by a signal, state saved.
        GeomformerError: no run succeeded.
    """
    options, listener = options or Options(), listener or Listener()
    selected = plan.select(options.variants)
    configs = configurations(
        plan, quick=options.quick, data=options.data, budget=options.budget, overrides=options.overrides
    )
    check_workers(configs, options)
    dataset = open_or_simulate(configs[plan.base_name], options, listener)
    check_splits(plan, dataset)
    settings = settings_for(plan, configs, dataset, options)
    claim(out, settings)
    jobs = list_jobs(plan, selected, settings, out.absolute(), options)
    report_on = functools.partial(tabulate, plan, configs[plan.base_name], out, options)
    results = []
    for result in run_all(jobs, options, listener):
        results.append(result)
        check_metrics(plan, result)
        write_table(out, report_on())
    if not any(result.done for result in results):
        raise nothing_succeeded(results)
    table = report_on()
    write_table(out, table)
    draw(out / "plot.png", table)
    return table


def settings_for(plan: Plan, configs: dict[str, RunConfig], dataset: PreparedDataset, options: Options) -> Settings:
    """What the runs share."""
    from geomformer.devices import resolve_device

    limit = plan.quick.limit if options.quick else plan.limit
    device = resolve_device(options.device).partition(":")[0]
    return Settings(plan.name, options.quick, dataset.fingerprint, limit, plan.threads, device, configs)


def list_jobs(plan: Plan, selected: Sequence[str], settings: Settings, out: Path, options: Options) -> list[Job]:
    """All variants with one seed before the next seed: a table that is cut off is fair."""
    from geomformer import api

    seeds = options.seeds or (plan.quick.seeds if options.quick else plan.seeds)
    root = api.data_root(options.root).absolute()
    jobs = []
    for seed in range(1, seeds + 1):
        for name in selected:
            config = settings.variants[name]
            config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            jobs.append(
                Job(
                    name,
                    config,
                    plan.splits,
                    settings.limit,
                    settings.threads,
                    options.device,
                    out,
                    root,
                    settings.data,
                )
            )
    return jobs


def run_all(jobs: Sequence[Job], options: Options, listener: Listener) -> Iterator[Result]:
    """Results of all runs, those that are there first."""
    finished = [result for job in jobs if (result := job.finished()) is not None]
    missing = [job for job in jobs if job.finished() is None]
    listener.begins(len(finished), len(jobs))
    yield from finished
    here = options.workers == 1 and options.executor == "local"
    running = one_by_one(missing, listener) if here else several(missing, options)
    for number, result in enumerate(running, len(finished) + 1):
        listener.finished(number, len(jobs), result)
        yield result


def one_by_one(jobs: Sequence[Job], listener: Listener) -> Iterator[Result]:
    for job in jobs:
        with listener.running(job.name) as report:
            result = run_job(job, report or (lambda line: None))
        yield result


def several(jobs: Sequence[Job], options: Options) -> Iterator[Result]:
    """Runs in worker processes; one that dies is a failed run."""
    with open_executor(options) as executor:
        for job, result in zip(jobs, executor.map(run_in_worker, jobs), strict=True):
            if isinstance(result, Failure):
                result = failed(job, f"{result.reason[0].upper()}{result.reason[1:]}.", 1)
                result.write(job.out)
            yield result


def open_executor(options: Options) -> Executor:
    """Returns the processes that the options ask for.

    Raises:
        ConfigError: Ray is asked for and not installed.
    """
    if options.executor == "ray":
        from geomformer.executors.ray import RayExecutor

        return RayExecutor(options.ray_address, timeout=LONGEST, chunk_size=1, workers=options.workers)
    return LocalExecutor(options.workers, timeout=LONGEST, chunk_size=1)


def tabulate(plan: Plan, base: RunConfig, out: Path, options: Options) -> Table:
    return build_table(plan, read_results(out, plan.rows), dataset=base.data.dataset, quick=options.quick)


def open_or_simulate(config: RunConfig, options: Options, listener: Listener) -> PreparedDataset:
    """Opens the dataset; that of the N-body benchmark is made where it is missing.

    Raises:
        DataError: there is none; the message names the command that makes it.
    """
    from geomformer import api
    from geomformer.datasets.options import PrepareOptions

    name = config.data.dataset
    target = api.data_root(options.root) / "prepared" / name
    if name in SIMULATED and not (target / "manifest.json").exists() and not Path(name).exists():
        with listener.preparing(name) as progress:
            switches: dict[str, Any] = dict.fromkeys(SIMULATED[name], True)
            made = PrepareOptions(workers=0, **switches)
            api.prepare("nbody", root=options.root, options=made, progress=progress)
    return api.dataset_to_train_on(config, options.root)


def check_workers(configs: dict[str, RunConfig], options: Options) -> None:
    """Refuses what cannot run in worker processes."""
    if options.executor not in ("local", "ray"):
        raise ConfigError(f"Expected the executor local or ray, found '{options.executor}'.")
    if options.workers < 1:
        raise ConfigError(f"Expected at least one worker, found {options.workers}.")
    if options.seeds is not None and options.seeds < 1:
        raise ConfigError(f"Expected at least one seed, found {options.seeds}.")
    loading = [name for name, config in configs.items() if config.data.workers]
    if options.workers > 1 and loading:
        raise ConfigError(
            f"Variant {loading[0]} loads data in processes of its own, which runs in workers cannot start.",
            "Add --set data.workers=0, or leave --workers out.",
        )


def check_splits(plan: Plan, dataset: PreparedDataset) -> None:
    for split in plan.splits:
        if split not in dataset.splits:
            raise ConfigError(
                f"The metrics of plan {plan.name} are of split '{split}', which {dataset.path} has not; it has "
                f"{', '.join(dataset.splits)}.{nearest(split, dataset.splits)}"
            )


def check_metrics(plan: Plan, result: Result) -> None:
    """Refuses a metric that evaluation does not give; the run stays done, whatever the plan's metrics become."""
    for metric in plan.metrics if result.done else ():
        if result.value(metric) is None:
            known = [f"{split}/{key}" for split, values in result.metrics.items() for key in values]
            raise ConfigError(
                f"plan {plan.name}: there is no metric {metric}, found {', '.join(known)}.{nearest(metric, known)}",
                "Correct the plan and run it again: finished runs are kept.",
            )


def nothing_succeeded(results: Sequence[Result]) -> GeomformerError:
    codes = {result.exit_code for result in results}
    error = GeomformerError(
        f"None of {len(results)} runs succeeded; {results[0].name}: {results[0].reason}",
        "Their folders hold logs. The same command tries them again.",
    )
    error.exit_code = codes.pop() if len(codes) == 1 else 1
    return error
