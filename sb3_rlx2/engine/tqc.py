"""The tile functions of TQC (Kuznetsov et al., 2020): SAC with critics that tell quantiles of the return."""

from __future__ import annotations

from functools import cache
from typing import Any

from sb3_rlx2.engine.critics import critic_at, tile_input
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.entropy import (
    ENTROPY_FIELDS,
    EntropyUpdates,
    actor_loss,
    entropy_description,
    read_and_sample,
    sampled_input,
    soft_target,
)
from sb3_rlx2.engine.functions import tile_function
from sb3_rlx2.engine.loop import add_to_sum, task_at
from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.updates import SPARE_ROWS
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.quantiles import quantile_errors, sort_rows
from sb3_rlx2.kernels.records import INTEGER, Record
from sb3_rlx2.kernels.vectors import fill_zero, load_float, store_float

TQC = Record(
    **ENTROPY_FIELDS,
    n_quantiles=INTEGER,  # of each critic
    n_targets=INTEGER,  # quantiles of the TD target that are kept, of those of all critics together
)
tqc_at = TQC.at

QUANTILE_TARGETS = SPARE_ROWS
"""From this row of a tile on there is room for one for each quantile of all critics."""


@tile_function
def critic_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Critics' loss, the actor's log-probabilities and the critics' gradients of one tile."""
    task = task_at(task_address)
    tqc = tqc_at(task.algorithm)
    surprise = read_and_sample(task_address, update, tile, memory)
    outputs, room = memory + task.critic_activations, memory + task.value_gradients
    total = task.n_critics * tqc.n_quantiles
    q = forward(network_at(task.critic_target), memory + task.next_input, outputs)
    sort_rows(q, total)
    targets = memory + task.rows_of_tile + QUANTILE_TARGETS * ROW_BYTES
    for j in range(tqc.n_targets):
        for lane in range(TILE):
            value = soft_target(task, load_float(q, j * TILE + lane), memory, lane)
            store_float(targets, j * TILE + lane, value)

    x, count = tile_input(task, tile), min(task.batch - tile * TILE, TILE)
    weight, losses = 1.0 / (total * tqc.n_targets), memory + task.rows_of_tile
    fill_zero(losses, TILE)
    for k in range(task.n_critics):
        critic = critic_at(task, k)
        q, g = forward(critic, x, outputs), room + critic.output_gradient
        quantile_errors(tqc.n_quantiles, q, targets, tqc.n_targets, g, losses)
        for j in range(tqc.n_quantiles):
            for lane in range(TILE):
                value = -weight / task.batch * load_float(g, j * TILE + lane) if lane < count else 0.0
                store_float(g, j * TILE + lane, value)
        backward(critic, x, outputs, room, gradients, 0, 0, 0, False)
    loss = 0.0
    for lane in range(count):
        loss += load_float(losses, lane)
    add_to_sum(sums, 0, loss * weight)
    add_to_sum(sums, 1, surprise)


@tile_function
def actor_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Actor's loss and gradients of one tile: Q is the mean of all quantiles of all critics."""
    task = task_at(task_address)
    critic, count = network_at(task.critic), min(task.batch - tile * TILE, TILE)
    total = task.n_critics * tqc_at(task.algorithm).n_quantiles
    mean = memory + task.rows_of_tile
    q = forward(critic, sampled_input(task, tile), memory + task.critic_activations)
    g = memory + task.value_gradients + critic.output_gradient
    for lane in range(TILE):
        store_float(mean, lane, 0.0)
    for j in range(total):
        for lane in range(TILE):
            store_float(mean, lane, load_float(mean, lane) + load_float(q, j * TILE + lane) / total)
            store_float(g, j * TILE + lane, -1.0 / (task.batch * total) if lane < count else 0.0)
    add_to_sum(sums, 0, actor_loss(task, tile, mean, memory, gradients))


@cache
def tqc_description(target_update_interval: int, learns_coefficient: bool, policy_delay: int = 1) -> UpdateDescription:
    """An update of TQC.

    :param target_update_interval: updates for one of the target networks
    :param learns_coefficient: whether the entropy coefficient is learned
    :param policy_delay: updates of the critics for one of actor and coefficient, default 1
    """
    return entropy_description(critic_tile, actor_tile, target_update_interval, learns_coefficient, policy_delay)


class TQCUpdates(EntropyUpdates):
    """Compiled updates of TQC."""

    algorithm = TQC

    def __init__(self, policy: Any, *args: Any, **kwargs: Any) -> None:
        self._n_quantiles: int = policy.critic.n_quantiles
        super().__init__(policy, *args, **kwargs)
        self.settings["n_quantiles"] = self._n_quantiles

    @property
    def spare_rows(self) -> int:
        """Rows of each tile's own memory."""
        return SPARE_ROWS + self.n_critics * self._n_quantiles

    def prepare_quantiles(
        self, samples: Samples, tau: float, target_entropy: float, fixed_coefficient: float, dropped: int
    ) -> None:
        """Bind what the next run learns from, and draw the noise of actions.

        :param samples: how the transitions that were drawn are read
        :param tau: Polyak coefficient
        :param target_entropy: target entropy; not used where the coefficient is fixed
        :param fixed_coefficient: the entropy coefficient; not used where it is learned
        :param dropped: how many of the highest quantiles of the TD target are dropped, for each critic
        """
        self.prepare(samples, tau, target_entropy, fixed_coefficient)
        self.fields["n_targets"][0] = self.n_critics * (self._n_quantiles - dropped)
