"""Errors that users meet. Each says what was expected, what was found and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GeomformerError(Exception):
    """Base of all errors meant for users.

    Attributes:
        message: what was expected and what was found (file, row, key).
        hint: what to do about it, or None.
        exit_code: what the command line returns (0 ok, 1 unexpected, 2 usage or config, 3 data, 4 model or
            artifact, 5 out of memory, 130 interrupted with state saved).
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class ConfigError(GeomformerError):
    """An option, a configuration key or a combination of them cannot be used."""

    exit_code = 2


class DataError(GeomformerError):
    """Input data are missing, unreadable or not what they should be."""

    exit_code = 3


class ArtifactError(GeomformerError):
    """A trained model cannot be found, read or trusted, or does not fit the data."""

    exit_code = 4


class ResourceError(GeomformerError):
    """Memory ran out."""

    exit_code = 5


class Interrupted(GeomformerError):  # noqa: N818 - not an error: the state is saved
    """The user or the scheduler asked to stop; the state is saved."""

    exit_code = 130


class MoleculeError(DataError):
    """One molecule cannot be used; the run goes on without it.

    Attributes:
        status: one of the `status` values of `predict` other than `ok`.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[MoleculeError], tuple[str, str]]:
        return type(self), (self.status, self.message)


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns " Did you mean 'x'?" for the choice most like `name`, or an empty string."""
    written = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), written, n=1, cutoff=0.5)
    return f" Did you mean '{written[found[0]]}'?" if found else ""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Recognises torch's errors by name, since importing torch takes seconds."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or ("torch", "OutOfMemoryError") in kinds:
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "CUDA out of memory" in text)
