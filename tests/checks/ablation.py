"""What an ablation says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from geomformer.ablation.results import Result
from geomformer.ablation.run import Listener


class Heard(Listener):
    """Remembers what it hears; `report` receives the progress of runs."""

    def __init__(self, report: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.report = report
        self.lines: list[tuple[int, int, str]] = []
        self.there: tuple[int, int] = (0, 0)

    def begins(self, there: int, total: int) -> None:
        self.there = there, total

    def running(self, name: str) -> Any:
        return nullcontext(self.report)

    def finished(self, number: int, total: int, result: Result) -> None:
        self.lines.append((number, total, result.name))
