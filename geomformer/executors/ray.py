"""Worker processes on a Ray cluster, or on a Ray cluster that is started on this machine for the purpose.

A Ray task takes a chunk of items. It hands them to a worker process of its own (`executors.worker`), as a
`LocalExecutor` does: RDKit may then crash or hang without taking the Ray worker along, which tells exactly which item
it was and how long that took, whatever the cluster was doing at the time. The process is kept for the next task.

Every node needs Python, Ray and geomformer in the versions of the machine that calls.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from geomformer.errors import ConfigError
from geomformer.executors.protocol import DIED, Failure
from geomformer.executors.station import run_chunk

T = TypeVar("T")
R = TypeVar("R")

_LOOK_AHEAD_CHUNKS = 8
_KNOCK_SECONDS = 10.0
_MAX_LOSSES = 3


class RayExecutor:
    """Worker processes on a Ray cluster; results are those of `LocalExecutor`.

    A worker that dies or exceeds the time limit costs one item, which becomes a `Failure`. What a lost node or Ray's
    own memory limit takes is done again elsewhere, item by item; an item that is lost so three times is a `Failure`.

    Args:
        address: of a running cluster, such as "auto" or "ray://host:10001"; None starts one on this machine, unless
            this process has one already, and stops it in `close`.
        timeout: seconds that one item may take.
        chunk_size: items per Ray task.
        workers: CPUs to use at most; None uses all.

    Raises:
        ConfigError: Ray is not installed, or a number is out of range.
    """

    def __init__(
        self, address: str | None = None, timeout: float = 300.0, chunk_size: int = 16, workers: int | None = None
    ) -> None:
        if timeout <= 0 or chunk_size < 1 or (workers is not None and workers < 1):
            raise ConfigError(
                "Expected workers >= 1, timeout > 0 and chunk_size >= 1, "
                f"found workers {workers}, timeout {timeout}, chunk_size {chunk_size}."
            )
        self.address = address
        self.timeout = timeout
        self.chunk_size = chunk_size
        self.workers = workers
        self._ray = _import_ray()
        self._started = False
        self._runs: list[_Run] = []

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R | Failure]:
        """Yields `function(item)` for every item, in input order.

        Items are pulled only a bounded number ahead of the results taken.

        Args:
            function: picklable, as are its arguments and results.
            items: any iterable.

        Raises:
            Exception: whatever `function` raises, at the place of the item.
            ConfigError: the cluster cannot be reached, or geomformer is missing on a node.
            ResourceError: worker processes cannot be started.
        """
        slots = self._connect()
        run = _Run(self._ray, function, iter(items), slots, self)
        self._runs.append(run)
        try:
            yield from run.results()
        finally:
            run.cancel()
            self._runs.remove(run)

    def close(self) -> None:
        """Cancels what is under way, and stops the cluster if it was started here."""
        for run in self._runs:
            run.cancel()
        if self._started:
            self._ray.shutdown()
            self._started = False

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _connect(self) -> int:
        """Returns the number of tasks that can run at once."""
        if not self._ray.is_initialized():
            self._init()
        cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if cpus < 1:
            raise ConfigError("The Ray cluster has no CPU.", "Add a worker node, or start it with --num-cpus.")
        return cpus if self.workers is None else min(cpus, self.workers)

    def _init(self) -> None:
        where: dict[str, Any] = {"address": self.address}
        if self.address is None:
            where = {"address": "local", "num_cpus": self.workers, "include_dashboard": False}
        try:
            _knock(self.address)
            with _environment_for_ray():
                self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            place = f"at {self.address}" if self.address else "on this machine"
            raise ConfigError(
                f"No Ray cluster could be used {place}: {error}.",
                "Check the address, and that Ray and Python have the same versions there; or use --executor local.",
            ) from error
        self._started = True


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(f"Ray cannot be loaded: {error}.", "pip install 'geomformer[ray]'") from error
    return ray


@contextlib.contextmanager
def _environment_for_ray() -> Iterator[None]:
    """Lets the workers of a cluster started inside find the modules that this process finds."""
    modules = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    # Ray reports its use over the network otherwise.
    changes = {"PYTHONPATH": modules, "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0")}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _knock(address: str | None) -> None:
    """Raises OSError when nothing answers at host:port, where Ray would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()


