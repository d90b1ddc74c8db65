"""From exceptions to a sentence, a hint and an exit code."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar

import typer

from geomformer import __version__
from geomformer.errors import DataError, GeomformerError, Interrupted, ResourceError, out_of_memory
from geomformer_cli import console

P = ParamSpec("P")
R = TypeVar("R")

ERROR_LOG = Path("error.log")
BROKEN_PIPE = 141
"""What a shell reports for a program whose reader went away (128 + SIGPIPE)."""

_OUT_OF_MEMORY = (
    "Use fewer --workers or --conformers, smaller batches (train: --set data.batch_atoms=1024), or --device cpu."
)
_UNEXPECTED = 1


def guarded(kept: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a command end with a sentence and its exit code whatever goes wrong.

    Args:
        kept: what is left of the work when the command is interrupted or the disk is full.
    """

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(command)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with _terminated_as_interrupted():
                    return command(*args, **kwargs)
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except console.ReaderGone:
                _drop_output()
                raise typer.Exit(BROKEN_PIPE) from None
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - reported, with an exit code
                raise typer.Exit(report(error, kept)) from None

        return run

    return decorate


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a command the way Ctrl-C does: what it has is kept and said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def report(error: BaseException, kept: str = "") -> int:
    """Tells the user on stderr what went wrong and returns the exit code."""
    known = expected(error, kept)
    if known is None:
        console.complain(f"unexpected {type(error).__name__}: {_first_line(error)}", _write_log(error))
        if console.settings.verbose:
            _show_traceback(error)
        return _UNEXPECTED
    if console.settings.verbose:
        _show_traceback(error)
    if isinstance(known, Interrupted):
        console.say(str(known))
    else:
        console.complain(known.message, known.hint)
    return known.exit_code


def expected(error: BaseException, kept: str = "") -> GeomformerError | None:
    """Translates an exception that users can do something about; None for one that nobody foresaw."""
    if isinstance(error, GeomformerError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("Interrupted.", kept or None)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {error.filename}" if error.filename else ""
        return DataError(f"The disk is full{where}.", f"Free some space and run the command again. {kept}".strip())
    if out_of_memory(error):
        return ResourceError(f"Memory ran out: {_first_line(error) or 'an allocation failed'}.", _OUT_OF_MEMORY)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return DataError(f"{error.filename}: {error.strerror}.", "Check the path and its permissions.")
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _show_traceback(error: BaseException) -> None:
    typer.echo(_traceback(error), err=True, nl=False)


def _write_log(error: BaseException) -> str:
    """Appends the traceback to the log and says where it is, or shows it if it cannot be written."""
    when = datetime.now().astimezone()
    head = f"{when:%Y-%m-%d %H:%M:%S %z}  geomformer {__version__}, Python {platform.python_version()}"
    try:
        with ERROR_LOG.open("a", encoding="utf8") as log:
            log.write(f"{head}\n{' '.join(sys.argv)}\n{_traceback(error)}\n")
    except OSError:
        _show_traceback(error)
        return "Please report this with the lines above."
    return f"The details are in {ERROR_LOG.resolve()}. Please report this with that file."


def _drop_output() -> None:
    """Sends what is still in the buffer of stdout nowhere, so that Python does not complain about it at the end."""
    with contextlib.suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
