"""Whether dicts and lists hold the very objects that they held before, compared in compiled code by Python's C API.

A loop in Python takes four times as long, and it runs before each update. ``id`` is an object's address in CPython, the
only Python for which there is Numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_rlx2.engine.python_calls import (
    HoldsAddresses,
    call_for_effect,
    call_with_one,
    call_with_two,
    int_with_four,
    python_function,
)
from sb3_rlx2.kernels.compiled import compiled_with_gil
from sb3_rlx2.kernels.records import INTEGER, Record
from sb3_rlx2.kernels.vectors import load_int64, store_int64

CHECKS = Record(
    items=INTEGER,  # addresses of dict, key and value, int64 [n_items, 3]
    n_items=INTEGER,
    sizes=INTEGER,  # address of a dict and its number of keys, int64 [n_sizes, 2]
    n_sizes=INTEGER,
    walks=INTEGER,  # address of a dict, first and end of its contents, int64 [n_walks, 3]
    n_walks=INTEGER,
    contents=INTEGER,  # addresses of key and value, in the dict's order; value 0: any, int64 [n_contents, 2]
    n_contents=INTEGER,
    entries=INTEGER,  # address of a list, place and address of what is there, int64 [n_entries, 3]
    n_entries=INTEGER,
    lengths=INTEGER,  # address of a list and its length, int64 [n_lengths, 2]
    n_lengths=INTEGER,
    types=INTEGER,  # addresses of an object and its class, int64 [n_types, 2]
    n_types=INTEGER,
    place=INTEGER,  # address of room for where a walk is, and the key and the value there, int64 [3]
    none=INTEGER,  # address of None
    get_item=INTEGER,  # addresses of PyDict_GetItem and so on
    dict_size=INTEGER,
    next_item=INTEGER,
    get_entry=INTEGER,
    list_size=INTEGER,
    get_type=INTEGER,
    release=INTEGER,
)
checks_at = CHECKS.at
FUNCTIONS = {
    "get_item": "PyDict_GetItem",
    "dict_size": "PyDict_Size",
    "next_item": "PyDict_Next",
    "get_entry": "PyList_GetItem",
    "list_size": "PyList_Size",
    "get_type": "PyObject_Type",
    "release": "Py_DecRef",
}
WORD = 8


@compiled_with_gil
def _holds(address: int, held: int, first: int, end: int) -> bool:
    """Whether a dict has the contents first .. end, and no more, in this order."""
    checks = checks_at(address)
    place = checks.place
    key, value = place + WORD, place + 2 * WORD
    store_int64(place, 0, 0)
    for i in range(first, end):
        if int_with_four(checks.next_item, held, place, key, value) == 0:
            return False
        expected = load_int64(checks.contents, 2 * i + 1)
        if load_int64(key, 0) != load_int64(checks.contents, 2 * i):
            return False
        if expected != 0 and load_int64(value, 0) != expected:
            return False
    return bool(int_with_four(checks.next_item, held, place, key, value) == 0)


@compiled_with_gil
def _are_as_before(address: int) -> bool:
    checks = checks_at(address)
    sizes, items, lengths, entries, types = checks.sizes, checks.items, checks.lengths, checks.entries, checks.types
    for i in range(checks.n_sizes):
        if call_with_one(checks.dict_size, load_int64(sizes, 2 * i)) != load_int64(sizes, 2 * i + 1):
            return False
    for i in range(checks.n_items):
        found = call_with_two(checks.get_item, load_int64(items, 3 * i), load_int64(items, 3 * i + 1))
        if (checks.none if found == 0 else found) != load_int64(items, 3 * i + 2):
            return False
    for i in range(checks.n_walks):
        walks = checks.walks
        if not _holds(address, load_int64(walks, 3 * i), load_int64(walks, 3 * i + 1), load_int64(walks, 3 * i + 2)):
            return False
    for i in range(checks.n_lengths):
        if call_with_one(checks.list_size, load_int64(lengths, 2 * i)) != load_int64(lengths, 2 * i + 1):
            return False
    for i in range(checks.n_entries):
        found = call_with_two(checks.get_entry, load_int64(entries, 3 * i), load_int64(entries, 3 * i + 1))
        if found != load_int64(entries, 3 * i + 2):
            return False
    for i in range(checks.n_types):
        found = call_with_one(checks.get_type, load_int64(types, 2 * i))
        call_for_effect(checks.release, found)
        if found != load_int64(types, 2 * i + 1):
            return False
    return True


class SameObjects(HoldsAddresses):
    """Tells whether objects still hold what they are given to hold here. It keeps all of them alive.

    :param items: dicts, each with a key, a ``str``, and its value; None: none, or None
    :param sizes: dicts with their numbers of keys
    :param walks: dicts with all keys and the values of these, or None instead of them, in the order of ``dict`` itself
    :param lists: lists with their entries
    :param types: objects with their classes
    """

    def __init__(
        self,
        items: Sequence[tuple[dict[Any, Any], str, Any]],
        sizes: Sequence[tuple[dict[Any, Any], int]],
        walks: Sequence[tuple[dict[Any, Any], tuple[Any, ...], tuple[Any, ...] | None]],
        lists: Sequence[tuple[list[Any], tuple[Any, ...]]],
        types: Sequence[tuple[object, type]],
    ) -> None:
        self._objects = (tuple(items), tuple(sizes), tuple(walks), tuple(lists), tuple(types))
        ends = np.cumsum([0, *(len(keys) for _, keys, _ in walks)]).tolist()
        contents = [
            (id(key), 0 if values is None else id(values[i])) for _, keys, values in walks for i, key in enumerate(keys)
        ]
        self._tables = {
            "items": _table(3, [(id(mapping), id(key), id(value)) for mapping, key, value in items]),
            "sizes": _table(2, [(id(mapping), size) for mapping, size in sizes]),
            "walks": _table(3, [(id(walks[i][0]), ends[i], ends[i + 1]) for i in range(len(walks))]),
            "contents": _table(2, contents),
            "lengths": _table(2, [(id(held), len(entries)) for held, entries in lists]),
            "entries": _table(3, [(id(held), i, id(x)) for held, entries in lists for i, x in enumerate(entries)]),
            "types": _table(2, [(id(value), id(kind)) for value, kind in types]),
        }
        self._checks, self._place = CHECKS.zeros(1), np.zeros(3, np.int64)
        for name, table in self._tables.items():
            self._checks[name], self._checks[f"n_{name}"] = table.ctypes.data, len(table)
        self._checks["none"], self._checks["place"] = id(None), self._place.ctypes.data
        for name, symbol in FUNCTIONS.items():
            self._checks[name] = python_function(symbol)
        self._address = int(self._checks.ctypes.data)

    def hold(self) -> bool:
        """Whether all is still as it was."""
        return _are_as_before(self._address)


def _table(width: int, rows: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)
