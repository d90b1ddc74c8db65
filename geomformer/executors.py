"""Runs a function over many items in worker processes that may crash or hang without taking the run with them."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from geomformer.errors import ConfigError, ResourceError

T = TypeVar("T")
R = TypeVar("R")

START_SECONDS = 300.0
"""How long a worker may take to start and import what the function needs."""
_LOOK_AHEAD_CHUNKS = 4
_MAX_FAILED_STARTS = 3
# A message this small fits into the buffers of the pipe, so that sending it to a busy worker cannot block.
_UNBLOCKING_BYTES = 32_768 if os.name == "posix" else 4_096


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


class LocalExecutor:
    """Worker processes on this machine.

    A worker that dies or exceeds the time limit costs one item, which becomes a `Failure`; the worker is replaced and
    the items it still had are done. Workers start by "spawn", ignore Ctrl-C (the parent handles it) and end with the
    parent.

    Args:
        workers: number of processes; 0 runs the function in this process, without any protection.
        timeout: seconds that one item may take.
        chunk_size: items that a worker holds at most.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, workers: int = 1, timeout: float = 300.0, chunk_size: int = 8) -> None:
        if workers < 0 or timeout <= 0 or chunk_size < 1:
            raise ConfigError(
                "Expected workers >= 0, timeout > 0 and chunk_size >= 1, "
                f"found workers {workers}, timeout {timeout}, chunk_size {chunk_size}."
            )
        self.workers = workers
        self.timeout = timeout
        self.chunk_size = chunk_size
        self._runs: list[_Run] = []

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | Failure]:
        """Yields `function(item)` for every item, in input order.

        Items are pulled only a bounded number ahead of the results taken.

        Args:
            function: picklable, as are its arguments and results.
            items: any iterable.

        Raises:
            Exception: whatever `function` raises, at the place of the item.
            ResourceError: worker processes cannot be started.
        """
        if self.workers == 0:
            yield from map(function, items)
            return
        run = _Run(pickle.dumps(function, protocol=5), iter(items), self.workers, self.timeout, self.chunk_size)
        self._runs.append(run)
        try:
            yield from run.results()
            run.finish()
        finally:
            run.kill()
            self._runs.remove(run)

    def close(self) -> None:
        """Ends all worker processes."""
        for run in self._runs:
            run.kill()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass
class _Worker:
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


