"""A batch straight from the replay buffer's arrays into tiles, with n-step returns, compiled."""

from __future__ import annotations

from typing import Any

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, load_double, load_float, load_int64, prefetch, store_float

Block = Any

AHEAD = 16
"""How many samples before its turn a sample's rows are fetched from memory."""
LINE_BYTES = 64


@compiled
def clip(value: float, low: float, high: float) -> float:
    """``value`` within low and high; NaN stays NaN.

    :param value: a number
    :param low: smallest allowed
    :param high: largest allowed
    """
    if value < low:
        return low
    return high if value > high else value


@compiled
def read_observation(task: Block, array: int, place: int, x: int, lane: int) -> None:
    """Write one stored observation into a lane of a tile, normalized if the environment is.

    :param task: the task's block
    :param array: address of the buffer's observations or next observations
    :param place: row * n_envs + environment
    :param x: tile
    :param lane: number of the sample in the tile
    """
    n_obs = task.n_obs
    at = place * n_obs
    if task.obs_mean != 0:
        limit = task.clip_obs
        for i in range(n_obs):
            value = load_double(array, at + i) if task.is_double else float(load_float(array, at + i))
            value = (value - load_double(task.obs_mean, i)) / load_double(task.obs_std, i)
            store_float(x, i * TILE + lane, clip(value, -limit, limit))
    elif task.is_double:
        for i in range(n_obs):
            store_float(x, i * TILE + lane, load_double(array, at + i))
    else:
        for i in range(n_obs):
            store_float(x, i * TILE + lane, load_float(array, at + i))


@compiled
def _fetch(task: Block, sample: int) -> None:
    """Ask for the memory of a sample's transition; random rows of a large buffer are never in a cache."""
    place = load_int64(task.sampled_rows, sample) * task.n_envs + load_int64(task.sampled_envs, sample)
    row_bytes = task.n_obs * (2 * FLOAT_BYTES if task.is_double else FLOAT_BYTES)
    for at in range(0, row_bytes + LINE_BYTES, LINE_BYTES):
        prefetch(task.observations + place * row_bytes + at)
        prefetch(task.next_observations + place * row_bytes + at)
    prefetch(task.actions + place * task.n_act * FLOAT_BYTES)
    prefetch(task.rewards + place * FLOAT_BYTES)
    prefetch(task.dones + place * FLOAT_BYTES)
    prefetch(task.timeouts + place * FLOAT_BYTES)


@compiled
def return_length(task: Block, row: int, env: int) -> int:
    """Number of rewards in the return that begins with a transition: up to n, less where an episode ends.

    :param task: the task's block
    :param row: row of the transition
    :param env: its environment
    """
    for k in range(task.n_steps):
        at = (row + k) % task.n_rows
        place = at * task.n_envs + env
        ends = load_float(task.dones, place) != 0.0 or load_float(task.timeouts, place) != 0.0
        if ends or at == task.newest:
            return k + 1
    return int(task.n_steps)


@compiled
def read_tile(task: Block, update: int, first: int, x: int, next_x: int, rewards: int, factors: int) -> None:
    """Read the samples first .. first + TILE of a batch (RLx2, section 4.2).

    :param task: the task's block
    :param update: number of the update in this call
    :param first: number of the first sample in the batch; lanes past the batch's end are zero
    :param x: tile for observations and, below them, actions
    :param next_x: tile whose first rows get the states from which to bootstrap
    :param rewards: [TILE], discounted sums of rewards
    :param factors: [TILE], what the target value of that state is multiplied with; 0 after a termination
    """
    n_obs, n_act, batch = task.n_obs, task.n_act, task.batch
    count = min(batch - first, TILE)
    if count < TILE:
        for i in range(n_obs):
            for lane in range(count, TILE):
                store_float(x, i * TILE + lane, 0.0)
                store_float(next_x, i * TILE + lane, 0.0)
        for i in range(n_obs, n_obs + n_act):
            for lane in range(count, TILE):
                store_float(x, i * TILE + lane, 0.0)
        for lane in range(count, TILE):
            store_float(rewards, lane, 0.0)
            store_float(factors, lane, 0.0)
    begin = update * batch + first
    for lane in range(min(AHEAD, count)):
        _fetch(task, begin + lane)
    limit, std = task.clip_reward, task.reward_std
    for lane in range(count):
        if lane + AHEAD < count:
            _fetch(task, begin + lane + AHEAD)
        row = load_int64(task.sampled_rows, begin + lane)
        env = load_int64(task.sampled_envs, begin + lane)
        place = row * task.n_envs + env
        length = return_length(task, row, env)
        total, last = 0.0, place
        for k in range(length):
            last = ((row + k) % task.n_rows) * task.n_envs + env
            reward = float(load_float(task.rewards, last))
            if std != 0.0:
                reward = clip(reward / std, -limit, limit)
            total += reward * load_float(task.powers, k)
        alive = 1.0 - load_float(task.dones, last) * (1.0 - load_float(task.timeouts, last))
        store_float(rewards, lane, total)
        store_float(factors, lane, alive * load_float(task.powers, length))
        read_observation(task, task.observations, place, x, lane)
        read_observation(task, task.next_observations, last, next_x, lane)
        for i in range(n_act):
            store_float(x, (n_obs + i) * TILE + lane, load_float(task.actions, place * n_act + i))
