"""`geomformer train`: prepared dataset + configuration -> run folder and saved model."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomformer_cli import console
from geomformer_cli.options import INPUT, MACHINE, MODEL, OUTPUT, Architecture, DataRoot, Device, Overrides

if TYPE_CHECKING:
    from geomformer.config.run import RunConfig

EXAMPLES = (
    "Examples:\n\n"
    "geomformer train --task gap --data qm9\n\n"
    "geomformer train --task is2rs --sample\n\n"
    "geomformer train --task md17 --data rmd17/aspirin --architecture painn\n\n"
    "geomformer train --preset gap-paper --device cuda --devices 4\n\n"
    "geomformer train --task gap --data data/prepared/mine --init gap-geomformer@6 "
    "--set model.orbitals=huckel --set train.epochs=5 --name mine\n\n"
    "geomformer train --out runs/gap-20250101-120000 --resume"
)
KEPT = "Checkpoints are kept: --out RUN --resume continues from the last one."

Task = Annotated[
    str | None,
    typer.Option(help="What to predict: gap, is2re, is2rs, nbody, md17.", rich_help_panel=MODEL),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Configuration that comes with geomformer; `geomformer config list` shows all.",
        show_default="DATA-small if there is one for the task, else TASK-small",
        rich_help_panel=MODEL,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(help="Configuration of your own, a YAML file; instead of --preset.", rich_help_panel=MODEL),
]
Init = Annotated[
    str | None,
    typer.Option(help="Start from this trained model instead of from random weights.", rich_help_panel=MODEL),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights and order.", rich_help_panel=MODEL)]
Data = Annotated[
    str | None,
    typer.Option(help="Prepared dataset: its name or folder.", show_default="the preset's", rich_help_panel=INPUT),
]
Sample = Annotated[
    bool,
    typer.Option("--sample", help="Train on the small set that comes with geomformer.", rich_help_panel=INPUT),
]
Out = Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/TASK-TIME", rich_help_panel=OUTPUT)]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.", rich_help_panel=OUTPUT)]
Name = Annotated[
    str | None,
    typer.Option(help="Name of the saved model.", show_default="TASK-ARCHITECTURE", rich_help_panel=OUTPUT),
]
Devices = Annotated[int, typer.Option(min=1, help="GPUs per machine.", rich_help_panel=MACHINE)]
NumNodes = Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=MACHINE)]


def train(
    task: Task = None,
    preset: Preset = None,
    config: Config = None,
    architecture: Architecture = None,
    set_: Overrides = None,
    init: Init = None,
    seed: Seed = None,
    data: Data = None,
    sample: Sample = False,
    data_root: DataRoot = None,
    out: Out = None,
    resume: Resume = False,
    name: Name = None,
    device: Device = "auto",
    devices: Devices = 1,
    num_nodes: NumNodes = 1,
) -> None:
    """Train a model on a prepared dataset and save it as NAME@VERSION.

    Ctrl-C saves the state; --resume continues as if nothing had happened.
    """
    from geomformer import api
    from geomformer.devices import keep_freed_memory
    from geomformer.errors import Interrupted

    keep_freed_memory()
    changes = [] if architecture is None else [f"model.architecture={architecture}"]
    changes += set_ or []
    settings = _settings(task, preset, config, changes, data, seed, out if resume else None, sample)
    if _other_rank():
        console.settings.quiet = True
    with console.progress("train", "steps") as progress:
        report = Report(progress, settings.preset)
        try:
            result = api.train(
                settings,
                out=out,
                root=data_root,
                name=name,
                resume=resume,
                init=init,
                device=device,
                devices=devices,
                num_nodes=num_nodes,
                report=report,
            )
        except Interrupted as error:
            flags = {"--name": name, "--data-root": data_root, "--device": device, "--devices": devices}
            again = _continuation(report.run or str(out), settings, flags | {"--num-nodes": num_nodes})
            raise Interrupted(error.message, f"State saved, continue with: {again}") from error
    if not _other_rank():
        console.message(f"Run folder: {result.run}")
        console.fields([(key, f"{value:.5g}") for key, value in result.metrics.items()] or [("metrics", "none")])
        console.message(f"Saved model ({result.path}):")
        console.result(result.reference)


def _settings(
    task: str | None,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str],
    data: str | None,
    seed: int | None,
    resumed: Path | None,
    sample: bool,
) -> RunConfig:
    """The configuration that the options describe. A resumed run has its own unless another is named."""
    from geomformer.config.load import load_config
    from geomformer.config.run import TASKS
    from geomformer.errors import ConfigError, nearest

    if task is not None and task not in TASKS:
        raise ConfigError(f"--task: expected one of {', '.join(TASKS)}, found '{task}'.{nearest(task, TASKS)}")
    if preset is not None and config is not None:
        raise ConfigError("--preset and --config exclude each other.", "The file can say `extends: PRESET`.")
    source: str | Path | None = preset or config
    if source is None and resumed is not None and (resumed / "config.yaml").is_file():
        source = resumed / "config.yaml"
    if source is None and task is None:
        raise ConfigError("Expected --task, --preset or --config.", "Example: geomformer train --task gap --data qm9")
    named = [] if data is None else [f"data.dataset={json.dumps(data)}"]
    named += [] if seed is None else [f"train.seed={seed}"]
    if source is None and task is not None:
        source = _usual_preset(task, data)
    settings = load_config(str(source), [*overrides, *named])
    if task is not None and settings.task.name != task:
        raise ConfigError(f"--task {task} does not fit '{source}', which is for task {settings.task.name}.")
    return _on_sample(settings, data) if sample else settings


def _usual_preset(task: str, data: str | None) -> str:
    """The small one of the dataset, which may want other inputs than the task's usual one, else of the task."""
    from geomformer.config.load import load_config, preset_names

    of_data = f"{Path(data or '').name}-small"
    return of_data if of_data in preset_names() and load_config(of_data).task.name == task else f"{task}-small"