class _Run:
    """One `map`: its workers, the items under way and the results that wait for their turn."""

    def __init__(self, function: bytes, items: Iterator[Any], workers: int, timeout: float, chunk_size: int) -> None:
        self.function = function
        self.items = items
        self.max_workers = workers
        self.timeout = timeout
        self.chunk_size = chunk_size
        self.window = _LOOK_AHEAD_CHUNKS * chunk_size * workers
        self.workers: list[_Worker] = []
        self.retry: deque[tuple[int, Any]] = deque()
        self.done: dict[int, tuple[bool, Any]] = {}
        self.pulled = 0
        self.sent_chunks = 0
        self.returned = 0
        self.exhausted = False
        self.failed_starts = 0

    def results(self) -> Iterator[Any]:
        self._prime()
        while True:
            while self.returned in self.done:
                succeeded, value = self.done.pop(self.returned)
                self.returned += 1
                if not succeeded:
                    raise value
                yield value
            self._feed()
            if self.exhausted and self.returned == self.pulled:
                return
            self._collect()

    def finish(self) -> None:
        """Lets the workers, all idle, leave by themselves; `kill` takes those that do not."""
        for worker in self.workers:
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(1.0)

    def kill(self) -> None:
        while self.workers:
            self.workers.pop().stop()

    def _prime(self) -> None:
        """Pulls one item per worker, so that a short input starts no more workers than it has items."""
        first = list(itertools.islice(self.items, self.max_workers))
        self.exhausted = len(first) < self.max_workers
        self.max_workers = max(1, len(first))
        self.retry.extend(enumerate(first))
        self.pulled = len(first)

    def _feed(self) -> None:
        """Gives work to idle workers, then a second, small chunk to busy ones, so that they need not wait for us."""
        while (worker := self._idle()) is not None:
            chunk = self._next_chunk()
            if not chunk:
                return
            self._send(worker, chunk, pickle.dumps(chunk, protocol=5))
        for worker in [w for w in self.workers if w.ready and len(w.chunks) == 1]:
            chunk = self._next_chunk()
            if not chunk:
                return
            payload = pickle.dumps(chunk, protocol=5)
            if len(payload) > _UNBLOCKING_BYTES:
                self.retry.extendleft(reversed(chunk))
                return
            self._send(worker, chunk, payload)

    def _idle(self) -> _Worker | None:
        for worker in self.workers:
            if worker.ready and not worker.pending:
                return worker
        waiting = bool(self.retry) or (not self.exhausted and self.pulled - self.returned < self.window)
        while waiting and len(self.workers) < self.max_workers:
            self.workers.append(_start(self.function))
        return None

    def _next_chunk(self) -> list[tuple[int, Any]]:
        # Short at first, so that all workers get some of a short input; half, because a worker holds two chunks.
        size = min(max(1, self.chunk_size // 2), 1 + self.sent_chunks // self.max_workers)
        if self.retry:
            return [self.retry.popleft() for _ in range(min(size, len(self.retry)))]
        room = self.window - (self.pulled - self.returned)
        if self.exhausted or room <= 0:
            return []
        items = list(itertools.islice(self.items, min(size, room)))
        self.exhausted = len(items) < min(size, room)
        chunk = list(enumerate(items, start=self.pulled))
        self.pulled += len(items)
        return chunk

    def _send(self, worker: _Worker, chunk: list[tuple[int, Any]], payload: bytes) -> None:
        if not worker.pending:
            worker.deadline = time.monotonic() + self.timeout
        worker.pending.extend(chunk)
        worker.chunks.append(len(chunk))
        self.sent_chunks += 1
        # A worker that died meanwhile is found, with these items, when its pipe is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send_bytes(payload)

    def _collect(self) -> None:
        """Waits for a message, a death or a deadline, and deals with it."""
        busy = [worker for worker in self.workers if worker.pending or not worker.ready]
        if not busy:
            return
        remaining = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), remaining):
            self._read(by_pipe[pipe])  # type: ignore[index]
        now = time.monotonic()
        for worker in [w for w in self.workers if w in busy and w.deadline <= now]:
            # What arrived while we were elsewhere counts: only a silent worker is late.
            if (worker.pending or not worker.ready) and not worker.pipe.poll():
                self._lose(worker, f"took longer than {self.timeout:g} s and was stopped")

    def _read(self, worker: _Worker) -> None:
        try:
            while worker.pipe.poll():
                index, succeeded, value = pickle.loads(worker.pipe.recv_bytes())
                if index is None:
                    self._started(worker, succeeded, value)
                    continue
                self._reported(worker, index, succeeded, value)
        except (EOFError, OSError):
            self._lose(worker, "the worker process died")

    def _started(self, worker: _Worker, succeeded: bool, value: Any) -> None:
        if not succeeded:
            raise value
        worker.ready = True
        self.failed_starts = 0

    def _reported(self, worker: _Worker, index: int, succeeded: bool, value: Any) -> None:
        worker.pending.popleft()
        worker.chunks[0] -= 1
        if worker.chunks[0] == 0:
            worker.chunks.popleft()
        worker.deadline = time.monotonic() + self.timeout
        self.done[index] = (succeeded, value)

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Replaces a worker: the item it was at has failed, those behind it go to another one."""
        self.workers.remove(worker)
        worker.stop()
        if worker.pending:
            index, _ = worker.pending.popleft()
            self.done[index] = (True, Failure(index, reason))
            self.retry.extend(worker.pending)
        elif not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _MAX_FAILED_STARTS:
                raise ResourceError(
                    f"{self.failed_starts} worker processes in a row ended before they could start.",
                    "Use fewer workers, or free memory.",
                )


def _start(function: bytes) -> _Worker:
    context = multiprocessing.get_context("spawn")
    pipe, child = context.Pipe(duplex=True)
    process = context.Process(target=_work, args=(child, function), daemon=True)
    try:
        with _interrupts_blocked(), _main_hidden(function):
            process.start()
    except OSError as error:
        pipe.close()
        raise ResourceError(f"A worker process cannot be started: {error}.", "Use fewer workers.") from error
    finally:
        child.close()
    return _Worker(process, pipe, time.monotonic() + START_SECONDS)


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


def _work(pipe: Connection, payload: bytes) -> None:
    """Life of a worker: report readiness, then one message per item until the pipe closes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        try:
            function = pickle.loads(payload)
        except Exception as error:  # noqa: BLE001 - handed to the parent
            pipe.send_bytes(_message(None, False, error))
            return
        pipe.send_bytes(_message(None, True, None))
        while True:
            for index, item in pickle.loads(pipe.recv_bytes()):
                pipe.send_bytes(_attempt(function, index, item))


def _attempt(function: Callable[[Any], Any], index: int, item: Any) -> bytes:
    try:
        return _message(index, True, function(item))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return _message(index, False, error)


def _message(index: int | None, succeeded: bool, value: Any) -> bytes:
    """Pickles a report; an exception that cannot be pickled, or not read back, is replaced by its text."""
    if not succeeded:
        text = "".join(traceback.format_exception(value))
        try:
            pickle.loads(pickle.dumps(value, protocol=5))
        except Exception:  # noqa: BLE001 - exceptions with their own __init__ fail in many ways
            value = RuntimeError(text)
        else:
            value.add_note(f"Raised in a worker process:\n{text}")
    return pickle.dumps((index, succeeded, value), protocol=5)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
