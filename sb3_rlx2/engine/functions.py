"""Compiled functions that the update loop calls by address, so that one loop serves every algorithm.

Arguments are integers only (addresses of records and of memory, numbers). What they mean: see ``loop``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import types
from numba.core.ccallback import CFunc

from sb3_rlx2.kernels.compiled import cached
from sb3_rlx2.kernels.vectors import INT64, Builder, Value, intrinsic

TILE_ARGUMENTS = 6
STEP_ARGUMENTS = 3


def tile_function(function: Callable[[int, int, int, int, int, int], None]) -> CFunc:
    """Compile a function of one tile of a batch: ``(task, update, tile, memory, gradients, sums)``."""
    return _callable_by_address(function, TILE_ARGUMENTS, types.void)


def step_function(function: Callable[[int, int, int], int]) -> CFunc:
    """Compile a function that runs before or after a phase: ``(task, update, thread)``.

    It returns the column of the loss with which the update diverges, or a negative number.
    """
    return _callable_by_address(function, STEP_ARGUMENTS, types.int64)


def _callable_by_address(function: Callable[..., Any], count: int, result: Any) -> CFunc:
    signature = ((types.int64,) * count, result)
    compiled: CFunc = cached(CFunc(function, signature, locals={}, options={"error_model": "numpy"}), function)
    return compiled


def address_of(function: CFunc | None) -> int:
    """Where a function's machine code is, compiled if need be; 0 for None."""
    if function is None:
        return 0
    if not hasattr(function, "_wrapper_address") or function._wrapper_address is None:
        function.compile()
    return cast(int, function.address)


def call(b: Builder, result: Any, address: Value, *arguments: Value) -> Value:
    """Emit a call of a C function by its address; its arguments are int64."""
    kind = ir.FunctionType(result, [INT64] * len(arguments))
    return b.call(b.inttoptr(address, kind.as_pointer()), arguments)


@intrinsic(None, *[INT64] * (1 + TILE_ARGUMENTS))
def call_tile(
    b: Builder, function: Value, task: Value, update: Value, tile: Value, memory: Value, gradients: Value, sums: Value
) -> None:
    """Call a tile function by its address."""
    call(b, ir.VoidType(), function, task, update, tile, memory, gradients, sums)


@intrinsic(INT64, *[INT64] * (1 + STEP_ARGUMENTS))
def call_step(b: Builder, function: Value, task: Value, update: Value, thread: Value) -> Value:
    """Call a step function by its address."""
    return call(b, INT64, function, task, update, thread)
