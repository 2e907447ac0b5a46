"""What maximum-entropy algorithms (SAC, TQC) share: entropy coefficient, sampled actions, entropy terms of returns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from numba.core.ccallback import CFunc
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_rlx2.engine.critics import tile_input
from sb3_rlx2.engine.description import Phase, TargetUpdates, UpdateDescription
from sb3_rlx2.engine.functions import step_function
from sb3_rlx2.engine.gaussian import ACTION, actor_gradient, sample_actions
from sb3_rlx2.engine.loop import LARGEST, optimizer_at, set_result, task_at, total
from sb3_rlx2.engine.operations import backward, network_at
from sb3_rlx2.engine.optimizer import adam, count_steps, keep, parameter_at
from sb3_rlx2.engine.plan import address
from sb3_rlx2.engine.records import OPTIMIZER, PARAMETER
from sb3_rlx2.engine.replay import read_observation, read_tile, return_length
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.records import FLOAT, INTEGER, Record
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, load_float, load_int64, store_float

Block = Any

ENTROPY_FIELDS = {
    "noise": INTEGER,  # of the actions at the sampled states, standard normal float32 [updates, batch, n_act]
    "next_noise": INTEGER,  # of those at the last states of the returns
    # Intermediate states of n-step returns: for each tile of each update where its entries begin (int64
    # [updates * tiles + 1]), for each entry its sample, transition and number of steps (int64), and its noise
    "starts": INTEGER,
    "entries": INTEGER,
    "entry_noise": INTEGER,
    "coefficient": FLOAT,  # of the current update
    "fixed_coefficient": FLOAT,
    "target_entropy": FLOAT,
    "log_std_min": FLOAT,
    "log_std_max": FLOAT,
    "policy_delay": INTEGER,  # updates of the critics for one of actor and coefficient
    "learned": INTEGER,  # number of the parameter that is the logarithm of the entropy coefficient; -1: it is fixed
    "optimizer": INTEGER,  # of that parameter
    "gradient": INTEGER,  # address of its gradient, one float
    "coefficient_result": INTEGER,  # columns of the results
    "loss_result": INTEGER,
}
"""The first fields of the block of each of these algorithms."""
ENTROPY = Record(**ENTROPY_FIELDS)
entropy_at = ENTROPY.at

ENTRY_FIELDS = 3
LARGEST_ROOT = math.sqrt(LARGEST)
_PARAMETER_BYTES = PARAMETER.size

# Rows of a tile that its critic phase leaves in ``rows_of_tile``
REWARDS, FACTORS, TARGETS, NEXT_LOG_PROB, BONUS, LOG_PROB = range(6)


@compiled
def _updates_actor(task: Block, entropy: Block, update: int) -> bool:
    """Whether an update takes a step of the actor and of the entropy coefficient."""
    return bool((task.updates_before + update + 1) % entropy.policy_delay == 0)


@step_function
def begin_critic(task_address: int, update: int, thread: int) -> int:
    """Take the entropy coefficient for this update."""
    task = task_at(task_address)
    entropy = entropy_at(task.algorithm)
    entropy.coefficient = entropy.fixed_coefficient
    if entropy.learned >= 0:
        log_coefficient = float(load_float(parameter_at(task.parameters + entropy.learned * _PARAMETER_BYTES).value, 0))
        entropy.coefficient = float(np.float32(math.exp(log_coefficient)))
    set_result(task, update, entropy.coefficient_result, entropy.coefficient)
    return -1


@step_function
def finish_critic(task_address: int, update: int, thread: int) -> int:
    """A step of the entropy coefficient's optimizer, if the actor is updated too."""
    task = task_at(task_address)
    entropy = entropy_at(task.algorithm)
    if entropy.learned < 0:
        return -1
    if not _updates_actor(task, entropy, update):
        if thread == 0:
            keep(task.parameters, entropy.learned, entropy.learned + 1)
        return -1
    surplus = total(task, 1) / task.batch + entropy.target_entropy
    is_finite = abs(surplus) < LARGEST_ROOT  # its square goes into the moments
    if thread == 0:
        log_coefficient = float(load_float(parameter_at(task.parameters + entropy.learned * _PARAMETER_BYTES).value, 0))
        set_result(task, update, entropy.loss_result, -log_coefficient * surplus)
        if is_finite:
            store_float(entropy.gradient, 0, -surplus)
            first, optimizer = entropy.learned, optimizer_at(entropy.optimizer)
            adam(task.parameters, first, first + 1, optimizer, entropy.gradient, 1, 0, 0, 1)
            count_steps(task.parameters, first, first + 1)
    return -1 if is_finite else entropy.loss_result


