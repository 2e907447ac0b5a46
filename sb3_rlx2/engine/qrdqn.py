"""The tile function of QR-DQN (Dabney et al., 2018), as in sb3-contrib."""

from __future__ import annotations

import math
from functools import cache

from sb3_rlx2.engine.critics import tile_input
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.functions import tile_function
from sb3_rlx2.engine.loop import add_to_sum, task_at
from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.replay import read_tile
from sb3_rlx2.engine.updates import SPARE_ROWS
from sb3_rlx2.engine.values import ValueUpdates, stored_action, value_description, values_at
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.quantiles import quantile_errors
from sb3_rlx2.kernels.vectors import fill_zero, load_float, store_float


@compiled
def _greedy_quantiles(
    n_actions: int, n_quantiles: int, q: int, best: int, which: int, sums: int, count: int, greedy: int
) -> None:
    """The quantiles of each sample's best action, the one with the highest mean.

    :param n_actions: number of actions
    :param n_quantiles: number of quantiles of each
    :param q: quantiles, [n_quantiles * n_actions, TILE]
    :param best: room for a row
    :param which: room for a row
    :param sums: room for a row
    :param count: number of samples in the tile
    :param greedy: where they go, [n_quantiles, TILE]
    """
    for action in range(n_actions):
        fill_zero(sums, TILE)
        for i in range(n_quantiles):
            row = (i * n_actions + action) * TILE
            for lane in range(TILE):
                store_float(sums, lane, load_float(sums, lane) + load_float(q, row + lane))
        for lane in range(TILE):
            total = load_float(sums, lane)
            if action == 0 or total > load_float(best, lane) or total != total:  # NaN is not to be overlooked
                store_float(best, lane, total)
                store_float(which, lane, action)
    for lane in range(count):
        action = int(load_float(which, lane))
        for i in range(n_quantiles):
            store_float(greedy, i * TILE + lane, load_float(q, (i * n_actions + action) * TILE + lane))


@tile_function
def qrdqn_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Loss and gradients of one tile."""
    task = task_at(task_address)
    values = values_at(task.algorithm)
    n_actions, n_quantiles, first = values.n_actions, values.n_quantiles, tile * TILE
    network, target = network_at(task.critic), network_at(task.critic_target)
    count, x, next_x = min(task.batch - first, TILE), tile_input(task, tile), memory + task.next_input
    outputs, room, rewards = memory + task.critic_activations, memory + task.value_gradients, memory + task.rows_of_tile
    factors, losses = rewards + ROW_BYTES, rewards + 2 * ROW_BYTES
    best, which = rewards + 3 * ROW_BYTES, rewards + 4 * ROW_BYTES
    targets = rewards + SPARE_ROWS * ROW_BYTES
    chosen, chosen_gradients = targets + n_quantiles * ROW_BYTES, targets + 2 * n_quantiles * ROW_BYTES
    read_tile(task, update, first, x, next_x, rewards, factors)
    if count < TILE:
        fill_zero(targets, 2 * n_quantiles * TILE)

    q = forward(target, next_x, outputs)
    _greedy_quantiles(n_actions, n_quantiles, q, best, which, losses, count, targets)
    for j in range(n_quantiles):
        for lane in range(TILE):
            value = load_float(factors, lane) * load_float(targets, j * TILE + lane)
            store_float(targets, j * TILE + lane, load_float(rewards, lane) + value)

    q, g = forward(network, x, outputs), room + network.output_gradient
    fill_zero(g, n_quantiles * n_actions * TILE)
    loss, begin = 0.0, update * task.batch + first
    for lane in range(count):
        action = stored_action(task, n_actions, begin + lane)
        if action < 0:
            loss, action = math.nan, 0
        store_float(which, lane, action)
        for i in range(n_quantiles):
            store_float(chosen, i * TILE + lane, load_float(q, (i * n_actions + action) * TILE + lane))
    fill_zero(losses, TILE)
    quantile_errors(n_quantiles, chosen, targets, n_quantiles, chosen_gradients, losses)
    weight = 1.0 / n_quantiles
    for lane in range(count):
        action = int(load_float(which, lane))
        loss += weight * load_float(losses, lane)
        for i in range(n_quantiles):
            value = -weight / task.batch * load_float(chosen_gradients, i * TILE + lane)
            store_float(g, (i * n_actions + action) * TILE + lane, value)
    backward(network, x, outputs, room, gradients, 0, 0, 0, False)
    add_to_sum(sums, 0, loss)


@cache
def qrdqn_description() -> UpdateDescription:
    """An update of QR-DQN."""
    return value_description("quantile_net", qrdqn_tile)


class QRDQNUpdates(ValueUpdates):
    """Compiled updates of QR-DQN."""

    @property
    def spare_rows(self) -> int:
        """Rows of each tile's own memory."""
        return SPARE_ROWS + 3 * self.n_quantiles
