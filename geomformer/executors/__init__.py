"""Runs a function over many items in worker processes that may crash or hang without taking the run with them."""

from __future__ import annotations

from geomformer.executors.local import LocalExecutor
from geomformer.executors.protocol import Executor, Failure

__all__ = ["Executor", "Failure", "LocalExecutor"]
