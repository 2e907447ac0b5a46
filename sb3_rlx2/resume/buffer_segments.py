"""The rows of a replay buffer in files, each of them written once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state
from sb3_rlx2.resume.plain_data import (
    KNOWN_PACKAGES,
    attributes_of,
    named_with_class,
    other_attributes,
    set_attributes,
)

Array = npt.NDArray[Any]

MERGED_BYTES = 2**22
"""Segments grow to about this size, since a file for the few rows of each checkpoint would be too many files."""

LARGEST_BYTES = 2**25
"""More rows than this go to several files, so that what is forgotten goes bit by bit."""

ROWS = ("observations", "next_observations", "actions", "noise_free_actions", "rewards", "dones", "timeouts")
"""Arrays with a row for each transition, which does not change any more: those of SB3's buffers and ours. A buffer of
one's own may change older rows of what else it has, which is therefore kept whole, as its other attributes are."""

REWRITTEN = ("ep_start", "ep_length")
"""Arrays of a ``HerReplayBuffer`` of which older rows change too."""


OF_EVERY_BUFFER = (gym.Space, th.device, VecEnv, Enum)
"""What replay buffers are told when they are made."""


class Segment(NamedTuple):
    """Consecutive rows. Rows are counted from the first that was ever stored; row r is at r modulo ``buffer_size``.

    :param name: of the file
    :param first: the first row
    :param last: the row after the last one
    """

    name: str
    first: int
    last: int