def _on_sample(settings: RunConfig, data: str | None) -> RunConfig:
    from geomformer.errors import ConfigError
    from geomformer.samples import SAMPLES

    if data is not None:
        raise ConfigError(f"--sample names a dataset, and so does --data {data}.", "Leave one of them out.")
    if settings.task.name not in SAMPLES:
        raise ConfigError(
            f"Task {settings.task.name} has no sample; {' and '.join(SAMPLES)} have.",
            "Prepare a dataset with `geomformer preprocess`, and name it with --data.",
        )
    dataset = settings.data.model_copy(update={"dataset": SAMPLES[settings.task.name]})
    return settings.model_copy(update={"data": dataset})


def _continuation(run: str, settings: RunConfig, flags: dict[str, Any]) -> str:
    """The command that continues a run; its configuration is read from the run folder."""
    words = ["geomformer", "train", "--task", settings.task.name, "--out", run]
    for flag, value in flags.items():
        if value not in (None, "auto", 1):
            words += [flag, str(value)]
    return shlex.join([*words, "--resume"])


def _other_rank() -> bool:
    """Whether this is one of several training processes, and not the one that speaks."""
    return any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


class Report:
    """Turns what the training loop reports into the table at the start, the bar and the lines of validation."""

    def __init__(self, progress: console.Progress, preset: str | None) -> None:
        self.progress = progress
        self.preset = preset
        self.note = ""
        self.run: str | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("event") == "start":
            self.start(event)
            return
        step, last = event["step"], event["max_steps"]
        values = {key: value for key, value in event.items() if "/" in key}
        losses = {key.removeprefix("train/"): value for key, value in values.items() if key.startswith("train/")}
        checks = {key.removeprefix("valid/"): value for key, value in values.items() if key.startswith("valid/")}
        if losses:
            self.note = _pairs(losses)
        self.progress(step, last, self.note)
        if checks:
            console.message(f"step {step}: validation {_pairs(checks)}")

    def start(self, event: dict[str, Any]) -> None:
        self.run = str(event["run"])
        console.fields(
            [
                ("preset", self.preset or "none"),
                ("reads", str(event["dataset"])),
                ("writes", self.run),
                ("parameters", f"{event['parameters']:,}"),
                ("training rows", f"{event['rows']:,}, {event['padding']:.0%} of a batch is padding"),
                ("steps", f"{event['max_steps']:,}"),
                ("projected time", console.duration(event["seconds"])),
                ("device", f"{event['device']}, {event['precision']}"),
            ]
        )


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
