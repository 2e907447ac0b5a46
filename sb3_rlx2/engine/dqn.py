"""The tile function of DQN (Mnih et al., 2015), with the Huber loss as in Stable-Baselines3."""

from __future__ import annotations

import math
from functools import cache

from sb3_rlx2.engine.critics import tile_input
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.functions import tile_function
from sb3_rlx2.engine.loop import add_to_sum, task_at
from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.replay import clip, read_tile
from sb3_rlx2.engine.values import stored_action, value_description, values_at
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import fill_zero, load_float, store_float


@tile_function
def dqn_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Loss and gradients of one tile."""
    task = task_at(task_address)
    n_actions, first = values_at(task.algorithm).n_actions, tile * TILE
    network, target = network_at(task.critic), network_at(task.critic_target)
    count, x, next_x = min(task.batch - first, TILE), tile_input(task, tile), memory + task.next_input
    outputs, room, rewards = memory + task.critic_activations, memory + task.value_gradients, memory + task.rows_of_tile
    factors, targets = rewards + ROW_BYTES, rewards + 2 * ROW_BYTES
    read_tile(task, update, first, x, next_x, rewards, factors)

    q = forward(target, next_x, outputs)
    for lane in range(count):
        best = load_float(q, lane)
        for action in range(1, n_actions):
            value = load_float(q, action * TILE + lane)
            if value > best or value != value:
                best = value
        store_float(targets, lane, load_float(rewards, lane) + load_float(factors, lane) * best)

    q, g = forward(network, x, outputs), room + network.output_gradient
    fill_zero(g, n_actions * TILE)
    loss = 0.0
    for lane in range(count):
        action = stored_action(task, n_actions, update * task.batch + first + lane)
        if action < 0:
            loss = math.nan
            continue
        error = float(load_float(q, action * TILE + lane) - load_float(targets, lane))
        limited = clip(error, -1.0, 1.0)
        loss += limited * (error - 0.5 * limited)
        store_float(g, action * TILE + lane, limited / task.batch)
    backward(network, x, outputs, room, gradients, 0, 0, 0, False)
    add_to_sum(sums, 0, loss)


@cache
def dqn_description() -> UpdateDescription:
    """An update of DQN."""
    return value_description("q_net", dqn_tile)
