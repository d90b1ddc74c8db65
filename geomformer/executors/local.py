"""Worker processes on this machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, TypeVar

from geomformer.errors import ConfigError
from geomformer.executors.protocol import DIED, Failure, no_start, too_slow
from geomformer.executors.start import Worker, start

T = TypeVar("T")
R = TypeVar("R")

_LOOK_AHEAD_CHUNKS = 4
_MAX_FAILED_STARTS = 3
# A message this small fits into the buffers of the pipe, so that sending it to a busy worker cannot block.
_UNBLOCKING_BYTES = 32_768 if os.name == "posix" else 4_096


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


class _Run:
    """One `map`: its workers, the items under way and the results that wait for their turn."""

    def __init__(self, function: bytes, items: Iterator[Any], workers: int, timeout: float, chunk_size: int) -> None:
        self.function = function
        self.items = items
        self.max_workers = workers
        self.timeout = timeout
        self.chunk_size = chunk_size
        self.window = _LOOK_AHEAD_CHUNKS * chunk_size * workers
        self.workers: list[Worker] = []
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
        if self.chunk_size == 1:  # items that take so long that one must not wait behind another
            return
        for worker in [w for w in self.workers if w.ready and len(w.chunks) == 1]:
            chunk = self._next_chunk()
            if not chunk:
                return
            payload = pickle.dumps(chunk, protocol=5)
            if len(payload) > _UNBLOCKING_BYTES:
                self.retry.extendleft(reversed(chunk))
                return
            self._send(worker, chunk, payload)

    def _idle(self) -> Worker | None:
        for worker in self.workers:
            if worker.ready and not worker.pending:
                return worker
        waiting = bool(self.retry) or (not self.exhausted and self.pulled - self.returned < self.window)
        while waiting and len(self.workers) < self.max_workers:
            self.workers.append(start(self.function))
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

    def _send(self, worker: Worker, chunk: list[tuple[int, Any]], payload: bytes) -> None:
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
                self._lose(worker, too_slow(self.timeout))

    def _read(self, worker: Worker) -> None:
        try:
            while worker.pipe.poll():
                index, succeeded, value = pickle.loads(worker.pipe.recv_bytes())
                if index is None:
                    self._started(worker, succeeded, value)
                    continue
                self._reported(worker, index, succeeded, value)
        except (EOFError, OSError):
            self._lose(worker, DIED)

    def _started(self, worker: Worker, succeeded: bool, value: Any) -> None:
        if not succeeded:
            raise value
        worker.ready = True
        self.failed_starts = 0

    def _reported(self, worker: Worker, index: int, succeeded: bool, value: Any) -> None:
        worker.pending.popleft()
        worker.chunks[0] -= 1
        if worker.chunks[0] == 0:
            worker.chunks.popleft()
        worker.deadline = time.monotonic() + self.timeout
        self.done[index] = (succeeded, value)

    def _lose(self, worker: Worker, reason: str) -> None:
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
                raise no_start(self.failed_starts)
