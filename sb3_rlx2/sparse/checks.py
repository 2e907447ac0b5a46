"""Checks of arguments: each returns the value, or raises an error that names argument, value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeVar

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

MOST = 2**53
"""Whole numbers above it are not exact as a float, and counts are divided by one another."""


def check_count(value: Any, name: str, least: int) -> int:
    """A whole number of at least ``least`` and at most 2^53.

    :param value: the argument's value
    :param name: the argument's name
    :param least: the smallest value that is allowed
    :raises ValueError: if it is none
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed: it must be a whole number >= {least}")
    if int(value) > MOST:
        raise ValueError(f"{name}={value!r} is not allowed: it must be at most 2**53")
    return int(value)


def check_number(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A number, not NaN, from ``least`` to ``most``.

    :param value: the argument's value
    :param name: the argument's name
    :param least: the smallest value that is allowed; default: any finite one
    :param most: the largest value that is allowed; default: any finite one
    :raises ValueError: if it is none
    """
    try:
        number = float(value) if _is_number(value) else math.nan
    except OverflowError:  # a whole number that no float can hold
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most):
        bounds = {
            (False, False): "a finite number",
            (True, False): f"a finite number >= {least:g}",
            (False, True): f"a finite number <= {most:g}",
            (True, True): f"a number in {least:g} <= {name} <= {most:g}",
        }[math.isfinite(least), math.isfinite(most)]
        raise ValueError(f"{name}={value!r} is not allowed: it must be {bounds}")
    return number


def check_sparsity(value: Any, name: str = "sparsity") -> float:
    """A sparsity, the fraction of a network's weights that are missing: in [0, 1).

    :param value: the argument's value
    :param name: the argument's name
    :raises ValueError: if it is none
    """
    if not (_is_number(value) and 0.0 <= float(value) < 1.0):
        raise ValueError(
            f"{name}={value!r} is not allowed: it is the fraction of weights that are missing, in 0 <= {name} < 1"
        )
    return float(value)


def check_drop_fraction(value: Any) -> float:
    """A fraction of connections that are dropped and regrown: in (0, 1].

    :param value: the argument's value
    :raises ValueError: if it is none
    """
    if not (_is_number(value) and 0.0 < float(value) <= 1.0):
        raise ValueError(f"drop_fraction={value!r} is not allowed: it must be in 0 < drop_fraction <= 1")
    return float(value)


def check_callable(value: CallableT, name: str) -> CallableT:
    """Something to call.

    :param value: the argument's value
    :param name: the argument's name
    :raises ValueError: if it cannot be called
    """
    if not callable(value):
        raise ValueError(f"{name}={value!r} is not allowed: it must be callable")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
