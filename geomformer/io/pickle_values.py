"""What stands for things in a pickle of plain data, and what its parts may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

_SMALL_INTEGER = 2**31


class Refused(Exception):  # noqa: N818 - reads as what happened
    """A pickle asks for something that it may not have; the text completes "it ..."."""


@runtime_checkable
class Buildable(Protocol):
    """An object that a pickle may give a state."""

    def build(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Name:
    """What a name in a pickle means.

    Attributes:
        text: the name.
        call: what calling it does, None if it may not be called.
        new: makes an empty object of that class, None if it is no class that may be made.
        value: what it stands for otherwise.
    """

    text: str
    call: Callable[..., Any] | None = None
    new: Callable[[], Buildable] | None = None
    value: Any = None


def shown(text: str) -> str:
    """Returns a stranger's text for a message: not too long, and nothing that a terminal would obey."""
    return ascii(text[:200])[1:-1][:200]


def describe(value: Any) -> str:
    return value.text if isinstance(value, Name) else f"a {type(value).__name__}"


def of_kind(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused(f"changes {describe(value)} as if it were a {kind.__name__}")
    return value


def checked_key(value: Any) -> Any:
    # The hash of a deeply nested tuple would exhaust the interpreter's stack; that of numbers can be chosen so that
    # all collide.
    if not (isinstance(value, str | bytes) or (type(value) is int and abs(value) < _SMALL_INTEGER)):
        raise Refused(f"has {describe(value)} for a key")
    return value


def fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a key has no value")
    for place in range(0, len(items), 2):
        target[checked_key(items[place])] = items[place + 1]
    return target
