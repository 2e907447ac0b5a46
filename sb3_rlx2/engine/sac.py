"""The tile functions of SAC (Haarnoja et al., 2018)."""

from __future__ import annotations

from functools import cache

from sb3_rlx2.engine.critics import lowest_value, squared_errors, tile_input
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.entropy import (
    ENTROPY,
    TARGETS,
    EntropyUpdates,
    actor_loss,
    entropy_description,
    read_and_sample,
    sampled_input,
    soft_target,
)
from sb3_rlx2.engine.functions import tile_function
from sb3_rlx2.engine.loop import add_to_sum, task_at
from sb3_rlx2.engine.operations import forward, network_at
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import load_float, store_float


@tile_function
def critic_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Critics' loss, the actor's log-probabilities and the critics' gradients of one tile."""
    task = task_at(task_address)
    surprise = read_and_sample(task_address, update, tile, memory)
    targets = memory + task.rows_of_tile + TARGETS * ROW_BYTES
    q = forward(network_at(task.critic_target), memory + task.next_input, memory + task.critic_activations)
    lowest_value(task.n_critics, q, targets, 0)
    for lane in range(TILE):
        store_float(targets, lane, soft_target(task, load_float(targets, lane), memory, lane))
    count = min(task.batch - tile * TILE, TILE)
    add_to_sum(sums, 0, squared_errors(task, tile_input(task, tile), count, targets, 0.5, memory, gradients))
    add_to_sum(sums, 1, surprise)


@tile_function
def actor_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Actor's loss and gradients of one tile: Q is the lowest value of all critics."""
    task = task_at(task_address)
    critic, count = network_at(task.critic), min(task.batch - tile * TILE, TILE)
    lowest = memory + task.rows_of_tile
    which = lowest + ROW_BYTES
    q = forward(critic, sampled_input(task, tile), memory + task.critic_activations)
    lowest_value(task.n_critics, q, lowest, which)
    g = memory + task.value_gradients + critic.output_gradient
    for k in range(task.n_critics):
        for lane in range(TILE):
            is_lowest = lane < count and load_float(which, lane) == k
            store_float(g, k * TILE + lane, -1.0 / task.batch if is_lowest else 0.0)
    add_to_sum(sums, 0, actor_loss(task, tile, lowest, memory, gradients))


@cache
def sac_description(target_update_interval: int, learns_coefficient: bool, policy_delay: int = 1) -> UpdateDescription:
    """An update of SAC.

    :param target_update_interval: updates for one of the target networks
    :param learns_coefficient: whether the entropy coefficient is learned
    :param policy_delay: updates of the critics for one of actor and coefficient, default 1
    """
    return entropy_description(critic_tile, actor_tile, target_update_interval, learns_coefficient, policy_delay)


class SACUpdates(EntropyUpdates):
    """Compiled updates of SAC."""

    algorithm = ENTROPY