class BufferSegments:
    """Writes the rows that are new since the last checkpoint.

    :param folder: where files go
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token = uuid.uuid4().hex[:8]
        self._count = 0
        self._arrays: list[int] = []
        self._total = self._steps = 0
        self._segments: list[Segment] = []
        self._newest: list[Array] = []  # a copy of the last row that was written

    def collect(self, buffer: ReplayBuffer, num_timesteps: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copy what is new.

        :param buffer: the replay buffer
        :param num_timesteps: environment steps so far
        :return: plain data for ``restore_buffer``, and the states to write by file name
        """
        rows = row_arrays(buffer)
        total = self._rows_so_far(buffer, num_timesteps, [id(array) for _, array in rows])
        oldest = total - buffer.size()
        segments = [segment for segment in self._segments if segment.last > oldest]
        if not all((self.folder / segment.name).is_file() for segment in segments):
            segments = []  # somebody has removed one
        if segments and not all(map(np.array_equal, self._newest, _row(rows, self._total - 1))):
            segments.pop()  # the end of its episode was marked since
        first = max(oldest, segments[-1].last if segments else 0)
        row_bytes = sum(array.nbytes for _, array in rows) // buffer.buffer_size
        new: dict[str, Any] = {}
        if first < total:
            while (
                segments
                and segments[-1].last - segments[-1].first <= total - first
                and (total - segments[-1].first) * row_bytes <= MERGED_BYTES
            ):
                first = max(segments.pop().first, oldest)
            step = max(LARGEST_BYTES // max(row_bytes, 1), 1)
            for start in range(first, total, step):
                segment = Segment(f"rows-{self._token}-{self._count}.safetensors", start, min(start + step, total))
                self._count += 1
                segments.append(segment)
                new[segment.name] = {"first": segment.first, "last": segment.last, "rows": _copied(rows, segment)}
        self._total, self._steps, self._segments = total, num_timesteps, segments
        self._newest = _row(rows, total - 1)
        whole = {name: vars(buffer)[name].copy() for name in REWRITTEN if name in vars(buffer)}
        if buffer.optimize_memory_usage:  # where the newest transition's next observation is
            whole["next"] = {name: array[buffer.pos].copy() for name, array in rows if name[0] == "observations"}
            whole["next"] = list(whole["next"].values())
        state = {
            "attributes": attributes_of(buffer, {name[0] for name, _ in rows} | set(REWRITTEN)),
            "total": total,
            "oldest": oldest,
            "segments": [tuple(segment) for segment in segments],
            "whole": whole,
        }
        return state, new

    def go_on_from(self, buffer: ReplayBuffer, state: dict[str, Any], num_timesteps: int) -> None:
        """Write only what comes after a checkpoint from now on.

        :param buffer: the replay buffer, restored
        :param state: what ``collect`` returned for it
        :param num_timesteps: environment steps so far
        """
        self._arrays = [id(array) for _, array in row_arrays(buffer)]
        self._total, self._steps = state["total"], num_timesteps
        # The last one is written again: environments that begin new episodes have marked an end in its last row
        self._segments = [Segment(*segment) for segment in state["segments"]][:-1]
        self._newest = _row(row_arrays(buffer), self._total - 1)

    def forget(self) -> None:
        """Write all rows next time."""
        self._arrays, self._segments = [], []

    def _rows_so_far(self, buffer: ReplayBuffer, num_timesteps: int, arrays: list[int]) -> int:
        """Rows that were ever stored; those of another buffer, or one that was emptied, count from its own first."""
        total = self._total + (num_timesteps - self._steps) // buffer.n_envs
        stored = buffer.buffer_size if buffer.full else buffer.pos
        if (
            arrays != self._arrays
            or total < self._total  # environment steps are counted anew
            or total % buffer.buffer_size != buffer.pos
            or min(total, buffer.buffer_size) != stored
        ):
            self._segments = []
            total = buffer.pos + (buffer.buffer_size if buffer.full else 0)
        self._arrays = arrays
        return total


def unsaved_attributes(buffer: object) -> list[str]:
    """Attributes of a replay buffer of one's own that may hold a state, and of which nothing is kept.

    :param buffer: the replay buffer
    :return: such as ``"Prioritized.tree (a SumTree)"``
    """
    if type(buffer).__module__.startswith(KNOWN_PACKAGES):
        return []
    return [
        named_with_class(buffer, name)
        for name in other_attributes(buffer)
        if not isinstance(vars(buffer)[name], OF_EVERY_BUFFER)
    ]


def restore_buffer(buffer: ReplayBuffer, state: dict[str, Any], folder: Path) -> None:
    """Fill a replay buffer with what it held. Its arrays stay the same objects.

    :param buffer: one of the same kind and size
    :param state: what ``collect`` returned
    :param folder: where the files are
    :raises ModelFileError: if one of them is damaged or does not fit
    """
    rows, size = row_arrays(buffer), buffer.buffer_size
    for name, first, last in state["segments"]:
        saved = read_segment(folder, Segment(name, first, last))
        if len(saved) != len(rows):
            raise ModelFileError(f"{folder / name} is of another kind of replay buffer")
        first_held = max(first, state["oldest"])
        for (_, array), values in zip(rows, saved, strict=True):
            if values.dtype != array.dtype or values.shape[1:] != array.shape[1:]:
                raise ModelFileError(f"{folder / name} is of a replay buffer with other arrays")
            array[np.arange(first_held, last) % size] = values[first_held - first :]
    set_attributes(buffer, state["attributes"])
    for name, values in state["whole"].items():
        if name == "next":
            arrays = [array for key, array in rows if key[0] == "observations"]
            for array, row in zip(arrays, values, strict=True):
                array[buffer.pos] = row
        else:
            vars(buffer)[name][...] = values


def read_segment(folder: Path, segment: Segment) -> list[Array]:
    """Read the rows of a segment.

    :param folder: where files are
    :param segment: the segment
    :raises ModelFileError: if the file is missing, damaged, or another
    """
    path = folder / segment.name
    try:
        saved = read_state(path)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: there is no such file") from error
    if (saved["first"], saved["last"]) != (segment.first, segment.last):
        raise ModelFileError(f"{path} has other rows than it should have")
    arrays: list[Array] = saved["rows"]
    return arrays


def row_arrays(buffer: ReplayBuffer) -> list[tuple[tuple[str, ...], Array]]:
    """The arrays of a replay buffer that have a row for each transition, by name, and for a Dict by key.

    :param buffer: the replay buffer
    """
    return list(_row_arrays(buffer))


def _row_arrays(buffer: ReplayBuffer) -> Iterator[tuple[tuple[str, ...], Array]]:
    for name, held in vars(buffer).items():
        for key, array in held.items() if isinstance(held, dict) else [("", held)]:
            has_rows = isinstance(array, np.ndarray) and array.ndim > 1 and len(array) == buffer.buffer_size
            if has_rows and name in ROWS and not array.dtype.hasobject:
                yield (name, key), array


def _row(rows: list[tuple[tuple[str, ...], Array]], number: int) -> list[Array]:
    """Copies of a row of all arrays."""
    return [array[number % len(array)].copy() for _, array in rows]


def _copied(rows: list[tuple[tuple[str, ...], Array]], segment: Segment) -> list[Array]:
    return [_consecutive(array, segment.first, segment.last) for _, array in rows]


def _consecutive(array: Array, first: int, last: int) -> Array:
    """A copy of consecutive rows; after the last one of the array comes its first."""
    start, count = first % len(array), last - first
    head = array[start : start + count]
    return head.copy() if len(head) == count else np.concatenate([head, array[: count - len(head)]])
