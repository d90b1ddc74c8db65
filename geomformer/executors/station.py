"""What runs in a Ray worker: a process beside it that works through chunks of items."""

from __future__ import annotations

import logging
import pickle
import time

from geomformer.errors import ResourceError
from geomformer.executors.protocol import DIED, Failure, no_start, too_slow
from geomformer.executors.start import Worker, start

logger = logging.getLogger(__name__)

_MAX_FAILED_STARTS = 3

_station: _Station | None = None
"""What a Ray worker keeps from one task to the next."""


def run_chunk(function: bytes, items: bytes, timeout: float) -> list[bytes]:
    """Applies a pickled function to a pickled chunk of items: what runs in a Ray worker.

    Returns:
        one message per item, as `executors.worker` writes them, or a last one with index None: why there can be none.
    """
    global _station
    if _station is None or _station.function != function:
        if _station is not None:
            _station.stop()
        _station = _Station(function)
    return _station.run(items, timeout)


class _Station:
    """A worker process beside a Ray worker, replaced when it dies or is too slow."""

    def __init__(self, function: bytes) -> None:
        self.function = function
        self.worker: Worker | None = None

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def run(self, payload: bytes, timeout: float) -> list[bytes]:
        items = pickle.loads(payload)
        messages: list[bytes] = []
        while len(messages) < len(items):
            worker, problem = self._ready()
            if worker is None:
                return [*messages, problem]
            if messages:
                payload = pickle.dumps(items[len(messages) :], protocol=5)
            reason = self._exchange(worker, payload, len(items), messages, timeout)
            if reason is not None:
                index, _ = items[len(messages)]
                messages.append(pickle.dumps((index, True, Failure(index, reason)), protocol=5))
                self.stop()
        return messages

    def _exchange(
        self, worker: Worker, payload: bytes, count: int, messages: list[bytes], timeout: float
    ) -> str | None:
        """Appends the messages of a worker; returns why it stopped before all were there, or None."""
        try:
            worker.pipe.send_bytes(payload)
            while len(messages) < count:
                if not worker.pipe.poll(timeout):
                    return too_slow(timeout)
                messages.append(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            return DIED
        return None

    def _ready(self) -> tuple[Worker | None, bytes]:
        """Returns a worker process that waits for items, or None and the message that says why there is none."""
        if self.worker is not None:
            return self.worker, b""
        for _ in range(_MAX_FAILED_STARTS):
            try:
                self.worker = start(self.function)
                if self.worker.pipe.poll(max(0.0, self.worker.deadline - time.monotonic())):
                    message = self.worker.pipe.recv_bytes()
                    _, succeeded, _ = pickle.loads(message)
                    return (self.worker, b"") if succeeded else (None, message)
            except (EOFError, OSError):
                logger.warning("A worker process ended before it could start.")
            except ResourceError as refusal:
                return None, pickle.dumps((None, False, refusal), protocol=5)
            self.stop()
        return None, pickle.dumps((None, False, no_start(_MAX_FAILED_STARTS)), protocol=5)
