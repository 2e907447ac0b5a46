"""Which transitions make up the batches of some updates: the random numbers that ``np.random.randint`` draws, compiled.

NumPy takes longer to prepare a draw of a few hundred numbers than to make them, and its code is out of the cache again
after each update.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from sb3_rlx2.engine.python_calls import call_with_one, int_with_one
from sb3_rlx2.kernels.compiled import compiled_with_gil

Array = npt.NDArray[Any]

LARGEST_UINT32 = 2**32 - 1


class Samples(NamedTuple):
    """How the transitions that were drawn are read.

    :param n_steps: number of rewards in the target
    :param newest: row of the newest transition
    """

    n_steps: int
    newest: int


@compiled_with_gil
def _fill(next_uint32: int, next_uint64: int, state: int, highest: int, numbers: Array) -> None:
    """Numbers 0 .. highest, each from as many tries as it takes to hit the range, as in ``RandomState.randint``."""
    if highest == 0:
        numbers[:] = 0
        return
    mask = highest
    for shift in (1, 2, 4, 8, 16, 32):
        mask |= mask >> shift
    for i in range(len(numbers)):
        number = highest + 1
        while number > highest:
            if highest <= LARGEST_UINT32:
                number = int_with_one(next_uint32, state) & mask
            else:
                number = call_with_one(next_uint64, state) & mask
        numbers[i] = number


@compiled_with_gil
def _draw(
    next_uint32: int, next_uint64: int, state: int, held: int, n_envs: int, oldest: int, n_rows: int, drawn: Array
) -> None:
    for update in range(drawn.shape[1]):
        rows = drawn[0, update]
        _fill(next_uint32, next_uint64, state, held - 1, rows)
        _fill(next_uint32, next_uint64, state, n_envs - 1, drawn[1, update])
        if oldest > 0:
            for i in range(len(rows)):
                rows[i] = (rows[i] + oldest) % n_rows


@lru_cache(maxsize=1)
def _addresses(generator: np.random.BitGenerator) -> tuple[int, int, int]:
    """Addresses of a bit generator's functions for 32 and for 64 bits, and of its state. The generator stays alive."""
    interface = cast(Any, generator).ctypes
    functions = [
        ctypes.cast(function, ctypes.c_void_p).value for function in (interface.next_uint32, interface.next_uint64)
    ]
    return cast(int, functions[0]), cast(int, functions[1]), int(interface.state_address)


def draw_samples(held: int, n_envs: int, oldest: int, n_rows: int, drawn: Array) -> None:
    """Draw rows and environments with NumPy's global generator, update by update, as SB3's replay buffer does.

    :param held: number of rows to draw from
    :param n_envs: number of environments
    :param oldest: row that the number 0 stands for
    :param n_rows: rows of the replay buffer, after which the first one comes again
    :param drawn: gets rows and environments, [2, updates, batch] int64
    :raises ValueError: if there are no rows
    """
    if held < 1:
        raise ValueError(f"held={held} rows: there are no transitions to draw from")
    generator = cast(Any, np.random).mtrand._rand._bit_generator  # another one after np.random.set_bit_generator
    with generator.lock:
        _draw(*_addresses(generator), held, n_envs, oldest, n_rows, drawn)
