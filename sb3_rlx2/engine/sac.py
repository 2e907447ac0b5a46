"""One call, many gradient updates: SAC (Haarnoja et al., 2018) on sparse networks, compiled.

Tiles, shards and threads: as in ``td3``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th

from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.adam import PARAMETER, adam, count_steps, polyak
from sb3_rlx2.engine.gaussian import ACTION, actor_gradient, sample_actions
from sb3_rlx2.engine.networks import backward, forward, order_values
from sb3_rlx2.engine.phases import (
    COEFFICIENT_SLOT,
    LARGEST_ROOT,
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
from sb3_rlx2.engine.plan import address
from sb3_rlx2.engine.replay import read_observation, read_tile, return_length
from sb3_rlx2.engine.threads import on_threads, wait_for_all
from sb3_rlx2.engine.updates import Samples, Updates
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import (
    FLOAT_BYTES,
    load_double,
    load_float,
    load_int64,
    store_double,
    store_float,
    store_int64,
)

Table = Any

DOUBLE_BYTES = 8
ENTRY_FIELDS = 3  # of a state between: sample, place in the buffer, number of steps


@compiled
def _entropy_bonus(
    layers: Table, task: Table, floats: Table, entries: int, first: int, memory: int, coefficient: float, bonus: int
) -> None:
    """The entropy terms of a tile's returns at all states but the last, discounted, [TILE]."""
    n_act = task[t.N_ACT]
    x, log_prob = memory + task[t.NEXT_INPUT], memory + task[t.ROWS_OF_TILE] + 5 * ROW_BYTES
    for lane in range(TILE):
        store_float(bonus, lane, 0.0)
    start, stop = load_int64(task[t.BETWEEN_STARTS], entries), load_int64(task[t.BETWEEN_STARTS], entries + 1)
    for begin in range(start, stop, TILE):
        count = min(stop - begin, TILE)
        for lane in range(count):
            place = load_int64(task[t.BETWEEN_ENTRIES], (begin + lane) * ENTRY_FIELDS + 1)
            read_observation(task, floats, task[t.NEXT_OBSERVATIONS], place, x, lane)
        noise = task[t.BETWEEN_NOISE] + begin * n_act * FLOAT_BYTES
        outputs, heads = memory + task[t.ACTOR_OUTPUTS], memory + task[t.HEADS]
        sample_actions(layers, task, x, outputs, heads, noise, count, log_prob)
        for lane in range(count):
            entry = (begin + lane) * ENTRY_FIELDS
            at = load_int64(task[t.BETWEEN_ENTRIES], entry) - first
            power = load_float(task[t.POWERS], load_int64(task[t.BETWEEN_ENTRIES], entry + 2))
            store_float(bonus, at, load_float(bonus, at) - coefficient * load_float(log_prob, lane) * power)