@compiled
def _entropy_bonus(task: Block, entropy: Block, tile_number: int, first: int, memory: int, bonus: int) -> None:
    """The entropy terms of a tile's returns at all states but the last, discounted, [TILE]."""
    x, log_prob = memory + task.next_input, memory + task.rows_of_tile + LOG_PROB * ROW_BYTES
    for lane in range(TILE):
        store_float(bonus, lane, 0.0)
    start, stop = load_int64(entropy.starts, tile_number), load_int64(entropy.starts, tile_number + 1)
    for begin in range(start, stop, TILE):
        count = min(stop - begin, TILE)
        for lane in range(count):
            transition = load_int64(entropy.entries, (begin + lane) * ENTRY_FIELDS + 1)
            read_observation(task, task.next_observations, transition, x, lane)
        noise = entropy.entry_noise + begin * task.n_act * FLOAT_BYTES
        sample_actions(task, entropy, x, memory + task.actor_activations, memory + task.heads, noise, count, log_prob)
        for lane in range(count):
            entry = (begin + lane) * ENTRY_FIELDS
            at = load_int64(entropy.entries, entry) - first
            power = load_float(task.powers, load_int64(entropy.entries, entry + 2))
            store_float(bonus, at, load_float(bonus, at) - entropy.coefficient * load_float(log_prob, lane) * power)


@compiled
def read_and_sample(task_address: int, update: int, tile: int, memory: int) -> float:
    """Read a tile and sample actions at its states and at the last states of its returns.

    Rewards, factors, log-probabilities at the last states and, with n-step returns, their entropy terms are in
    ``rows_of_tile`` then, the last states with their actions in ``next_input``; what the actor's phase needs is kept.

    :param task_address: address of the task's block
    :param update: number of the update in this call
    :param tile: number of the tile
    :param memory: memory of this thread
    :return: sum of the log-probabilities at the tile's states; 0 where the actor is not updated
    """
    task = task_at(task_address)
    entropy = entropy_at(task.algorithm)
    n_obs, n_act, batch, first = task.n_obs, task.n_act, task.batch, tile * TILE
    count = min(batch - first, TILE)
    x, next_x = tile_input(task, tile), memory + task.next_input
    rows = memory + task.rows_of_tile
    if task.n_steps > 1:
        tiles = (batch + TILE - 1) // TILE
        _entropy_bonus(task, entropy, update * tiles + tile, first, memory, rows + BONUS * ROW_BYTES)
    read_tile(task, update, first, x, next_x, rows + REWARDS * ROW_BYTES, rows + FACTORS * ROW_BYTES)

    noise_at = (update * batch + first) * n_act * FLOAT_BYTES
    kept = task.kept + tile * task.kept_bytes
    log_prob = kept + task.kept_bytes - ROW_BYTES
    heads = kept + network_at(task.actor).activation_bytes
    surprise = 0.0
    if _updates_actor(task, entropy, update):
        sample_actions(task, entropy, x, kept, heads, entropy.noise + noise_at, count, log_prob)
        for lane in range(count):
            surprise += load_float(log_prob, lane)

    heads = memory + task.heads
    sample_actions(
        task, entropy, next_x, memory + task.actor_activations, heads, entropy.next_noise + noise_at, count,
        rows + NEXT_LOG_PROB * ROW_BYTES,
    )  # fmt: skip
    for j in range(n_act * TILE):
        store_float(next_x, n_obs * TILE + j, load_float(heads + ACTION * n_act * ROW_BYTES, j))
    return surprise


