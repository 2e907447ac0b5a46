"""Reading objects in a way that notices later when anything that was read has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_rlx2.engine.objects import SameObjects
from sb3_rlx2.engine.tensors import SameTensors

Array = npt.NDArray[Any]
T = TypeVar("T")

_version: Callable[[Any], Any] = attrgetter("_version")
_layout: Callable[[Any], Any] = attrgetter("shape", "strides", "dtype")


def _are_equal(get: Callable[[Any], Any], owners: list[Any], values: list[Any]) -> bool:
    return [*map(get, owners)] == values


class Watch:
    """Reads objects and remembers what it read: a decision that reads through it alone cannot go stale.

    ``holds`` costs some 10 ns for each entry of a dict or a list and 60 ns for each tensor, or 200 with a PyTorch that
    has no DLPack C exchange API. Memory of tensors stays allocated as long as it is watched, so that nothing else can
    come to lie at its address.
    """

    def __init__(self) -> None:
        self._checks: list[Callable[[], bool]] | None = None  # of what has been read so far, where there is any
        # What compiled code compares
        self._items: list[tuple[dict[Any, Any], Any, Any]] = []
        self._types: list[tuple[object, type]] = []
        self._sizes: list[tuple[dict[Any, Any], int]] = []
        self._walks: list[tuple[dict[Any, Any], tuple[Any, ...], tuple[Any, ...] | None]] = []
        self._lists: list[tuple[list[Any], tuple[Any, ...]]] = []
        self._tensors: list[th.Tensor] = []
        self._aliases: list[th.Tensor] = []
        # Lists side by side, which a few calls of ``map`` compare
        self._counted: list[th.Tensor] = []
        self._versions: list[int] = []
        self._arrays: list[Array] = []
        self._layouts: list[Any] = []
        self._getters: dict[tuple[str, ...], tuple[Callable[[Any], Any], list[Any], list[Any]]] = {}
        self._calls: list[tuple[Callable[[], Any], Any]] = []
        self._seen: set[tuple[str, int, Any]] = set()

    @property
    def holds(self) -> bool:
        """Whether everything is still as it was when it was read."""
        if self._checks is None:  # nothing has been read since
            self._checks = list(self._make_checks())
        return all(check() for check in self._checks)

    def _make_checks(self) -> Iterator[Callable[[], bool]]:
        yield SameObjects(self._items, self._sizes, self._walks, self._lists, self._types).hold
        if self._tensors:
            yield self._check_of_tensors()
        if self._counted:
            yield partial(_are_equal, _version, self._counted, self._versions)
        if self._arrays:
            yield partial(_are_equal, _layout, self._arrays, self._layouts)
        for getter in self._getters.values():
            yield partial(_are_equal, *getter)
        if self._calls:
            yield lambda: all(call() is result for call, result in self._calls)

    def _check_of_tensors(self) -> Callable[[], bool]:
        try:
            same = SameTensors(self._tensors, self._aliases)
        except BufferError:
            return self._are_same_tensors
        return same.hold

    def _are_same_tensors(self) -> bool:
        """What ``SameTensors`` tells, by methods of tensors."""
        try:
            return all(map(th.Tensor.is_set_to, self._tensors, self._aliases)) and all(
                tensor.dtype == alias.dtype for tensor, alias in zip(self._tensors, self._aliases, strict=True)
            )
        except RuntimeError:  # on two devices
            return False

    def _is_new(self, kind: str, owner: object, name: Any = None) -> bool:
        key = (kind, id(owner), name)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _add(self, known: list[T], entry: T) -> None:
        """Have something further compared."""
        known.append(entry)
        self._checks = None

    def item(self, mapping: dict[Any, Any], key: Any) -> Any:
        """What a dict, such as an object's ``vars``, has under a key; None if nothing. Watched: that very object.

        :param mapping: the dict
        :param key: the key
        """
        value = mapping.get(key)
        if self._is_new("item", mapping, key):
            self._add(self._items, (mapping, key, value))
        return value

    def items(self, mapping: dict[Any, T]) -> dict[Any, T]:
        """All that a dict has. Watched: its size and those very objects.

        :param mapping: the dict
        """
        if self._is_new("size", mapping):
            self._add(self._sizes, (mapping, len(mapping)))
        return {key: self.item(mapping, key) for key in mapping}

    def keys(self, mapping: dict[Any, Any]) -> tuple[Any, ...]:
        """The keys of a dict, such as one of hooks.

        :param mapping: the dict
        """
        if mapping:
            self._add(self._walks, (mapping, tuple(dict.keys(mapping)), None))
        else:
            self._add(self._sizes, (mapping, 0))
        return tuple(mapping)

    def sequence(self, sequence: list[T] | tuple[T, ...]) -> tuple[T, ...]:
        """The entries of a list or a tuple. Watched: those very objects; a tuple has the same ones for ever.

        :param sequence: the list or the tuple
        """
        entries = tuple(sequence)
        if not isinstance(sequence, tuple):
            self._add(self._lists, (sequence, entries))
        return entries

    def entries(self, mapping: dict[Any, T]) -> dict[Any, T]:
        """All that a dict has whose keys are slow to look up, as tensors are. Watched: those very objects.

        :param mapping: the dict
        """
        self._add(self._walks, (mapping, tuple(dict.keys(mapping)), tuple(dict.values(mapping))))
        return dict(mapping)

    def type_of(self, value: object) -> type:
        """The class of an object.

        :param value: the object
        """
        if self._is_new("type", value):
            self._add(self._types, (value, type(value)))
        return type(value)

    def attributes(self, owner: object, *names: str) -> tuple[Any, ...]:
        """Attributes that are computed, as those of tensors are. Watched: whether they are equal.

        :param owner: the object
        :param names: two or more attributes
        """
        get, owners, values = self._getters.setdefault(names, (attrgetter(*names), [], []))
        self._add(owners, owner)
        values.append(get(owner))
        return tuple(values[-1])

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns. Watched: that very object.

        :param function: the function
        """
        result = function()
        self._add(self._calls, (function, result))
        return result

    def tensor(self, tensor: th.Tensor) -> th.Tensor:
        """A tensor. Watched: its type, device, shape, strides and address, but not its numbers.

        :param tensor: the tensor
        """
        self._add(self._tensors, tensor)
        self._aliases.append(tensor.detach())
        return tensor

    def numbers(self, tensor: th.Tensor) -> th.Tensor:
        """A tensor. Watched: its numbers, as far as PyTorch counts their changes.

        :param tensor: the tensor
        """
        if not tensor.is_inference():
            self._add(self._counted, tensor)
            self._versions.append(tensor._version)
        return tensor

    def array(self, array: Array) -> Array:
        """A NumPy array. Watched: its type, shape and strides, but not its numbers.

        :param array: the array
        """
        assert isinstance(array, np.ndarray)
        if self._is_new("array", array):
            self._add(self._arrays, array)
            self._layouts.append(_layout(array))
        return array
