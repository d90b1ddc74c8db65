"""What the terminal shows: results on stdout, messages, progress and logs on stderr.

On anything but a terminal everything is plain lines without control characters.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.text import Text

PLAIN_STEPS = 10
PLAIN_SECONDS = 30.0
PLAIN_PAUSE = 1.0
_WIDE = 200
_CHATTY = ("lightning_fabric", "lightning.fabric", "torch", "matplotlib", "urllib3", "fsspec")


@dataclass
class Settings:
    """Set by `--quiet` and `--verbose`."""

    quiet: bool = False
    verbose: bool = False


settings = Settings()


@functools.cache
def messages() -> Console:
    """The console on stderr, one for messages, bars and logs, so that bars stay below the lines."""
    return Console(stderr=True, highlight=False)


def configure(*, quiet: bool, verbose: bool) -> None:
    """Applies the global options: how much is said, and the logs of the library on stderr."""
    settings.quiet, settings.verbose = quiet, verbose
    if not verbose:
        warnings.simplefilter("ignore")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING if verbose else logging.ERROR)
    logger = logging.getLogger("geomformer")
    for handler in [h for h in logger.handlers if h.get_name() == "cli"]:
        logger.removeHandler(handler)
    handler = _log_handler()
    handler.set_name("cli")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)


def _log_handler() -> logging.Handler:
    if messages().is_terminal:
        from rich.logging import RichHandler

        return RichHandler(console=messages(), show_path=False, show_time=False)
    handler = _PlainHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    return handler


class _PlainHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def say(text: str, style: str = "") -> None:
    """Says something on stderr, even with `--quiet`."""
    messages().print(Text(text, style=style), soft_wrap=True)


def message(text: str) -> None:
    """Says something on stderr, unless `--quiet`."""
    if not settings.quiet:
        say(text)


def complain(text: str, hint: str | None = None) -> None:
    """Says on stderr what went wrong, even with `--quiet`."""
    messages().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)
    if hint:
        say(hint, "yellow")


def fields(rows: Sequence[tuple[str, str]]) -> None:
    """Names and values on stderr, one pair a line, values aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        message(f"  {name:<{width}}  {value}")


class ReaderGone(Exception):  # noqa: N818 - no error: `geomformer ... | head` has seen enough
    """Nobody reads stdout any more."""


def result(text: str) -> None:
    """One piece of the command's answer, on stdout.

    Raises:
        ReaderGone: whoever read stdout has left.
    """
    try:
        typer.echo(text)
    except BrokenPipeError as error:
        raise ReaderGone from error


def result_json(value: Any) -> None:
    """The command's answer for machines, on stdout."""
    result(json.dumps(value, indent=2, ensure_ascii=False))


def result_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> None:
    """A table on stdout.

    Args:
        columns: headings.
        rows: cells.
        numbers: columns that are aligned to the right.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    right = set(numbers)
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    with console.capture() as captured:
        console.print(table)
    result("\n".join(line.rstrip() for line in captured.get().rstrip().split("\n")))


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    for limit, divisor, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class Progress(Protocol):
    """Called with what is done and the whole, where known, and a short note to show beside."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@contextmanager
def progress(title: str, unit: str = "rows", pause: float | None = None) -> Iterator[Progress]:
    """Shows progress on stderr: a bar with the time left on a terminal, else a line every tenth or half minute, but
    none within `pause` seconds (`PLAIN_PAUSE` by default) of the one before.
    """
    if settings.quiet:
        yield _silent
    elif messages().is_terminal:
        with _bars() as bars:
            task = bars.add_task(title, total=None, note="")

            def advance(done: int, total: int | None = None, note: str = "") -> None:
                bars.update(task, completed=done, total=total, note=note)

            yield advance
    else:
        yield PlainProgress(title, unit, pause)


def _silent(done: int, total: int | None = None, note: str = "") -> None:
    return None


def _bars() -> Any:
    from rich import progress as widgets

    return widgets.Progress(
        widgets.TextColumn("{task.description}"),
        widgets.BarColumn(),
        widgets.MofNCompleteColumn(),
        widgets.TimeElapsedColumn(),
        widgets.TextColumn("left"),
        widgets.TimeRemainingColumn(),
        widgets.TextColumn("{task.fields[note]}", markup=False),
        console=messages(),
    )


class PlainProgress:
    """Progress as lines; something that takes a second prints none."""

    def __init__(self, title: str, unit: str, pause: float | None = None) -> None:
        self.title, self.unit, self.pause = title, unit, PLAIN_PAUSE if pause is None else pause
        self.began = self.spoken = time.monotonic()
        self.first: int | None = None
        self.shown = 0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = max(0, done - 1)
        share = done / total if total else 0.0
        steps = int(share * PLAIN_STEPS)
        silence = now - self.spoken
        if silence < self.pause or (silence < PLAIN_SECONDS and steps == self.shown):
            return
        self.spoken, self.shown = now, steps
        text = f"{self.title}: {done} {self.unit}"
        if total:
            left = (now - self.began) / max(1, done - self.first) * (total - done)
            text = f"{self.title}: {done} of {total} {self.unit} ({share:.0%}), {duration(left)} left"
        message(f"{text}, {note}" if note else text)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """Says that something takes a while and cannot tell how far it is."""
    if settings.quiet:
        yield
    elif messages().is_terminal:
        with messages().status(Text(title)):
            yield
    else:
        message(f"{title} ...")
        yield