@compiled
def soft_target(task: Block, value: float, memory: int, lane: int) -> float:
    """The TD target of a sample, given the value of its last state: reward, value and entropy terms.

    :param task: the task's block
    :param value: of the last state and the action there, without the entropy term
    :param memory: memory of this thread, after ``read_and_sample``
    :param lane: number of the sample in its tile
    """
    rows = memory + task.rows_of_tile
    value -= entropy_at(task.algorithm).coefficient * load_float(rows + NEXT_LOG_PROB * ROW_BYTES, lane)
    value = load_float(rows + REWARDS * ROW_BYTES, lane) + load_float(rows + FACTORS * ROW_BYTES, lane) * value
    if task.n_steps > 1:
        value += load_float(rows + BONUS * ROW_BYTES, lane)
    return value


@compiled
def sampled_input(task: Block, tile: int) -> int:
    """The tile's states with the actions that were sampled at them, [n_obs + n_act, TILE]."""
    x, n_act = tile_input(task, tile), task.n_act
    kept = task.kept + tile * task.kept_bytes
    heads = kept + network_at(task.actor).activation_bytes
    for j in range(n_act * TILE):
        store_float(x, task.n_obs * TILE + j, load_float(heads + ACTION * n_act * ROW_BYTES, j))
    return int(x)


@compiled
def actor_loss(task: Block, tile: int, value: int, memory: int, gradients: int) -> float:
    """The actor's loss, ``coefficient * log_prob - Q``, summed over a tile, and its gradients.

    :param task: the task's block
    :param tile: number of the tile; its input is ``sampled_input``
    :param value: Q of each sample, [TILE]; the gradient of the loss with respect to the critics' outputs stands at
        their ``output_gradient``
    :param memory: memory of this thread, with the critics' activations
    :param gradients: a shard's gradients
    """
    entropy, critic = entropy_at(task.algorithm), network_at(task.critic)
    n_obs, n_act = task.n_obs, task.n_act
    count, x = min(task.batch - tile * TILE, TILE), tile_input(task, tile)
    kept = task.kept + tile * task.kept_bytes
    log_prob = kept + task.kept_bytes - ROW_BYTES
    heads = kept + network_at(task.actor).activation_bytes
    loss = 0.0
    for lane in range(count):
        loss += entropy.coefficient * load_float(log_prob, lane) - load_float(value, lane)
    outputs, room, dx = memory + task.critic_activations, memory + task.value_gradients, memory + task.action_gradient
    backward(critic, x, outputs, room, 0, dx, n_obs, n_obs + n_act, False)
    actor_gradient(task, entropy, x, kept, heads, count, dx, room, gradients)
    return loss


