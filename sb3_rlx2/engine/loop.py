"""One call, many gradient updates: the loop that all algorithms share, compiled.

The batch is cut into tiles, and a tile goes through all of a phase before the next one begins, so that its activations
stay in the cache. Gradients are summed over shards, runs of tiles whose number depends on the batch alone: the result
is the same with any number of threads. What happens to a tile is the business of the algorithm's tile functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sb3_rlx2.engine.functions import call_step, call_tile
from sb3_rlx2.engine.operations import network_at, order_weights
from sb3_rlx2.engine.optimizer import adam, count_steps, normalize_units, polyak, take_back
from sb3_rlx2.engine.records import GRADIENT, OPTIMIZER, PHASE, SHARED, STEP, TARGETS, TASK
from sb3_rlx2.engine.threads import on_threads, wait_for_all
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import fill_zero, load_double, load_int64, store_double

Block = Any

MAX_SHARDS, MAX_SUMS = 8, 2
DOUBLE_BYTES = 8

LARGEST = float(np.finfo(np.float32).max)

task_at, phase_at, targets_at, optimizer_at = TASK.at, PHASE.at, TARGETS.at, OPTIMIZER.at
shared_at = SHARED.at
_PHASE_BYTES = PHASE.size


@compiled
def first_tile(task: Block, shard: int) -> int:
    """Number of a shard's first tile; that of the next shard is where it ends."""
    tiles = (task.batch + TILE - 1) // TILE
    return int(tiles * shard // task.shards)


@compiled
def add_to_sum(sums: int, number: int, value: float) -> None:
    """Add to one of a shard's sums.

    :param sums: address of the shard's sums
    :param number: which
    :param value: what to add
    """
    store_double(sums, number, load_double(sums, number) + value)


@compiled
def total(task: Block, number: int) -> float:
    """A sum over all shards, once all of them are done.

    :param task: the task's block
    :param number: which sum
    """
    value = 0.0
    for shard in range(task.shards):
        value += load_double(task.sums, shard * MAX_SUMS + number)
    return value


@compiled
def set_result(task: Block, update: int, column: int, value: float) -> None:
    """Write a number that the caller of the updates gets.

    :param task: the task's block
    :param update: number of the update in this call
    :param column: of the results
    :param value: the number
    """
    store_double(task.results, update * task.n_results + column, value)


@compiled
def _order(phase: Block, network: int, thread: int, threads: int) -> None:
    """Order the weights of all networks through which a phase's gradients go back."""
    for i in range(phase.n_backward_networks):
        address = load_int64(phase.backward_networks, i)
        order_weights(network_at(address), address != network, thread, threads)


@compiled
def _shards(task_address: int, phase: Block, update: int, thread: int, threads: int) -> None:
    """Gradients and sums of this thread's shards."""
    task, network = task_at(task_address), network_at(phase.network)
    memory = task.thread_memory + thread * task.thread_bytes
    for shard in range(task.shards * thread // threads, task.shards * (thread + 1) // threads):
        gradients, sums = task.gradients + shard * task.shard_bytes, task.sums + shard * MAX_SUMS * DOUBLE_BYTES
        fill_zero(gradients, network.n_gradients)
        for number in range(MAX_SUMS):
            store_double(sums, number, 0.0)
        for tile in range(first_tile(task, shard), first_tile(task, shard + 1)):
            call_tile(phase.tile_function, task_address, update, tile, memory, gradients, sums)


@compiled
def in_float32(loss: float) -> float:
    """A loss, infinite where float32 cannot hold it; NaN stays NaN."""
    return math.copysign(math.inf, loss) if abs(loss) > LARGEST else loss


@compiled
def _diverging_loss(task_address: int, phase: Block, update: int, thread: int) -> int:
    """Column of the first loss of a phase that float32 cannot hold; -1 if there is none. Losses become results."""
    task = task_at(task_address)
    for number in range(phase.n_losses):
        loss = in_float32(total(task, number) / task.batch)
        if thread == 0:
            set_result(task, update, phase.first_result + number, loss)
        if not math.isfinite(loss):
            return int(phase.first_result + number)
    return int(call_step(phase.finish, task_address, update, thread)) if phase.finish != 0 else -1


@compiled
def _is_due(task: Block, phase: Block, update: int) -> bool:
    return bool((task.updates_before + update + 1) % phase.period == 0)


@compiled
def _gradients(task_address: int, phase: Block, update: int, passed: int, thread: int, threads: int) -> int:
    """A phase's losses and gradients; returns the number of barriers that this thread has passed then."""
    task = task_at(task_address)
    if thread == 0 and phase.begin != 0:
        call_step(phase.begin, task_address, update, thread)
    _order(phase, phase.network, thread, threads)
    passed = wait_for_all(task.shared, passed, threads)
    _shards(task_address, phase, update, thread, threads)
    return int(wait_for_all(task.shared, passed, threads))


@compiled
def _step(task: Block, phase: Block, passed: int, thread: int, threads: int) -> int:
    """A phase's optimizer step; returns the number of barriers that this thread has passed then."""
    network = network_at(phase.network)
    first, end, optimizer = network.first_parameter, network.end_parameter, optimizer_at(network.optimizer)
    is_finite = adam(
        task.parameters, first, end, optimizer, task.gradients, task.shards, task.shard_bytes, thread, threads
    )
    if not is_finite:
        shared_at(task.shared).is_not_finite = 1
    passed = wait_for_all(task.shared, passed, threads)
    if thread == 0:  # all have read the counters
        count_steps(task.parameters, first, end)
    if normalize_units(task.parameters, first, end, thread, threads):
        passed = wait_for_all(task.shared, passed, threads)
    return int(passed)


@compiled
def _give_up(task: Block, update: int, column: int, stepped: int, thread: int) -> int:
    """End an update that diverges, with everything as it was before it; where parts of it run, the caller does that.

    :param task: the task's block
    :param update: number of the update in this call
    :param column: of the loss to blame
    :param stepped: number of phases whose parameters have had a step in this update, if they were due
    :param thread: number of this thread
    :return: ``update``
    """
    if thread == 0:
        shared_at(task.shared).diverged = column
        for i in range(stepped if task.is_whole else 0):
            phase = phase_at(task.phases + i * _PHASE_BYTES)
            if _is_due(task, phase, update):
                take_back(task.parameters, phase.first_parameter, phase.end_parameter)
    return update


@compiled
def _updates(task_address: int, thread: int, threads: int) -> int:
    """Gradient updates; every thread calls this with the same task. Parameters: as for ``update_loop``."""
    task = task_at(task_address)
    shared, passed = shared_at(task.shared), 0
    if thread == 0:
        shared.threads = threads
    for update in range(task.n_updates):
        for i in range(task.n_phases):
            phase = phase_at(task.phases + i * _PHASE_BYTES)
            if not _is_due(task, phase, update):
                continue
            if phase.parts & GRADIENT:
                passed = _gradients(task_address, phase, update, passed, thread, threads)
                column = _diverging_loss(task_address, phase, update, thread)
                if column >= 0:
                    return _give_up(task, update, column, i, thread)
            if phase.parts & STEP:
                passed = _step(task, phase, passed, thread, threads)
                if shared.is_not_finite != 0:
                    return _give_up(task, update, phase.first_result, i + 1, thread)
        targets = targets_at(task.targets)
        counted = task.updates_within + update if targets.counts_within else task.updates_before + update + 1
        if task.runs_targets:
            if counted % targets.period == 0:
                polyak(task.parameters, targets.first_parameter, targets.end_parameter, targets.tau, thread, threads)
                passed = wait_for_all(task.shared, passed, threads)
            if thread == 0:
                shared.completed += 1
    return int(task.n_updates)


@compiled
def update_loop(task_address: int, threads: int) -> int:
    """Gradient updates of an algorithm. An update is made wholly or not at all.

    Whatever float32 cannot hold is a divergence: a loss, and a parameter or moment after a step of Adam. Steps that the
    same update has taken before it are taken back.

    :param task_address: address of the task's block
    :param threads: number of threads
    :return: number of updates made; fewer than asked for if one diverged
    """
    task = task_at(task_address)
    shared = shared_at(task.shared)
    shared.barrier = shared.is_not_finite = 0
    for i in range(task.n_updates * task.n_results):
        store_double(task.results, i, math.nan)
    return int(on_threads(_updates, (task_address,), threads))