@compiled
def _critic_tile(
    layers: Table, task: Table, floats: Table, update: int, tile: int, memory: int, gradients: int, coefficient: float
) -> tuple[float, float]:
    """Critics' loss and the actor's log-probabilities, both summed over one tile, and the critics' gradients."""
    n_obs, n_act, batch = task[t.N_OBS], task[t.N_ACT], task[t.BATCH]
    first, activation = tile * TILE, task[t.ACTIVATION]
    count = min(batch - first, TILE)
    x = task[t.INPUTS] + tile * (n_obs + n_act) * ROW_BYTES
    next_x, outputs = memory + task[t.NEXT_INPUT], memory + task[t.CRITIC_OUTPUTS]
    rewards = memory + task[t.ROWS_OF_TILE]
    factors, targets, next_log_prob = rewards + ROW_BYTES, rewards + 2 * ROW_BYTES, rewards + 3 * ROW_BYTES
    bonus = rewards + 4 * ROW_BYTES
    if task[t.N_STEPS] > 1:
        tiles = (batch + TILE - 1) // TILE
        _entropy_bonus(layers, task, floats, update * tiles + tile, first, memory, coefficient, bonus)
    read_tile(task, floats, update, first, x, next_x, rewards, factors)

    noise_at = (update * batch + first) * n_act * FLOAT_BYTES
    kept = task[t.ACTOR_MEMORY] + tile * task[t.ACTOR_TILE_BYTES]
    heads = kept + task[t.ACTOR_BYTES]
    log_prob = kept + task[t.ACTOR_TILE_BYTES] - ROW_BYTES
    sample_actions(layers, task, x, kept, heads, task[t.NOISE] + noise_at, count, log_prob)
    entropy = 0.0
    for lane in range(count):
        entropy += load_float(log_prob, lane)

    heads = memory + task[t.HEADS]
    next_noise = task[t.NEXT_NOISE] + noise_at
    sample_actions(layers, task, next_x, memory + task[t.ACTOR_OUTPUTS], heads, next_noise, count, next_log_prob)
    for j in range(n_act * TILE):
        store_float(next_x, n_obs * TILE + j, load_float(heads + ACTION * n_act * ROW_BYTES, j))
    for k in range(task[t.N_CRITICS]):
        network = task[t.CRITIC_TARGET] + k * task[t.CRITIC_LAYERS]
        q = forward(layers, network, task[t.CRITIC_LAYERS], activation, next_x, outputs)
        for lane in range(TILE):
            value = load_float(q, lane)
            if k == 0 or value < load_float(targets, lane) or value != value:  # NaN stays NaN
                store_float(targets, lane, value)
    for lane in range(TILE):
        value = load_float(targets, lane) - coefficient * load_float(next_log_prob, lane)
        value = load_float(rewards, lane) + load_float(factors, lane) * value
        if task[t.N_STEPS] > 1:
            value += load_float(bonus, lane)
        store_float(targets, lane, value)

    loss = 0.0
    g, spare = memory + task[t.OUTPUT_GRADIENT], memory + task[t.SPARE]
    for k in range(task[t.N_CRITICS]):
        network = task[t.CRITIC] + k * task[t.CRITIC_LAYERS]
        q = forward(layers, network, task[t.CRITIC_LAYERS], activation, x, outputs)
        for lane in range(TILE):
            error = load_float(q, lane) - load_float(targets, lane) if lane < count else 0.0
            loss += 0.5 * error * error
            store_float(g, lane, error / batch)
        backward(layers, network, task[t.CRITIC_LAYERS], activation, x, outputs, g, spare, gradients, 0, 0, 0, False)
    return loss, entropy


@compiled
def _actor_tile(layers: Table, task: Table, tile: int, memory: int, gradients: int, coefficient: float) -> float:
    """Actor's loss (summed over samples) and gradients of one tile."""
    n_obs, n_act, batch = task[t.N_OBS], task[t.N_ACT], task[t.BATCH]
    activation, count = task[t.ACTIVATION], min(batch - tile * TILE, TILE)
    x = task[t.INPUTS] + tile * (n_obs + n_act) * ROW_BYTES
    kept = task[t.ACTOR_MEMORY] + tile * task[t.ACTOR_TILE_BYTES]
    heads = kept + task[t.ACTOR_BYTES]
    log_prob = kept + task[t.ACTOR_TILE_BYTES] - ROW_BYTES
    for j in range(n_act * TILE):
        store_float(x, n_obs * TILE + j, load_float(heads + ACTION * n_act * ROW_BYTES, j))
    lowest = memory + task[t.ROWS_OF_TILE]
    which = lowest + ROW_BYTES
    for k in range(task[t.N_CRITICS]):
        network, outputs = task[t.CRITIC] + k * task[t.CRITIC_LAYERS], task[t.CRITIC_OUTPUTS] + k * task[t.CRITIC_BYTES]
        q = forward(layers, network, task[t.CRITIC_LAYERS], activation, x, memory + outputs)
        for lane in range(TILE):
            value = load_float(q, lane)
            if k == 0 or value < load_float(lowest, lane) or value != value:  # NaN stays NaN
                store_float(lowest, lane, value)
                store_float(which, lane, k)
    loss = 0.0
    for lane in range(count):
        loss += coefficient * load_float(log_prob, lane) - load_float(lowest, lane)
    g, spare, dx = memory + task[t.OUTPUT_GRADIENT], memory + task[t.SPARE], memory + task[t.ACTION_GRADIENT]
    for k in range(task[t.N_CRITICS]):
        network, outputs = task[t.CRITIC] + k * task[t.CRITIC_LAYERS], task[t.CRITIC_OUTPUTS] + k * task[t.CRITIC_BYTES]
        for lane in range(TILE):
            is_lowest = lane < count and load_float(which, lane) == k
            store_float(g, lane, -1.0 / batch if is_lowest else 0.0)
        outputs += memory
        count_of_layers, start, stop = task[t.CRITIC_LAYERS], n_obs, n_obs + n_act
        backward(layers, network, count_of_layers, activation, x, outputs, g, spare, 0, dx, start, stop, k > 0)
    actor_gradient(layers, task, x, kept, heads, coefficient, count, dx, g, spare, gradients)
    return loss


