"""A barrier for the threads of one compiled update."""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.vectors import INT32, INT64, Builder, Value, int64, intrinsic, pointer

_SPINS_BEFORE_YIELD = 4000
CALLED_OFF = 2**61
"""A counter of at least this lets all threads go; they are to return at once."""


@intrinsic(None, INT64)
def _arrive(b: Builder, counter: Value) -> None:
    """Add one to a counter that threads share."""
    b.atomic_rmw("add", pointer(b, counter, INT64), int64(1), "acq_rel")


@intrinsic(INT64, INT64)
def _arrived(b: Builder, counter: Value) -> Value:
    """A counter that threads share."""
    return b.load_atomic(pointer(b, counter, INT64), "acquire", 8)


@intrinsic(None)
def _yield_core(b: Builder) -> None:
    """Let another thread have this core; on Windows go on spinning."""
    if sys.platform != "win32":
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(INT32, []), "sched_yield"), [])


@compiled
def wait_for_all(counter: int, passed: int, threads: int) -> int:
    """Return when all threads have called this as often as this thread.

    :param counter: address of an int64, 0 at the beginning of the update
    :param passed: number of barriers that this thread has passed
    :param threads: number of threads
    :return: passed + 1; -1 if the update was called off
    """
    passed += 1
    if threads > 1:
        _arrive(counter)
        spins: Any = 0
        while _arrived(counter) < passed * threads:
            spins += 1
            # The core may be needed by the very thread that is waited for
            if spins > _SPINS_BEFORE_YIELD:
                _yield_core()
        if _arrived(counter) >= CALLED_OFF:
            return -1
    return passed
