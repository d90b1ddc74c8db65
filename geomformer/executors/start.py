"""Starting worker processes, and what their parent knows of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from geomformer.errors import ResourceError
from geomformer.executors.worker import work

START_SECONDS = 300.0
"""How long a worker may take to start and import what the function needs."""


@dataclass
class Worker:
    """A worker process, its pipe and the items it was given and has not answered."""

    process: BaseProcess
    pipe: Connection
    deadline: float
    ready: bool = False
    pending: deque[tuple[int, Any]] = field(default_factory=deque)
    chunks: deque[int] = field(default_factory=deque)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def start(function: bytes) -> Worker:
    """Starts a process that applies a pickled function to the items it is sent.

    Raises:
        ResourceError: the system refuses.
    """
    context = multiprocessing.get_context("spawn")
    pipe, child = context.Pipe(duplex=True)
    process = context.Process(target=work, args=(child, function), daemon=True)
    try:
        with _interrupts_blocked(), _main_hidden(function):
            process.start()
    except OSError as error:
        pipe.close()
        raise ResourceError(f"A worker process cannot be started: {error}.", "Use fewer workers.") from error
    finally:
        child.close()
    return Worker(process, pipe, time.monotonic() + START_SECONDS)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started inside is never hit by Ctrl-C: it inherits the mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_hidden(function: bytes) -> Iterator[None]:
    """Keeps a started process from running the user's script again, which may lack a guard or import torch."""
    if b"__main__" in function:
        yield
        return
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
