"""Files of replay buffers: the rows that are held, in Stable-Baselines3's pickle or without pickle."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_rlx2.common.buffers import BUFFER_FORMAT, DynamicReplayBuffer, held_ranges
from sb3_rlx2.common.saving.buffer_checks import KNOWN, counter_problem
from sb3_rlx2.common.saving.model_files import MOST_OF_HER, check_kind
from sb3_rlx2.errors import ModelFileError

KIND = "replay buffer"
FORMAT = BUFFER_FORMAT
SUFFIX = ".pkl"

ARRAYS = (
    *("observations", "next_observations", "actions", "noise_free_actions", "rewards", "dones", "timeouts"),
    *("ep_start", "ep_length"),  # of a HerReplayBuffer
)
"""Attributes that have a row for each of the buffer's, as arrays or dicts of arrays."""

Array = npt.NDArray[Any]
Range = tuple[int, int]


def write_pickle(file: Any, buffer: ReplayBuffer) -> None:
    """Pickle a replay buffer, without the rows that hold nothing. Unpickling needs NumPy and the buffer's class alone.

    :param file: the file, open for writing
    :param buffer: the buffer; one of a class that is not known here is pickled as it is
    """
    _Pickler(file, buffer).dump(buffer)


class _Pickler(pickle.Pickler):
    """Writes the arrays of a buffer as the rows that it holds, and zeros that are made when they are read."""

    def __init__(self, file: Any, buffer: ReplayBuffer) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        arrays: list[Array] = []
        if _is_known(type(buffer)):
            _mapped(_row_arrays(buffer), arrays.append)
        self._arrays = {id(array): array for array in arrays}
        self._ranges = held_ranges(buffer)
        self._n_rows = buffer.buffer_size

    def reducer_override(self, value: Any) -> Any:
        if id(value) not in self._arrays or self._ranges == [(0, self._n_rows)]:
            return NotImplemented
        parts: list[Any] = []
        last = 0
        for first, end in (*self._ranges, (self._n_rows, self._n_rows)):
            parts += [_Zeros((first - last, *value.shape[1:]), value.dtype), value[first:end]]
            last = end
        return np.concatenate, (parts,)


class _Zeros:
    """Unpickled as an array of zeros."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return np.zeros, self._arguments


def buffer_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """What a file without pickle holds of a replay buffer.

    :param buffer: the buffer
    :raises ValueError: if its class may store its transitions in another way than those that are known here
    """
    if not _is_known(type(buffer)):
        raise ValueError(
            f"a {type(buffer).__name__} is not saved without pickle: known are {', '.join(c.__name__ for c in KNOWN)} "
            "and classes derived from DynamicReplayBuffer. Save it as .pkl"
        )
    ranges = held_ranges(buffer)
    arrays = _row_arrays(buffer)
    left_out = (*arrays, "device", "infos", "buffer_format")
    # Before Python 3.11 not every object has a __getstate__
    attributes: dict[str, Any] = cast(Any, buffer).__getstate__() if hasattr(buffer, "__getstate__") else vars(buffer)
    state = {
        "kind": KIND,
        "format": FORMAT,
        "class": type(buffer),
        "ranges": ranges,
        "arrays": _mapped(arrays, lambda array: [array[first:end] for first, end in ranges]),
        "attributes": {name: value for name, value in attributes.items() if name not in left_out},
    }
    if isinstance(buffer, HerReplayBuffer) and buffer.copy_info_dict:
        state["infos"] = [buffer.infos[first:end].tolist() for first, end in ranges]
    return state


def buffer_of_state(state: Any) -> ReplayBuffer:
    """The replay buffer that a file without pickle holds, on the CPU.

    :param state: as ``buffer_state`` returns it
    :raises ModelFileError: if it is of something else, of a newer format, or no such buffer can be
    """
    check_kind(state, KIND, FORMAT)
    cls, attributes, ranges, arrays = (state[name] for name in ("class", "attributes", "ranges", "arrays"))
    if not (isinstance(cls, type) and issubclass(cls, ReplayBuffer) and _is_known(cls)):
        raise ModelFileError(f"it is of the class {cls!r}, which is no replay buffer that can be read without pickle")
    for name in attributes:
        # A method of this name would be hidden
        if name in ARRAYS or name.startswith("__") or callable(getattr(cls, name, None)):
            raise ModelFileError(f"it has a value for {name}, which is no setting of a {cls.__name__}")
    buffer = cls.__new__(cls)
    attributes["device"] = th.device("cpu")
    vars(buffer).update(attributes)
    problem = counter_problem(buffer)
    if problem is not None:
        raise ModelFileError(f"the replay buffer {problem}")
    if ranges != held_ranges(buffer):
        raise ModelFileError(f"it has the rows {ranges}, expected {held_ranges(buffer)}")
    if isinstance(buffer, HerReplayBuffer) and buffer.buffer_size * buffer.n_envs > MOST_OF_HER:
        raise ModelFileError(f"it is a HerReplayBuffer for more than {MOST_OF_HER} transitions")
    _check_memory(buffer.buffer_size, [*_leaves(arrays)])
    vars(buffer).update(_mapped(arrays, lambda parts: _whole(parts, ranges, buffer.buffer_size)))
    if isinstance(buffer, HerReplayBuffer):
        buffer.env = None
        buffer.infos = np.array([[{} for _ in range(buffer.n_envs)] for _ in range(buffer.buffer_size)])
        for (first, end), infos in zip(ranges, state.get("infos", ()), strict=False):
            buffer.infos[first:end] = infos
    return buffer


def _is_known(cls: type[ReplayBuffer]) -> bool:
    return cls in KNOWN or issubclass(cls, DynamicReplayBuffer)


def _row_arrays(buffer: ReplayBuffer) -> dict[str, Any]:
    return {name: vars(buffer)[name] for name in ARRAYS if name in vars(buffer)}


def _mapped(arrays: dict[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        name: _mapped(value, function) if isinstance(value, dict) else function(value) for name, value in arrays.items()
    }


def _leaves(arrays: dict[str, Any]) -> Iterator[Any]:
    for value in arrays.values():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield value


def _check_memory(n_rows: int, arrays: list[Any]) -> None:
    """A small file may be of a large buffer, whose empty rows take memory when they are used; but not of any size."""
    row = 0
    for parts in arrays:
        if not (isinstance(parts, list) and parts and all(isinstance(part, np.ndarray) for part in parts)):
            raise ModelFileError("it has something else than arrays of rows")
        row += math.prod(parts[0].shape[1:]) * parts[0].dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if n_rows * row > memory:
        raise ModelFileError(f"its {n_rows} rows of {row} bytes are more than the memory of this machine")


def _whole(parts: list[Array], ranges: list[Range], n_rows: int) -> Array:
    shape, dtype = parts[0].shape[1:], parts[0].dtype
    whole = np.zeros((n_rows, *shape), dtype)
    for part, (first, end) in zip(parts, ranges, strict=True):
        if part.shape != (end - first, *shape) or part.dtype != dtype:
            raise ModelFileError(
                f"it has an array {part.dtype}{list(part.shape)}, expected {dtype} of {end - first} rows"
            )
        whole[first:end] = part
    return whole