@compiled
def _updates(
    layers: Table, parameters: Table, task: Table, floats: Table, results: Table, thread: int, threads: int
) -> int:
    """Gradient updates of SAC; every thread calls this with the same tables. Parameters: as for TD3."""
    memory = task[t.THREAD_MEMORY] + thread * task[t.THREAD_BYTES]
    shards, batch, phases = task[t.SHARDS], task[t.BATCH], task[t.PHASES]
    actor, critic = task[t.ACTOR_PARAMETERS], task[t.CRITIC_PARAMETERS]
    learned, end = task[t.COEFFICIENT], task[t.PARAMETERS_END]
    slots = task[t.LOSSES] + COEFFICIENT_SLOT * DOUBLE_BYTES
    gradient_slot = slots + DOUBLE_BYTES
    my_shards = range(shards * thread // threads, shards * (thread + 1) // threads)
    passed = 0
    if thread == 0:
        store_int64(task[t.SHARED], t.THREADS, threads)
    for update in range(task[t.UPDATES]):
        if phases & t.CRITIC_GRADIENT:
            log_coefficient = float(load_float(parameters[learned, PARAMETER], 0)) if learned < end else 0.0
            coefficient = float(np.float32(math.exp(log_coefficient))) if learned < end else floats[t.FIXED_COEFFICIENT]
            order_values(layers, task[t.CRITIC], task[t.N_CRITICS] * task[t.CRITIC_LAYERS], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            for shard in my_shards:
                gradients = begin_shard(task, shard, task[t.CRITIC_GRADIENTS])
                loss, entropy = 0.0, 0.0
                for tile in range(first_tile(task, shard), first_tile(task, shard + 1)):
                    parts = _critic_tile(layers, task, floats, update, tile, memory, gradients, coefficient)
                    loss += parts[0]
                    entropy += parts[1]
                end_shard(task, shard, 0, loss)
                end_shard(task, shard, 1, entropy)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            loss = in_float32(total(task, 0) / batch)
            surplus = total(task, 1) / batch + floats[t.TARGET_ENTROPY]
            if thread == 0:
                results[update, t.CRITIC_LOSS] = loss
                results[update, t.COEFFICIENT_VALUE] = coefficient
                store_double(slots, 0, coefficient)
                if learned < end:
                    results[update, t.COEFFICIENT_LOSS] = -log_coefficient * surplus
            if not math.isfinite(loss):
                return give_up(parameters, task, results, update, t.CRITIC_LOSS, critic, critic, thread)
            # The square of the coefficient's gradient goes into its moments
            if learned < end and not abs(surplus) < LARGEST_ROOT:
                return give_up(parameters, task, results, update, t.COEFFICIENT_LOSS, critic, critic, thread)
            if thread == 0 and learned < end:
                store_float(gradient_slot, 0, -surplus)
                rate, beta1 = floats[t.COEFFICIENT_RATE], floats[t.COEFFICIENT_BETA1]
                beta2, epsilon = floats[t.COEFFICIENT_BETA2], floats[t.COEFFICIENT_EPSILON]
                adam(parameters, learned, end, gradient_slot, 1, 0, rate, beta1, beta2, epsilon, 0, 1)
                count_steps(parameters, learned, end)
        if phases & t.CRITIC_STEP:
            passed = optimize(parameters, task, floats, critic, learned, t.CRITIC_RATE, passed, thread, threads)
            if not is_finite(task):
                return give_up(parameters, task, results, update, t.CRITIC_LOSS, critic, end, thread)
        if phases & t.ACTOR_GRADIENT:
            order_values(layers, task[t.CRITIC], task[t.N_CRITICS] * task[t.CRITIC_LAYERS], thread, threads)
            order_values(layers, task[t.ACTOR], task[t.ACTOR_LAYERS], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
            coefficient = load_double(slots, 0)
            for shard in my_shards:
                gradients, loss = begin_shard(task, shard, task[t.ACTOR_GRADIENTS]), 0.0
                for tile in range(first_tile(task, shard), first_tile(task, shard + 1)):
                    loss += _actor_tile(layers, task, tile, memory, gradients, coefficient)
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
        if phases & t.TARGETS and (task[t.UPDATES_WITHIN] + update) % task[t.TARGET_INTERVAL] == 0:
            polyak(parameters, critic, learned, floats[t.TAU], thread, threads)
            passed = wait_for_all(task[t.SHARED], passed, threads)
        complete(task, thread)
    return int(task[t.UPDATES])


@compiled
def _find_between(task: Table, entries: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], update: int) -> int:
    """List the states between for one update, sample by sample.

    :param task: integers of the task
    :param entries: [batch * (n_steps - 1), ENTRY_FIELDS], filled from the beginning
    :param starts: [tiles], where each tile's entries begin
    :param update: number of the update
    :return: number of entries
    """
    count = 0
    for sample in range(task[t.BATCH]):
        if sample % TILE == 0:
            starts[sample // TILE] = count
        row = load_int64(task[t.SAMPLED_ROWS], update * task[t.BATCH] + sample)
        env = load_int64(task[t.SAMPLED_ENVS], update * task[t.BATCH] + sample)
        for k in range(return_length(task, row, env) - 1):
            entries[count, 0] = sample
            entries[count, 1] = ((row + k) % task[t.N_ROWS]) * task[t.N_ENVS] + env
            entries[count, 2] = k + 1
            count += 1
    return count


@compiled
def sac_updates(layers: Table, parameters: Table, task: Table, floats: Table, results: Table, threads: int) -> int:
    """Gradient updates of SAC in several threads. Parameters: as for ``_updates``; see ``on_threads``."""
    return int(on_threads(_updates, (layers, parameters, task, floats, results), threads))


class SACUpdates(Updates):
    """Compiled updates of SAC.

    :param arguments: as for ``Updates``
    """

    function = staticmethod(sac_updates)

    def _further_parameters(self) -> list[tuple[th.optim.Optimizer, list[th.Tensor]]]:
        optimizer = self.optimizers.get("coefficient")
        return [] if optimizer is None else [(optimizer, list(optimizer.param_groups[0]["params"]))]

    def prepare(
        self,
        samples: Samples,
        tau: float,
        target_update_interval: int,
        target_entropy: float,
        fixed_coefficient: float,
    ) -> None:
        """Say what the next run needs, and draw its noise with the random numbers that SB3's ``train`` would use.

        :param samples: what will be learned from
        :param tau: Polyak coefficient
        :param target_update_interval: updates for one of the target networks
        :param target_entropy: target entropy; not used where the coefficient is fixed
        :param fixed_coefficient: the entropy coefficient; not used where it is learned
        """
        updates, batch = samples.rows.shape
        self.reserve(batch)
        self.place_samples(samples)
        tiles, most = -(-batch // TILE), batch * (samples.n_steps - 1)
        entries = np.empty((updates * most, ENTRY_FIELDS), np.int64)
        starts = np.zeros(updates * tiles + 1, np.int64)
        noise, between, found = th.empty(updates, batch, self.n_act, dtype=th.float32, device="cpu"), [], 0
        next_noise = th.empty_like(noise)
        for update in range(updates):
            if samples.n_steps > 1:
                of_update = starts[update * tiles : (update + 1) * tiles]
                count = _find_between(self.integers, entries[found:], of_update, update)
                of_update += found
                found += count
                between.append(noise.new_empty(count, self.n_act).normal_())
            noise[update].normal_()
            next_noise[update].normal_()
        starts[-1] = found
        between_noise = th.cat(between) if between else noise
        self._drawn = (entries, starts, noise, next_noise, between_noise)
        self.integers[[t.NOISE, t.NEXT_NOISE]] = noise.data_ptr(), next_noise.data_ptr()
        self.integers[[t.BETWEEN_STARTS, t.BETWEEN_ENTRIES]] = address(starts), address(entries)
        self.integers[t.BETWEEN_NOISE] = between_noise.data_ptr()
        self.integers[t.TARGET_INTERVAL] = target_update_interval
        self.floats[[t.TAU, t.TARGET_ENTROPY, t.FIXED_COEFFICIENT]] = tau, target_entropy, fixed_coefficient
        if "coefficient" in self.optimizers:
            self._read_settings(self.optimizers["coefficient"], t.COEFFICIENT_RATE)
