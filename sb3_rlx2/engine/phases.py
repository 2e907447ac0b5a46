"""What the compiled updates of all algorithms share: shards, losses, optimizer steps, and how an update ends.

An update is made wholly or not at all. Whatever float32 cannot hold is a divergence: a loss, and a parameter or moment
after a step of Adam. Steps that the same update has taken before it are taken back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.adam import adam, count_steps, take_back
from sb3_rlx2.engine.threads import wait_for_all
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import fill_zero, load_double, load_int64, store_double, store_int64

Table = Any

MAX_SHARDS = 8
COEFFICIENT_SLOT = 2 * MAX_SHARDS
"""Where, behind the sums, the entropy coefficient of the current update is kept, and behind it its gradient."""
SLOTS = COEFFICIENT_SLOT + 2
LARGEST = float(np.finfo(np.float32).max)
LARGEST_ROOT = math.sqrt(LARGEST)


@compiled
def first_tile(task: Table, shard: int) -> int:
    """Number of a shard's first tile; that of the next shard is where it ends."""
    tiles = (task[t.BATCH] + TILE - 1) // TILE
    return int(tiles * shard // task[t.SHARDS])


@compiled
def begin_shard(task: Table, shard: int, count: int) -> int:
    """Set ``count`` gradients of a shard to zero.

    :return: address of its gradients
    """
    gradients = int(task[t.GRADIENTS] + shard * task[t.SHARD_BYTES])
    fill_zero(gradients, count)
    return gradients


@compiled
def end_shard(task: Table, shard: int, column: int, value: float) -> None:
    """Leave a shard's share of a sum where all threads find it.

    :param task: integers of the task
    :param shard: number of the shard
    :param column: 0 or 1, which sum
    :param value: the share
    """
    store_double(task[t.LOSSES], column * MAX_SHARDS + shard, value)


@compiled
def total(task: Table, column: int) -> float:
    """A sum over all shards, once all of them are done; see ``end_shard``."""
    value = 0.0
    for shard in range(task[t.SHARDS]):
        value += load_double(task[t.LOSSES], column * MAX_SHARDS + shard)
    return value


@compiled
def in_float32(loss: float) -> float:
    """A loss, infinite where float32 cannot hold it; NaN stays NaN."""
    return math.copysign(math.inf, loss) if abs(loss) > LARGEST else loss


@compiled
def give_up(
    parameters: Table, task: Table, results: Table, update: int, loss: int, first: int, last: int, thread: int
) -> int:
    """End an update that diverges, with everything as it was before it.

    A part of an update (see ``PHASES``) leaves that to the caller.

    :param parameters: table of parameters, see ``adam``
    :param task: integers of the task
    :param results: [updates, RESULTS]
    :param update: number of the update in this call
    :param loss: which loss is to blame, a column of the results
    :param first: first parameter that has had a step in this update
    :param last: end of them
    :param thread: number of this thread
    :return: ``update``
    """
    if thread == 0:
        results[update, t.DIVERGED] = loss
        if task[t.PHASES] == t.ALL_PHASES:
            take_back(parameters, first, last)
    return update


@compiled
def complete(task: Table, thread: int) -> None:
    """Count an update that has been made wholly.

    :param task: integers of the task
    :param thread: number of this thread
    """
    if thread == 0 and task[t.PHASES] & t.TARGETS:
        store_int64(task[t.SHARED], t.COMPLETED, load_int64(task[t.SHARED], t.COMPLETED) + 1)


@compiled
def is_finite(task: Table) -> bool:
    """Whether all that the last step of Adam has written is finite; all threads must have passed its barrier."""
    return bool(load_int64(task[t.SHARED], t.IS_NOT_FINITE) == 0)


@compiled
def optimize(
    parameters: Table,
    task: Table,
    floats: Table,
    first: int,
    last: int,
    rate: int,
    passed: int,
    thread: int,
    threads: int,
) -> int:
    """An Adam step for some parameters: this thread's share, and then a barrier.

    :param parameters: table of parameters, see ``adam``
    :param task: integers of the task
    :param floats: floats of the task
    :param first: first parameter
    :param last: end of parameters
    :param rate: where the optimizer's settings begin in ``floats``
    :param passed: number of barriers that this thread has passed
    :param thread: number of this thread
    :param threads: number of threads
    :return: number of barriers that it has passed then
    """
    is_finite = adam(
        parameters,
        first,
        last,
        task[t.GRADIENTS],
        task[t.SHARDS],
        task[t.SHARD_BYTES],
        floats[rate],
        floats[rate + 1],
        floats[rate + 2],
        floats[rate + 3],
        thread,
        threads,
    )
    if not is_finite:
        store_int64(task[t.SHARED], t.IS_NOT_FINITE, 1)
    passed = wait_for_all(task[t.SHARED], passed, threads)
    if thread == 0:  # all have read the counters
        count_steps(parameters, first, last)
    return passed
