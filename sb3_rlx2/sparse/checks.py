"""Checks of arguments: each returns the value, or raises an error that names argument, value and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, TypeVar

CallableT = TypeVar("CallableT", bound=Callable[..., Any])


def check_count(value: Any, name: str, least: int) -> int:
    """A whole number of at least ``least``.

    :param value: the argument's value
    :param name: the argument's name
    :param least: the smallest value that is allowed
    :raises ValueError: if it is none
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed: it must be a whole number >= {least}")
    return int(value)


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
