"""Whether dicts and lists hold the very objects that they held before, compared in compiled code by Python's C API.

A loop in Python takes four times as long, and it runs before each update. ``id`` is an object's address in CPython, the
only Python for which there is Numba.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from sb3_rlx2.engine.functions import call
from sb3_rlx2.kernels.compiled import compiled_with_gil
from sb3_rlx2.kernels.records import INTEGER, Record
from sb3_rlx2.kernels.vectors import INT64, Builder, Value, intrinsic, load_int64

CHECKS = Record(
    items=INTEGER,  # addresses of dict, key and value, int64 [n_items, 3]
    n_items=INTEGER,
    sizes=INTEGER,  # address of a dict and its number of keys, int64 [n_sizes, 2]
    n_sizes=INTEGER,
    entries=INTEGER,  # address of a list, place and address of what is there, int64 [n_entries, 3]
    n_entries=INTEGER,
    lengths=INTEGER,  # address of a list and its length, int64 [n_lengths, 2]
    n_lengths=INTEGER,
    types=INTEGER,  # addresses of an object and its class, int64 [n_types, 2]
    n_types=INTEGER,
    none=INTEGER,  # address of None
    get_item=INTEGER,  # addresses of PyDict_GetItem and so on
    dict_size=INTEGER,
    get_entry=INTEGER,
    list_size=INTEGER,
    get_type=INTEGER,
    release=INTEGER,
)
checks_at = CHECKS.at
FUNCTIONS = {
    "get_item": "PyDict_GetItem",
    "dict_size": "PyDict_Size",
    "get_entry": "PyList_GetItem",
    "list_size": "PyList_Size",
    "get_type": "PyObject_Type",
    "release": "Py_DecRef",
}


@intrinsic(None, INT64, INT64)
def _release(b: Builder, function: Value, reference: Value) -> None:
    """Give a reference back."""
    call(b, ir.VoidType(), function, reference)


@intrinsic(INT64, INT64, INT64)
def _call_with_one(b: Builder, function: Value, first: Value) -> Value:
    """Call a C function by its address."""
    return call(b, INT64, function, first)


@intrinsic(INT64, INT64, INT64, INT64)
def _call_with_two(b: Builder, function: Value, first: Value, second: Value) -> Value:
    """Call a C function by its address."""
    return call(b, INT64, function, first, second)


@compiled_with_gil
def _are_as_before(address: int) -> bool:
    checks = checks_at(address)
    sizes, items, lengths, entries, types = checks.sizes, checks.items, checks.lengths, checks.entries, checks.types
    for i in range(checks.n_sizes):
        if _call_with_one(checks.dict_size, load_int64(sizes, 2 * i)) != load_int64(sizes, 2 * i + 1):
            return False
    for i in range(checks.n_items):
        found = _call_with_two(checks.get_item, load_int64(items, 3 * i), load_int64(items, 3 * i + 1))
        if (checks.none if found == 0 else found) != load_int64(items, 3 * i + 2):
            return False
    for i in range(checks.n_lengths):
        if _call_with_one(checks.list_size, load_int64(lengths, 2 * i)) != load_int64(lengths, 2 * i + 1):
            return False
    for i in range(checks.n_entries):
        found = _call_with_two(checks.get_entry, load_int64(entries, 3 * i), load_int64(entries, 3 * i + 1))
        if found != load_int64(entries, 3 * i + 2):
            return False
    for i in range(checks.n_types):
        found = _call_with_one(checks.get_type, load_int64(types, 2 * i))
        _release(checks.release, found)
        if found != load_int64(types, 2 * i + 1):
            return False
    return True


@cache
def _functions() -> dict[str, int]:
    """Addresses of the functions of Python's C API."""
    return {
        name: cast(int, ctypes.cast(getattr(ctypes.pythonapi, symbol), ctypes.c_void_p).value)
        for name, symbol in FUNCTIONS.items()
    }


class SameObjects:
    """Tells whether objects still hold what they are given to hold here. It keeps all of them alive.

    :param items: dicts, each with a key, a ``str``, and its value; None: none, or None
    :param sizes: dicts with their numbers of keys
    :param lists: lists with their entries
    :param types: objects with their classes
    """

    def __init__(
        self,
        items: Sequence[tuple[dict[Any, Any], str, Any]],
        sizes: Sequence[tuple[dict[Any, Any], int]],
        lists: Sequence[tuple[list[Any], tuple[Any, ...]]],
        types: Sequence[tuple[object, type]],
    ) -> None:
        self._objects = (tuple(items), tuple(sizes), tuple(lists), tuple(types))
        self._tables = {
            "items": _table(3, [(id(mapping), id(key), id(value)) for mapping, key, value in items]),
            "sizes": _table(2, [(id(mapping), size) for mapping, size in sizes]),
            "lengths": _table(2, [(id(held), len(entries)) for held, entries in lists]),
            "entries": _table(3, [(id(held), i, id(x)) for held, entries in lists for i, x in enumerate(entries)]),
            "types": _table(2, [(id(value), id(kind)) for value, kind in types]),
        }
        self._checks = CHECKS.zeros(1)
        for name, table in self._tables.items():
            self._checks[name], self._checks[f"n_{name}"] = table.ctypes.data, len(table)
        self._checks["none"] = id(None)
        for name, function in _functions().items():
            self._checks[name] = function
        self._address = int(self._checks.ctypes.data)

    def __reduce__(self) -> str:
        raise TypeError("what holds addresses cannot be copied or saved")

    @property
    def hold(self) -> bool:
        """Whether all is still as it was."""
        return _are_as_before(self._address)


def _table(width: int, rows: list[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)
