"""What a core can do at all: vector multiply-adds in registers, and with operands from the first-level cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from numba.core import cgutils

from sb3_rlx2.kernels import vectors as v

CHAINS = 12
"""As many as a core needs to work on at once, and few enough for its registers."""
CACHED_BYTES = 16 * 1024
"""Memory that the first-level cache holds; a power of 2."""


def _multiply_adds(from_memory: bool) -> Any:
    """A compiled function (address, rounds): so many rounds of ``CHAINS`` independent vector multiply-adds."""

    def emit(b: Any, address: Any, rounds: Any) -> None:
        slots = [cgutils.alloca_once_value(b, v.constant(1.0 + i)) for i in range(CHAINS)]
        for i, slot in enumerate(slots):
            b.store(v.constant(1.0 + i), slot)
        with cgutils.for_range_slice(b, v.int64(0), rounds, v.int64(1)) as (number, _):
            start = b.add(address, b.and_(b.mul(number, v.int64(CHAINS * v.VECTOR_BYTES)), v.int64(CACHED_BYTES - 1)))
            for i, slot in enumerate(slots):
                operand = v.load_vector(b, start, i * v.VECTOR_BYTES) if from_memory else b.load(slot)
                b.store(v.multiply_add(b, operand, v.constant(0.5), b.load(slot)), slot)
        for i, slot in enumerate(slots):
            v.store_vector(b, b.load(slot), address, i * v.VECTOR_BYTES)

    row = v.intrinsic(None, v.INT64, v.INT64)(emit)

    def run(address: int, rounds: int) -> None:
        row(address, rounds)

    return numba.njit(run)


def multiply_adds() -> tuple[dict[str, Callable[[], None]], int]:
    """What to time, by name, and how many floating-point operations each call makes."""
    memory, rounds = np.zeros(CACHED_BYTES // v.FLOAT_BYTES + (CHAINS + 1) * v.LANES, np.float32), 10_000
    work = {"core's peak": _multiply_adds(False), "one operand from the cache": _multiply_adds(True)}

    def call(function: Callable[[int, int], None]) -> None:
        start = int(memory.ctypes.data)
        function(start + -start % v.VECTOR_BYTES, rounds)

    return {name: partial(call, function) for name, function in work.items()}, 2 * CHAINS * v.LANES * rounds
