"""What every executor offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

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
