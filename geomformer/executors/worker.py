"""Life of a worker process. Its pipe is the parent's own: what it unpickles, the parent has pickled."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def work(pipe: Connection, payload: bytes) -> None:
    """Reports readiness, then one message per item until the pipe closes."""
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
