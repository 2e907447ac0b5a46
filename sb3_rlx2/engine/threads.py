"""Threads of one compiled call: they are started, meet at barriers and are gone when the call returns.

All of that happens in compiled code. Python's main thread looks for Ctrl-C between bytecodes only, so no exception can
leave while a thread still works, and there is no pool whose threads a ``fork`` would lose.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.vectors import BYTE, INT32, INT64, Builder, Value, int64, intrinsic, pointer

_SPINS_BEFORE_YIELD = 4000
# Three int64 that the threads of a call share: how many they are (0: not known yet), how many helpers have their
# number, how many helpers have returned
_THREADS, _NUMBERED, _RETURNED = 0, 8, 16
_UNSIGNED_LONG = ir.IntType(8 * ctypes.sizeof(ctypes.c_ulong))
_ENTRY = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])


@intrinsic(INT64, INT64)
def _add_one(b: Builder, counter: Value) -> Value:
    """Add one to a counter that threads share; return what it was."""
    return b.atomic_rmw("add", pointer(b, counter, INT64), int64(1), "acq_rel")


@intrinsic(INT64, INT64)
def _read(b: Builder, counter: Value) -> Value:
    """A counter that threads share."""
    return b.load_atomic(pointer(b, counter, INT64), "acquire", 8)


@intrinsic(None, INT64, INT64)
def _write(b: Builder, counter: Value, value: Value) -> None:
    """Set a counter that threads share."""
    b.store_atomic(value, pointer(b, counter, INT64), "release", 8)


@intrinsic(None)
def _yield_core(b: Builder) -> None:
    """Let another thread have this core; on Windows go on spinning."""
    if sys.platform != "win32":
        b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(INT32, []), "sched_yield"), [])


@compiled
def _wait_until(counter: int, least: int) -> None:
    """Return when a counter has reached a value."""
    spins: Any = 0
    while _read(counter) < least:
        spins += 1
        # The core may be needed by the very thread that is waited for
        if spins > _SPINS_BEFORE_YIELD:
            _yield_core()


@compiled
def wait_for_all(counter: int, passed: int, threads: int) -> int:
    """Return when all threads have called this as often as this thread.

    :param counter: address of an int64, 0 at the beginning of the call
    :param passed: number of barriers that this thread has passed
    :param threads: number of threads
    :return: passed + 1
    """
    passed += 1
    if threads > 1:
        _add_one(counter)
        _wait_until(counter, passed * threads)
    return passed


@compiled
def _number_of_helper(shared: int) -> int:
    """A helper's own number, 1, 2, …, once it is known how many threads there are."""
    _wait_until(shared + _THREADS, 1)
    return int(_add_one(shared + _NUMBERED) + 1)


@compiled
def _number_of_threads(shared: int) -> int:
    return int(_read(shared + _THREADS))


@compiled
def _begin(shared: int, threads: int) -> None:
    """Let the helpers begin."""
    _write(shared + _THREADS, threads)


@compiled
def _end_helper(shared: int) -> None:
    """The last thing that a helper does: from here on its caller's memory may be gone."""
    _add_one(shared + _RETURNED)


@compiled
def _wait_for_helpers(shared: int, threads: int) -> None:
    _wait_until(shared + _RETURNED, threads - 1)


def _on_threads(typing_context: Any, function: Any, arguments: Any, threads: Any) -> Any:
    """Call ``function(*arguments, thread, threads)`` in several threads at once, and return when all have returned.

    Where the system does not give as many threads as asked for, there are fewer. For use in compiled functions.

    :param function: a compiled function that returns an int64
    :param arguments: a tuple of its arguments but the last two, which are the thread's number and that of threads
    :param threads: number of threads, the calling one (``thread=0``) included
    :return: what the calling thread's call returned
    """
    kinds = (*arguments.types, types.int64, types.int64)
    typing_context.resolve_function_type(function, kinds, {})

    def codegen(context: Any, builder: Builder, _: Any, values: Sequence[Value]) -> Value:
        def call(b: Builder, callee: Any, kinds: Sequence[Any], values: Sequence[Value]) -> Value:
            """Call a compiled function. It cannot raise: there is nobody to whom a helper could."""
            callee.compile(tuple(kinds))
            compiled_code = callee.overloads[tuple(kinds)]
            context.add_linking_libs([compiled_code.library])
            declared = context.declare_function(b.module, compiled_code.fndesc)
            return context.call_conv.call_function(b, declared, compiled_code.fndesc.restype, kinds, values)[1]

        def call_function(b: Builder, block: Value, thread: Value, threads: Value) -> Value:
            given = cgutils.unpack_tuple(b, b.load(cgutils.gep_inbounds(b, block, 0, 1)), len(arguments.types))
            return call(b, function.dispatcher, kinds, [*given, thread, threads])

        # What the threads share lies in the caller's frame: the counters above and the arguments
        kind = ir.LiteralStructType([ir.ArrayType(INT64, 3), values[1].type])
        block = cgutils.alloca_once(builder, kind)
        b = builder
        b.store(ir.Constant(kind.elements[0], [0, 0, 0]), cgutils.gep_inbounds(b, block, 0, 0))
        b.store(values[1], cgutils.gep_inbounds(b, block, 0, 1))
        shared, one = b.ptrtoint(block, INT64), [types.int64]

        entry = ir.Function(b.module, _ENTRY, f"{b.function.name}.helper")
        entry.linkage = "internal"
        h = ir.IRBuilder(entry.append_basic_block())
        number = call(h, _number_of_helper, one, [h.ptrtoint(entry.args[0], INT64)])
        threads = call(h, _number_of_threads, one, [h.ptrtoint(entry.args[0], INT64)])
        call_function(h, h.bitcast(entry.args[0], block.type), number, threads)
        call(h, _end_helper, one, [h.ptrtoint(entry.args[0], INT64)])
        h.ret_void()

        # CPython's own function needs no GIL, and there is one on every system
        start_type = ir.FunctionType(_UNSIGNED_LONG, [entry.type, _ENTRY.args[0]])
        start = cgutils.get_or_insert_function(b.module, start_type, "PyThread_start_new_thread")
        running = cgutils.alloca_once_value(b, int64(1))
        with cgutils.for_range_slice(b, int64(1), values[2], int64(1)):
            identity = b.call(start, [entry, b.bitcast(block, _ENTRY.args[0])])
            failed = b.icmp_unsigned("==", identity, ir.Constant(_UNSIGNED_LONG, -1))
            b.store(b.add(b.load(running), b.select(failed, int64(0), int64(1))), running)
        threads = b.load(running)
        call(b, _begin, one * 2, [shared, threads])
        result = call_function(b, block, int64(0), threads)
        call(b, _wait_for_helpers, one * 2, [shared, threads])
        return result

    return types.int64(function, arguments, types.int64), codegen


on_threads: Callable[..., Any] = numba_intrinsic(_on_threads)
