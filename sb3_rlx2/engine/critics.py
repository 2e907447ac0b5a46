"""What the tile functions of actor-critic algorithms share: TD targets and the critics' squared errors, compiled."""

from __future__ import annotations

from typing import Any

from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.records import NETWORK
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import load_float, store_float

Block = Any

_NETWORK_BYTES = NETWORK.size


@compiled
def critic_at(task: Block, number: int) -> Block:
    """The part of the critic that makes one of its outputs.

    A part that goes forward and back before the next one finds its activations in the cache.

    :param task: the task's block
    :param number: of the output
    """
    return network_at(task.first_critic + number * _NETWORK_BYTES)


@compiled
def lowest_value(n_critics: int, q: int, lowest: int, which: int) -> None:
    """The lowest of the critics' values of each sample.

    :param n_critics: number of critics
    :param q: values, [n_critics, TILE]
    :param lowest: where the lowest goes, [TILE]; NaN where any is NaN
    :param which: where the critic's number goes, [TILE]; 0: not wanted
    """
    for k in range(n_critics):
        for lane in range(TILE):
            value = load_float(q, k * TILE + lane)
            if k == 0 or value < load_float(lowest, lane) or value != value:
                store_float(lowest, lane, value)
                if which != 0:
                    store_float(which, lane, k)


@compiled
def squared_errors(task: Block, x: int, count: int, targets: int, weight: float, memory: int, gradients: int) -> float:
    """Squared errors of all critics, ``weight (Q(s, a) - target)²``, and their gradients.

    :param task: the task's block
    :param x: states and actions
    :param count: number of samples in the tile
    :param targets: [TILE]
    :param weight: of each squared error
    :param memory: memory of this thread
    :param gradients: a shard's gradients
    :return: sum of the weighted squared errors over critics and samples
    """
    outputs, room = memory + task.critic_activations, memory + task.value_gradients
    loss = 0.0
    for k in range(task.n_critics):
        critic = critic_at(task, k)
        q, g = forward(critic, x, outputs), room + critic.output_gradient
        for lane in range(TILE):
            error = load_float(q, lane) - load_float(targets, lane) if lane < count else 0.0
            loss += weight * error * error
            store_float(g, lane, 2.0 * weight / task.batch * error)
        backward(critic, x, outputs, room, gradients, 0, 0, 0, False)
    return loss


@compiled
def tile_input(task: Block, tile: int) -> int:
    """Where the states and actions of a tile are, [n_obs + n_act, TILE]."""
    return int(task.inputs + tile * (task.n_obs + task.n_act) * ROW_BYTES)