@compiled
def find_intermediate_states(
    task_address: int, entries: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], update: int
) -> int:
    """List the intermediate states of the returns of one update, sample by sample.

    :param task_address: address of the task's block
    :param entries: [batch * (n_steps - 1), ENTRY_FIELDS], filled from the beginning
    :param starts: [tiles], where each tile's entries begin
    :param update: number of the update
    :return: number of entries
    """
    task = task_at(task_address)
    count = 0
    for sample in range(task.batch):
        if sample % TILE == 0:
            starts[sample // TILE] = count
        row = load_int64(task.sampled_rows, update * task.batch + sample)
        env = load_int64(task.sampled_envs, update * task.batch + sample)
        for k in range(return_length(task, row, env) - 1):
            entries[count, 0] = sample
            entries[count, 1] = ((row + k) % task.n_rows) * task.n_envs + env
            entries[count, 2] = k + 1
            count += 1
    return count


def entropy_description(
    critic_tile: CFunc, actor_tile: CFunc, target_update_interval: int, learns_coefficient: bool, policy_delay: int
) -> UpdateDescription:
    """An update of a maximum-entropy algorithm.

    :param critic_tile: the critics' tile function; its second sum is that of the actor's log-probabilities
    :param actor_tile: the actor's
    :param target_update_interval: updates for one of the target networks
    :param learns_coefficient: whether the entropy coefficient is learned
    :param policy_delay: updates of the critics for one of actor and coefficient
    """
    return UpdateDescription(
        phases=(
            Phase(
                network="critic",
                tile_function=critic_tile,
                losses=("critic_loss",),
                scalars=("ent_coef", "ent_coef_loss") if learns_coefficient else ("ent_coef",),
                backward=("critic",),
                begin=begin_critic,
                finish=finish_critic,
                further_optimizers=("coefficient",) if learns_coefficient else (),
                target_passes={"actor": 1, "critic_target": 1},
            ),
            Phase(
                network="actor",
                tile_function=actor_tile,
                losses=("actor_loss",),
                period=policy_delay,
                backward=("critic", "actor"),
            ),
        ),
        targets=TargetUpdates(("critic",), target_update_interval, "call"),
    )


class EntropyUpdates(Updates):
    """Compiled updates of a maximum-entropy algorithm; its block begins with ``ENTROPY_FIELDS``."""

    n_noises = 2

    def _describe(self) -> None:
        super()._describe()
        settings = self.settings
        settings["learned"], settings["policy_delay"] = -1, self.description.periods["actor"]
        settings["log_std_min"], settings["log_std_max"] = LOG_STD_MIN, LOG_STD_MAX
        settings["coefficient_result"] = self.columns["ent_coef"]
        if "coefficient" in self.optimizers:
            self._coefficient_gradient = np.zeros(1, np.float32)
            settings["learned"], settings["loss_result"] = self._ranges["coefficient"][0], self.columns["ent_coef_loss"]
            settings["gradient"] = address(self._coefficient_gradient)
            number = list(self.optimizers).index("coefficient")
            settings["optimizer"] = address(self._optimizer_blocks) + number * OPTIMIZER.size

    def prepare(self, samples: Samples, tau: float, target_entropy: float, fixed_coefficient: float) -> None:
        """Bind what the next run learns from, and draw the noise of actions.

        :param samples: how the transitions that were drawn are read
        :param tau: Polyak coefficient
        :param target_entropy: target entropy; not used where the coefficient is fixed
        :param fixed_coefficient: the entropy coefficient; not used where it is learned
        """
        self.bind(samples, tau)
        fields, (noise, next_noise) = self.fields, self.noises
        fields["target_entropy"][0], fields["fixed_coefficient"][0] = target_entropy, fixed_coefficient
        fields["noise"][0], fields["next_noise"][0] = noise.data_ptr(), next_noise.data_ptr()
        if samples.n_steps > 1:
            self._draw_bonuses(samples)
            return
        # Compiled code reads no bonuses of returns with one reward
        for of_update, of_next in zip(noise, next_noise, strict=True):
            of_update.normal_()
            of_next.normal_()

    def _draw_bonuses(self, samples: Samples) -> None:
        """Find the intermediate states of each return, and draw all noise in SB3's order."""
        settings, (updates, batch), (noise, next_noise) = self.settings, self._sampled, self.noises
        tiles, most = -(-batch // TILE), batch * (samples.n_steps - 1)
        entries = np.empty((updates * most, ENTRY_FIELDS), np.int64)
        starts = np.zeros(updates * tiles + 1, np.int64)
        entry_noise, found = [], 0
        for update in range(updates):
            of_update = starts[update * tiles : (update + 1) * tiles]
            count = find_intermediate_states(self._address, entries[found:], of_update, update)
            of_update += found
            found += count
            entry_noise.append(th.empty(count, self.n_act, dtype=th.float32, device="cpu").normal_())
            noise[update].normal_()
            next_noise[update].normal_()
        starts[-1] = found
        together = th.cat(entry_noise)
        self._drawn = (entries, starts, together)
        settings["starts"], settings["entries"] = address(starts), address(entries)
        settings["entry_noise"] = together.data_ptr()
