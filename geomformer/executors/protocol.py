"""What every executor offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from geomformer.errors import ResourceError

DIED = "the worker process died"
"""Reason of a `Failure`."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """An item without a result.

    Attributes:
        index: position of the item, from 0.
        reason: what happened, a phrase such as "the worker process died".
    """

    index: int
    reason: str


class Executor(Protocol):
    """Something that maps a function over items, results in input order."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | Failure]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: object) -> None: ...


def too_slow(timeout: float) -> str:
    """Returns the reason of a `Failure` after so many seconds."""
    return f"took longer than {timeout:g} s and was stopped"


def no_start(attempts: int) -> ResourceError:
    """Returns the error for worker processes that end again and again before they could start."""
    return ResourceError(
        f"{attempts} worker processes in a row ended before they could start.", "Use fewer workers, or free memory."
    )
