"""Functions of C that compiled code calls by address while it holds the GIL, such as those of Python's C API."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, cast

from llvmlite import ir

from sb3_rlx2.engine.functions import call
from sb3_rlx2.kernels.vectors import INT32, INT64, Builder, Value, intrinsic


@cache
def python_function(symbol: str) -> int:
    """Address of a function of Python's C API.

    :param symbol: its name
    """
    return cast(int, ctypes.cast(getattr(ctypes.pythonapi, symbol), ctypes.c_void_p).value)


@intrinsic(None, INT64)
def call_with_none(b: Builder, function: Value) -> None:
    """Call ``void function(void)``."""
    call(b, ir.VoidType(), function)


@intrinsic(None, INT64, INT64)
def call_for_effect(b: Builder, function: Value, first: Value) -> None:
    """Call ``void function(word)``."""
    call(b, ir.VoidType(), function, first)


@intrinsic(INT64, INT64, INT64)
def call_with_one(b: Builder, function: Value, first: Value) -> Value:
    """Call ``word function(word)``."""
    return call(b, INT64, function, first)


@intrinsic(INT64, INT64, INT64, INT64)
def call_with_two(b: Builder, function: Value, first: Value, second: Value) -> Value:
    """Call ``word function(word, word)``."""
    return call(b, INT64, function, first, second)


@intrinsic(INT64, INT64, INT64)
def int_with_one(b: Builder, function: Value, first: Value) -> Value:
    """Call ``unsigned int function(word)``."""
    return b.zext(call(b, INT32, function, first), INT64)


@intrinsic(INT64, INT64, INT64, INT64)
def int_with_two(b: Builder, function: Value, first: Value, second: Value) -> Value:
    """Call ``unsigned int function(word, word)``."""
    return b.zext(call(b, INT32, function, first, second), INT64)


@intrinsic(INT64, *[INT64] * 5)
def int_with_four(b: Builder, function: Value, first: Value, second: Value, third: Value, fourth: Value) -> Value:
    """Call ``unsigned int function(word, word, word, word)``."""
    return b.zext(call(b, INT32, function, first, second, third, fourth), INT64)


class HoldsAddresses:
    """What holds addresses of other objects: a copy, or a file, would hold those of objects that may be gone."""

    def __reduce__(self) -> Any:
        raise TypeError("what holds addresses cannot be copied or saved")