@dataclass
class _Chunk:
    """Items of one task, and how often a task with them was lost."""

    items: list[tuple[int, Any]]
    losses: int = 0


class _Run:
    """One `map`: the tasks under way and the results that wait for their turn."""

    def __init__(
        self, ray: ModuleType, function: Callable[[Any], Any], items: Iterator[Any], slots: int, executor: RayExecutor
    ) -> None:
        self.ray = ray
        self.lost = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.ObjectLostError,
        )
        # By value where it is defined in the script that runs, which workers cannot import.
        self.function: bytes = ray.cloudpickle.dumps(function, protocol=5)
        self.task = ray.remote(num_cpus=1, max_retries=0)(run_chunk)
        self.items = items
        self.slots = slots
        self.timeout = executor.timeout
        self.chunk_size = executor.chunk_size
        self.window = _LOOK_AHEAD_CHUNKS * executor.chunk_size * slots
        # On a cluster of ours Ray keeps to the number of CPUs; elsewhere only so many tasks may be there.
        own = executor.address is None or executor.workers is None
        self.max_tasks = self.window if own else slots
        self.under_way: dict[Any, _Chunk] = {}
        self.retry: deque[_Chunk] = deque()
        self.done: dict[int, tuple[bool, Any]] = {}
        self.pulled = 0
        self.sent_chunks = 0
        self.returned = 0
        self.exhausted = False

    def results(self) -> Iterator[Any]:
        while True:
            while self.returned in self.done:
                succeeded, value = self.done.pop(self.returned)
                self.returned += 1
                if not succeeded:
                    raise value
                yield value
            self._submit()
            if not self.under_way:
                return
            ready, _ = self.ray.wait(list(self.under_way), num_returns=1)
            for reference in ready:
                self._take(reference, self.under_way.pop(reference))

    def cancel(self) -> None:
        while self.under_way:
            reference, _ = self.under_way.popitem()
            self.ray.cancel(reference, force=True)

    def _submit(self) -> None:
        while len(self.under_way) < self.max_tasks and (chunk := self._next_chunk()) is not None:
            payload = pickle.dumps(chunk.items, protocol=5)
            self.under_way[self.task.remote(self.function, payload, self.timeout)] = chunk
            self.sent_chunks += 1

    def _next_chunk(self) -> _Chunk | None:
        if self.retry:
            return self.retry.popleft()
        # Short at first, so that all workers get some of a short input.
        size = min(self.chunk_size, 1 + self.sent_chunks // self.slots)
        size = min(size, self.window - (self.pulled - self.returned))
        if self.exhausted or size < 1:
            return None
        items = list(enumerate(itertools.islice(self.items, size), start=self.pulled))
        self.exhausted = len(items) < size
        self.pulled += len(items)
        return _Chunk(items) if items else None

    def _take(self, reference: Any, chunk: _Chunk) -> None:
        try:
            messages = self.ray.get(reference)
        except self.lost:
            self._lose(chunk)
            return
        except self.ray.exceptions.RayTaskError as error:
            raise ConfigError(
                f"A Ray worker could not run its task: {error.cause}",
                "Install the same version of geomformer, with what it needs, on every node of the cluster.",
            ) from error
        for message in messages:
            index, succeeded, value = pickle.loads(message)
            if index is None:
                raise value
            self.done[index] = (succeeded, value)

    def _lose(self, chunk: _Chunk) -> None:
        """Has the items of a lost task done again one by one; gives up on one that is lost too often."""
        if len(chunk.items) > 1:
            self.retry.extend(_Chunk([item]) for item in chunk.items)
            return
        chunk.losses += 1
        if chunk.losses < _MAX_LOSSES:
            self.retry.append(chunk)
            return
        index, _ = chunk.items[0]
        self.done[index] = (True, Failure(index, DIED))
