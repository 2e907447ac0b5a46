"""The tile functions of TD3 (Fujimoto et al., 2018) and of DDPG, which is TD3 without noise on the target actions."""

from __future__ import annotations

from functools import cache

from sb3_rlx2.engine.critics import lowest_value, squared_errors, tile_input
from sb3_rlx2.engine.description import Phase, TargetUpdates, UpdateDescription
from sb3_rlx2.engine.functions import tile_function
from sb3_rlx2.engine.loop import add_to_sum, task_at
from sb3_rlx2.engine.noise import fill_normal
from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.replay import clip, read_tile
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.kernels.activations import TANH, times_slope
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.records import FLOAT, INTEGER, Record
from sb3_rlx2.kernels.vectors import load_float, store_float, tanh_floats

TD3 = Record(
    noise=INTEGER,  # of the target actions, float32 [updates, batch, n_act], not yet clipped; 0: none
    noise_clip=FLOAT,
)
td3_at = TD3.at


@tile_function
def critic_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Critics' loss and gradients of one tile; leaves the batch's inputs for the actor."""
    task = task_at(task_address)
    td3, actor_target, critic_target = (
        td3_at(task.algorithm),
        network_at(task.actor_target),
        network_at(task.critic_target),
    )
    n_obs, n_act, batch, first = task.n_obs, task.n_act, task.batch, tile * TILE
    count = min(batch - first, TILE)
    x, next_x = tile_input(task, tile), memory + task.next_input
    rewards = memory + task.rows_of_tile
    factors, targets = rewards + ROW_BYTES, rewards + 2 * ROW_BYTES
    read_tile(task, update, first, x, next_x, rewards, factors)

    action = forward(actor_target, next_x, memory + task.actor_activations)
    tanh_floats(action, action, n_act * TILE)
    limit = td3.noise_clip
    for i in range(n_act):
        for lane in range(TILE):
            value = float(load_float(action, i * TILE + lane))
            if td3.noise != 0 and lane < count:
                noise = float(load_float(td3.noise, (update * batch + first + lane) * n_act + i))
                value += clip(noise, -limit, limit)
            store_float(next_x, (n_obs + i) * TILE + lane, clip(value, -1.0, 1.0))

    lowest_value(task.n_critics, forward(critic_target, next_x, memory + task.critic_activations), targets, 0)
    for lane in range(TILE):
        value = load_float(rewards, lane) + load_float(factors, lane) * load_float(targets, lane)
        store_float(targets, lane, value)
    add_to_sum(sums, 0, squared_errors(task, x, count, targets, 1.0, memory, gradients))


@tile_function
def actor_tile(task_address: int, update: int, tile: int, memory: int, gradients: int, sums: int) -> None:
    """Actor's loss, the mean of -Q, and its gradients of one tile."""
    task = task_at(task_address)
    actor, critic = network_at(task.actor), network_at(task.first_critic)
    n_obs, n_act, batch = task.n_obs, task.n_act, task.batch
    count, x = min(batch - tile * TILE, TILE), tile_input(task, tile)
    action, room, dx = x + n_obs * ROW_BYTES, memory + task.value_gradients, memory + task.action_gradient
    actor_outputs, critic_outputs = memory + task.actor_activations, memory + task.critic_activations
    tanh_floats(forward(actor, x, actor_outputs), action, n_act * TILE)
    q, g = forward(critic, x, critic_outputs), room + critic.output_gradient
    loss = 0.0
    for lane in range(TILE):
        if lane < count:
            loss -= load_float(q, lane)
        store_float(g, lane, -1.0 / batch if lane < count else 0.0)
    backward(critic, x, critic_outputs, room, 0, dx, n_obs, n_obs + n_act, False)
    g = room + actor.output_gradient
    for j in range(n_act * TILE):
        store_float(g, j, load_float(dx, j))
    times_slope(TANH, 0.0, action, g, n_act * TILE)
    backward(actor, x, actor_outputs, room, gradients, 0, 0, 0, False)
    add_to_sum(sums, 0, loss)


@cache
def td3_description(policy_delay: int) -> UpdateDescription:
    """An update of TD3; with ``policy_delay=1`` also of DDPG.

    :param policy_delay: updates of the critics for one of the actor
    """
    return UpdateDescription(
        phases=(
            Phase(
                network="critic",
                tile_function=critic_tile,
                losses=("critic_loss",),
                backward=("critic",),
                target_passes={"actor_target": 1, "critic_target": 1},
            ),
            Phase(
                network="actor",
                tile_function=actor_tile,
                losses=("actor_loss",),
                period=policy_delay,
                backward=("first_critic", "actor"),
                loss_critics=1,
            ),
        ),
        targets=TargetUpdates(("actor", "critic"), policy_delay, "training"),
    )


class TD3Updates(Updates):
    """Compiled updates of TD3, and of DDPG."""

    algorithm = TD3
    n_noises = 1

    def prepare(self, samples: Samples, tau: float, noise: float, noise_clip: float) -> None:
        """Bind what the next run learns from, and draw the noise of target actions.

        :param samples: how the transitions that were drawn are read
        :param tau: Polyak coefficient
        :param noise: standard deviation of the target actions' noise; 0: none is added, but drawn as in SB3
        :param noise_clip: its largest magnitude
        """
        self.bind(samples, tau)
        (target_noise,) = self.noises
        fill_normal(target_noise, noise)
        self.fields["noise"][0], self.fields["noise_clip"][0] = target_noise.data_ptr() if noise > 0 else 0, noise_clip
