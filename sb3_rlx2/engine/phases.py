"""What the compiled updates of all algorithms share: shards, losses, optimizer steps."""

from __future__ import annotations

from typing import Any

from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.adam import adam, count_steps
from sb3_rlx2.engine.threads import wait_for_all
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import fill_zero, load_double, store_double

Table = Any

MAX_SHARDS = 8
COEFFICIENT_SLOT = 2 * MAX_SHARDS
"""Where, behind the sums, the entropy coefficient of the current update is kept, and behind it its gradient."""
SLOTS = COEFFICIENT_SLOT + 2


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
    adam(
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
    passed = wait_for_all(task[t.BARRIER], passed, threads)
    if thread == 0:  # all have read the counters
        count_steps(parameters, first, last)
    return passed
