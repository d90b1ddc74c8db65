"""One run of an ablation: train, evaluate, note the result. It may run in a worker process."""

from __future__ import annotations

import json
import platform
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geomformer
from geomformer.ablation.results import Result, fingerprint, read_result, result_path, run_name, training_seconds
from geomformer.config.run import RunConfig
from geomformer.errors import GeomformerError, Interrupted, out_of_memory
from geomformer.files import locked

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """A run to be done. Picklable.

    Attributes:
        variant: its name.
        config: of the run, with its seed.
        splits: to evaluate, their first `limit` rows.
        threads: of torch on the CPU.
        device: "auto", "cpu", "cuda".
        out: folder of the ablation.
        root: root of the prepared datasets; None as for `api.train`.
        data: fingerprint of the dataset.
    """

    variant: str
    config: RunConfig
    splits: tuple[str, ...]
    limit: int | None
    threads: int
    device: str
    out: Path
    root: Path | None
    data: str

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def name(self) -> str:
        return run_name(self.variant, self.seed)

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name

    @property
    def models(self) -> Path:
        return self.out / "models"

    def finished(self) -> Result | None:
        """Its result, if it has one that says all that is asked for."""
        known = read_result(result_path(self.out, self.variant, self.seed))
        return known if known is not None and known.covers(self.splits) else None


def run_job(job: Job, report: Report = lambda line: None) -> Result:
    """Does a run, or what an interruption has left of it, and writes its result.

    A run that fails is a result, too: other runs go on. It is tried again when it is asked for again, from its last
    checkpoint.

    Raises:
        Interrupted: stopped by a signal, state saved.
        OSError: a file cannot be written, such as on a full disk.
    """
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    # Of several commands on one folder, one does the run and the others find its result.
    with locked(job.folder.with_name(f"{job.name}.lock")):
        known = job.finished()
        if known is not None:
            return known
        with cpu_threads(job.threads):
            result = attempt(job, report)
        result.write(job.out)
    return result


def run_in_worker(job: Job) -> Result:
    """`run_job` in a process of its own, where nobody reads warnings."""
    warnings.simplefilter("ignore")
    return run_job(job)


def attempt(job: Job, report: Report) -> Result:
    """Trains and evaluates; what goes wrong becomes the reason of a failed result."""
    try:
        return train_and_evaluate(job, report)
    except (Interrupted, OSError):
        raise
    except GeomformerError as error:
        return failed(job, str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - one run must not take the others with it
        if out_of_memory(error):
            return failed(job, "Memory ran out. Use a smaller data.batch_atoms, or fewer --workers.", 5)
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / "log.txt").open("a", encoding="utf8") as log:
            log.write(traceback.format_exc())
        return failed(job, f"{type(error).__name__}: {error} (see {job.folder / 'log.txt'})", 1)


def train_and_evaluate(job: Job, report: Report) -> Result:
    """Continues where an interruption left the run: in training, before evaluation, or nowhere."""
    from geomformer import api
    from geomformer.artifacts.store import load_artifact

    trained = api.train(
        job.config,
        out=job.folder,
        root=job.root,
        models=job.models,
        name=job.name,
        resume=(job.folder / "manifest.json").exists(),
        device=job.device,
        report=report,
    )
    found = api.evaluate(
        job.config.data.dataset,
        model=str(trained.path),
        splits=job.splits,
        root=job.root,
        models=job.models,
        device=job.device,
        limit=job.limit,
        baselines=False,
    )
    training = load_artifact(str(trained.path), job.models).manifest.training
    return Result(
        job.variant,
        job.seed,
        "done",
        metrics=found["splits"],
        parameters=training["parameters"],
        steps=training["steps"],
        seconds=round(training_seconds(job.folder), 1),
        model=trained.reference,
        **circumstances(job),
    )


def failed(job: Job, reason: str, exit_code: int) -> Result:
    """The result of a run that did not come to its end."""
    return Result(job.variant, job.seed, "failed", reason=reason, exit_code=exit_code, **circumstances(job))


def circumstances(job: Job) -> dict[str, Any]:
    """What a result must be compared under."""
    import torch

    from geomformer.devices import resolve_device

    return {
        "config": fingerprint(job.config),
        "data": job.data,
        "threads": job.threads,
        "device": resolve_device(job.device),
        "software": {
            "geomformer": geomformer.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
    }


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Inside, torch uses so many threads: sums are rounded alike in this process and in those of workers."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """A configuration as plain values, without the seed: what all runs of a variant share."""
    values: dict[str, Any] = json.loads(config.model_dump_json())
    values["train"].pop("seed")
    return values
