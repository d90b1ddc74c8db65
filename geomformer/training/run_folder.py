"""The folder of a run: configuration, log, metrics, checkpoints. Everything is written so that a kill loses nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml

from geomformer.config.load import to_yaml, validate
from geomformer.config.run import RunConfig
from geomformer.errors import ConfigError, DataError
from geomformer.files import write_atomic

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEPT_CHECKPOINTS = 2


class RunFolder:
    """`manifest.json`, `config.yaml`, `log.txt`, `metrics.jsonl` (no wall-clock), `timing.jsonl`, `checkpoints/`, and
    `result.json` at the end.

    Args:
        path: the folder.
        resume: continue the run in it; without, a folder that already holds a run is refused.

    Raises:
        ConfigError: there is a run and `resume` is off, or none and it is on.
        DataError: the run was written by a newer version.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        manifest = path / "manifest.json"
        if manifest.exists() and not resume:
            raise ConfigError(f"{path} already holds a run.", "Continue it with --resume, or name another --out.")
        if resume and not manifest.exists():
            raise ConfigError(f"{path} holds no run to resume (no manifest.json).", "Check --out.")
        if resume and (found := json.loads(manifest.read_text())["format_version"]) > FORMAT_VERSION:
            raise DataError(f"{path} is a run of format {found}, newer than {FORMAT_VERSION}: update geomformer.")
        self._files: dict[str, TextIO] = {}

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def create(self, config: RunConfig, facts: dict[str, Any]) -> None:
        """Writes the configuration and what identifies the run's data."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "config.yaml", to_yaml(config))
        write_atomic(self.path / "manifest.json", json.dumps({"format_version": FORMAT_VERSION, **facts}, indent=2))

    def facts(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_text())

    def finish(self, result: dict[str, Any]) -> None:
        """Notes the model the run ended with."""
        write_atomic(self.path / "result.json", json.dumps(result, indent=2))

    def result(self) -> dict[str, Any] | None:
        """What a finished run ended with; None while it is not finished. Resuming it saves no second model."""
        path = self.path / "result.json"
        return json.loads(path.read_text(encoding="utf8")) if path.exists() else None

    def config(self) -> RunConfig:
        """The configuration the run was started with."""
        path = self.path / "config.yaml"
        return validate(yaml.safe_load(path.read_text(encoding="utf8")), str(path))

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Inside, what the library logs is also appended to `log.txt`, and how the block ends."""
        library = logging.getLogger("geomformer")
        handler = logging.FileHandler(self.path / "log.txt", encoding="utf8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        library.addHandler(handler)
        try:
            yield
        except BaseException as error:
            self.note(f"{type(error).__name__}: {error}")
            raise
        finally:
            library.removeHandler(handler)
            handler.close()

    def note(self, message: str) -> None:
        """Appends a line to `log.txt`, with the time."""
        with (self.path / "log.txt").open("a", encoding="utf8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {message}\n")

    def append(self, name: str, line: dict[str, Any]) -> None:
        """Appends one JSON line to `metrics.jsonl` or `timing.jsonl`."""
        if name not in self._files:
            self._files[name] = (self.path / name).open("a", encoding="utf8")
        self._files[name].write(json.dumps(line) + "\n")
        self._files[name].flush()

    def truncate_metrics(self, step: int) -> None:
        """Drops the lines after `step`, which a resumed run will write again."""
        for name in ("metrics.jsonl", "timing.jsonl"):
            path = self.path / name
            if path.exists():
                kept = [line for line in complete_lines(path) if json.loads(line)["step"] <= step]
                write_atomic(path, "".join(line + "\n" for line in kept))

    def save_checkpoint(self, state: dict[str, Any], step: int, best: bool) -> None:
        """Saves atomically, keeps the last two and the best."""
        path = self.checkpoints / f"step-{step:08d}.pt"
        if best:
            # Before the step's own file: a run killed in between resumes earlier and finds this best again.
            save_atomic(state, self.checkpoints / "best.pt")
            link_or_copy(self.checkpoints / "best.pt", path)
        else:
            save_atomic(state, path)
        for old in self.step_checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def step_checkpoints(self) -> list[Path]:
        return sorted(self.checkpoints.glob("step-*.pt"))

    def load_last(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None before the first.

        Raises:
            DataError: there are some, all damaged.
        """
        paths = self.step_checkpoints()
        for path in reversed(paths[1:]):
            try:
                return load_checkpoint(path)
            except DataError as error:
                log.warning("%s The one before it is used.", error)
        return load_checkpoint(paths[0]) if paths else None

    def load_best(self) -> dict[str, Any]:
        return load_checkpoint(self.checkpoints / "best.pt")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads tensors and plain values only; no code in the file can run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {error}") from error


def complete_lines(path: Path) -> list[str]:
    """Lines that a kill has not cut."""
    return [line for line in path.read_text(encoding="utf8").split("\n")[:-1] if line.endswith("}")]


def save_atomic(state: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def link_or_copy(source: Path, path: Path) -> None:
    """Gives a file a second name, atomically; where the file system has no links, a copy."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomic(path, source.read_bytes())
    else:
        temporary.replace(path)
