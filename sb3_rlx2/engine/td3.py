"""One call, many gradient updates: TD3 (Fujimoto et al., 2018) on sparse networks, compiled.

The batch is cut into tiles, and a tile goes through all of a phase before the next one begins, so that its activations
stay in the cache. Gradients are summed over shards, runs of tiles whose number depends on the batch alone: the result
is the same with any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import torch as th

from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.adam import polyak
from sb3_rlx2.engine.networks import backward, forward, order_values, times_tanh_slope
from sb3_rlx2.engine.phases import (
    begin_shard,
    complete,
    end_shard,
    first_tile,
    give_up,
    in_float32,
    is_finite,
    optimize,
    total,
)
from sb3_rlx2.engine.replay import clip, read_tile
from sb3_rlx2.engine.threads import on_threads, wait_for_all
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import load_float, store_float, store_int64, tanh_floats

Table = Any


@compiled
def _critic_tile(
    layers: Table, task: Table, floats: Table, update: int, tile: int, memory: int, gradients: int
) -> float:
    """Critics' loss (summed over samples) and gradients of one tile; leaves the batch's inputs for the actor."""
    n_obs, n_act, batch = task[t.N_OBS], task[t.N_ACT], task[t.BATCH]
    first, activation = tile * TILE, task[t.ACTIVATION]
    x = task[t.INPUTS] + tile * (n_obs + n_act) * ROW_BYTES
    next_x = memory + task[t.NEXT_INPUT]
    rewards = memory + task[t.ROWS_OF_TILE]
    factors, targets = rewards + ROW_BYTES, rewards + 2 * ROW_BYTES
    read_tile(task, floats, update, first, x, next_x, rewards, factors)

    # Target actions with clipped noise
    outputs = memory + task[t.ACTOR_OUTPUTS]
    action = forward(layers, task[t.ACTOR_TARGET], task[t.ACTOR_LAYERS], activation, next_x, outputs)
    tanh_floats(action, action, n_act * TILE)
    limit = floats[t.TARGET_NOISE_CLIP]
    count = min(batch - first, TILE)
    for i in range(n_act):
        for lane in range(TILE):
            value = float(load_float(action, i * TILE + lane))
            if lane < count:
                noise = float(load_float(task[t.NOISE], ((update * batch) + first + lane) * n_act + i))
                value += clip(noise, -limit, limit)
            store_float(next_x, (n_obs + i) * TILE + lane, clip(value, -1.0, 1.0))

    outputs = memory + task[t.CRITIC_OUTPUTS]
    for k in range(task[t.N_CRITICS]):
        q = forward(
            layers,
            task[t.CRITIC_TARGET] + k * task[t.CRITIC_LAYERS],
            task[t.CRITIC_LAYERS],
            activation,
            next_x,
            outputs,
        )
        for lane in range(TILE):
            value = load_float(q, lane)
            if k == 0 or value < load_float(targets, lane) or value != value:  # NaN stays NaN
                store_float(targets, lane, value)
    for lane in range(TILE):
        value = load_float(rewards, lane) + load_float(factors, lane) * load_float(targets, lane)
        store_float(targets, lane, value)

    loss = 0.0
    g, spare = memory + task[t.OUTPUT_GRADIENT], memory + task[t.SPARE]
    for k in range(task[t.N_CRITICS]):
        network = task[t.CRITIC] + k * task[t.CRITIC_LAYERS]
        q = forward(layers, network, task[t.CRITIC_LAYERS], activation, x, outputs)
        for lane in range(TILE):
            error = load_float(q, lane) - load_float(targets, lane) if lane < count else 0.0
            loss += error * error
            store_float(g, lane, 2.0 / batch * error)
        backward(layers, network, task[t.CRITIC_LAYERS], activation, x, outputs, g, spare, gradients, 0, 0, 0, False)
    return loss


@compiled
def _actor_tile(layers: Table, task: Table, tile: int, memory: int, gradients: int) -> float:
    """Actor's loss (summed over samples) and gradients of one tile."""
    n_obs, n_act, batch = task[t.N_OBS], task[t.N_ACT], task[t.BATCH]
    activation, count = task[t.ACTIVATION], min(batch - tile * TILE, TILE)
    x = task[t.INPUTS] + tile * (n_obs + n_act) * ROW_BYTES
    action = x + n_obs * ROW_BYTES
    actor_outputs, critic_outputs = memory + task[t.ACTOR_OUTPUTS], memory + task[t.CRITIC_OUTPUTS]
    raw = forward(layers, task[t.ACTOR], task[t.ACTOR_LAYERS], activation, x, actor_outputs)
    tanh_floats(raw, action, n_act * TILE)
    q = forward(layers, task[t.CRITIC], task[t.CRITIC_LAYERS], activation, x, critic_outputs)
    g, spare = memory + task[t.OUTPUT_GRADIENT], memory + task[t.SPARE]
    loss = 0.0
    for lane in range(TILE):
        if lane < count:
            loss -= load_float(q, lane)
        store_float(g, lane, -1.0 / batch if lane < count else 0.0)
    dx = memory + task[t.ACTION_GRADIENT]
    network, depth, start, stop = task[t.CRITIC], task[t.CRITIC_LAYERS], n_obs, n_obs + n_act
    backward(layers, network, depth, activation, x, critic_outputs, g, spare, 0, dx, start, stop, False)
    times_tanh_slope(action, dx, n_act * TILE)
    network, depth = task[t.ACTOR], task[t.ACTOR_LAYERS]
    backward(layers, network, depth, activation, x, actor_outputs, dx, spare, gradients, 0, 0, 0, False)
    return loss


@compiled
def _updates(
    layers: Table, parameters: Table, task: Table, floats: Table, results: Table, thread: int, threads: int
) -> int:
    """Gradient updates of TD3; every thread calls this with the same tables.

    :param layers: table of layers, see ``networks``
    :param parameters: table of parameters, see ``adam``
    :param task: integers of the task, see ``task``
    :param floats: floats of the task
    :param results: [updates, RESULTS], losses of each update; NaN where there is none
    :param thread: number of this thread
    :param threads: number of threads
    :return: number of updates made; fewer than asked for if one diverged, which is in the results
    """
    memory = task[t.THREAD_MEMORY] + thread * task[t.THREAD_BYTES]
    shards, batch, phases = task[t.SHARDS], task[t.BATCH], task[t.PHASES]
    critic, end = task[t.CRITIC_PARAMETERS], task[t.PARAMETERS_END]
    actor = task[t.ACTOR_PARAMETERS]
    my_shards = range(shards * thread // threads, shards * (thread + 1) // threads)
    passed = 0
    if thread == 0:
        store_int64(task[t.SHARED], t.THREADS, threads)
    for update in range(task[t.UPDATES]):
        if phases & t.CRITIC_GRADIENT:
            order_values(layers, task[t.CRITIC], task[t.N_CRITICS] * task[t.CRITIC_LAYERS], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            for shard in my_shards:
                gradients, loss = begin_shard(task, shard, task[t.CRITIC_GRADIENTS]), 0.0
                for tile in range(first_tile(task, shard), first_tile(task, shard + 1)):
                    loss += _critic_tile(layers, task, floats, update, tile, memory, gradients)
                end_shard(task, shard, 0, loss)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            loss = in_float32(total(task, 0) / batch)
            if thread == 0:
                results[update, t.CRITIC_LOSS] = loss
            if not math.isfinite(loss):
                return give_up(parameters, task, results, update, t.CRITIC_LOSS, critic, critic, thread)
        if phases & t.CRITIC_STEP:
            passed = optimize(parameters, task, floats, critic, end, t.CRITIC_RATE, passed, thread, threads)
            if not is_finite(task):
                return give_up(parameters, task, results, update, t.CRITIC_LOSS, critic, end, thread)
        if (task[t.UPDATES_BEFORE] + update + 1) % task[t.POLICY_DELAY] != 0:
            complete(task, thread)
            continue
        if phases & t.ACTOR_GRADIENT:
            order_values(layers, task[t.CRITIC], task[t.CRITIC_LAYERS], thread, threads)
            order_values(layers, task[t.ACTOR], task[t.ACTOR_LAYERS], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            for shard in my_shards:
                gradients, loss = begin_shard(task, shard, task[t.ACTOR_GRADIENTS]), 0.0
                for tile in range(first_tile(task, shard), first_tile(task, shard + 1)):
                    loss += _actor_tile(layers, task, tile, memory, gradients)
                end_shard(task, shard, 0, loss)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            loss = in_float32(total(task, 0) / batch)
            if thread == 0:
                results[update, t.ACTOR_LOSS] = loss
            if not math.isfinite(loss):
                return give_up(parameters, task, results, update, t.ACTOR_LOSS, critic, end, thread)
        if phases & t.ACTOR_STEP:
            passed = optimize(parameters, task, floats, actor, critic, t.ACTOR_RATE, passed, thread, threads)
            if not is_finite(task):
                return give_up(parameters, task, results, update, t.ACTOR_LOSS, actor, end, thread)
        if phases & t.TARGETS:
            polyak(parameters, actor, end, floats[t.TAU], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
        complete(task, thread)
    return int(task[t.UPDATES])


@compiled
def td3_updates(layers: Table, parameters: Table, task: Table, floats: Table, results: Table, threads: int) -> int:
    """Gradient updates of TD3 in several threads. Parameters: as for ``_updates``; see ``on_threads``."""
    return int(on_threads(_updates, (layers, parameters, task, floats, results), threads))


class TD3Updates(Updates):
    """Compiled updates of TD3.

    :param arguments: as for ``Updates``
    """

    function = staticmethod(td3_updates)

    def prepare(self, noise: th.Tensor, noise_clip: float, tau: float, policy_delay: int) -> None:
        """Say what the next run needs.

        :param noise: of the target actions, [updates, batch, n_act] float32, not yet clipped
        :param noise_clip: its largest magnitude
        :param tau: Polyak coefficient
        :param policy_delay: updates of the critics for one of the actor
        """
        self._noise = noise
        self.integers[t.NOISE], self.integers[t.POLICY_DELAY] = noise.data_ptr(), policy_delay
        self.floats[t.TARGET_NOISE_CLIP], self.floats[t.TAU] = noise_clip, tau
