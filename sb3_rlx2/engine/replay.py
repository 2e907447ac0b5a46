"""A batch straight from the replay buffer's arrays into tiles, with n-step returns, compiled."""

from __future__ import annotations

from typing import Any

from sb3_rlx2.engine import task as t
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import TILE
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, load_double, load_float, load_int64, prefetch, store_float

Table = Any

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
def read_observation(task: Table, floats: Table, array: int, place: int, x: int, lane: int) -> None:
    """Write one stored observation into a lane of a tile, normalized if the environment is.

    :param task: integers of the task
    :param floats: floats of the task
    :param array: address of the buffer's observations or next observations
    :param place: row * n_envs + environment
    :param x: tile
    :param lane: number of the sample in the tile
    """
    n_obs = task[t.N_OBS]
    at = place * n_obs
    if task[t.OBS_MEAN] != 0:
        limit = floats[t.CLIP_OBS]
        for i in range(n_obs):
            value = load_double(array, at + i) if task[t.IS_DOUBLE] else float(load_float(array, at + i))
            value = (value - load_double(task[t.OBS_MEAN], i)) / load_double(task[t.OBS_STD], i)
            store_float(x, i * TILE + lane, clip(value, -limit, limit))
    elif task[t.IS_DOUBLE]:
        for i in range(n_obs):
            store_float(x, i * TILE + lane, load_double(array, at + i))
    else:
        for i in range(n_obs):
            store_float(x, i * TILE + lane, load_float(array, at + i))


@compiled
def _fetch(task: Table, sample: int) -> None:
    """Ask for the memory of a sample's transition; random rows of a large buffer are never in a cache."""
    place = load_int64(task[t.SAMPLED_ROWS], sample) * task[t.N_ENVS] + load_int64(task[t.SAMPLED_ENVS], sample)
    row_bytes = task[t.N_OBS] * (2 * FLOAT_BYTES if task[t.IS_DOUBLE] else FLOAT_BYTES)
    for at in range(0, row_bytes + LINE_BYTES, LINE_BYTES):
        prefetch(task[t.OBSERVATIONS] + place * row_bytes + at)
        prefetch(task[t.NEXT_OBSERVATIONS] + place * row_bytes + at)
    prefetch(task[t.ACTIONS] + place * task[t.N_ACT] * FLOAT_BYTES)
    prefetch(task[t.REWARDS] + place * FLOAT_BYTES)
    prefetch(task[t.DONES] + place * FLOAT_BYTES)
    prefetch(task[t.TIMEOUTS] + place * FLOAT_BYTES)


@compiled
def return_length(task: Table, row: int, env: int) -> int:
    """Number of rewards in the return that begins with a transition: up to n, less where an episode ends.

    :param task: integers of the task
    :param row: row of the transition
    :param env: its environment
    """
    for k in range(task[t.N_STEPS]):
        at = (row + k) % task[t.N_ROWS]
        place = at * task[t.N_ENVS] + env
        ends = load_float(task[t.DONES], place) != 0.0 or load_float(task[t.TIMEOUTS], place) != 0.0
        if ends or at == task[t.NEWEST]:
            return k + 1
    return int(task[t.N_STEPS])


@compiled
def read_tile(
    task: Table, floats: Table, update: int, first: int, x: int, next_x: int, rewards: int, factors: int
) -> None:
    """Read the samples first .. first + TILE of a batch (RLx2, section 4.2).

    :param task: integers of the task
    :param floats: floats of the task
    :param update: number of the update in this call
    :param first: number of the first sample in the batch; lanes past the batch's end are zero
    :param x: tile for observations and, below them, actions
    :param next_x: tile whose first rows get the states from which to bootstrap
    :param rewards: [TILE], discounted sums of rewards
    :param factors: [TILE], what the target value of that state is multiplied with; 0 after a termination
    """
    n_obs, n_act, batch = task[t.N_OBS], task[t.N_ACT], task[t.BATCH]
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
    limit, std = floats[t.CLIP_REWARD], floats[t.REWARD_STD]
    for lane in range(count):
        if lane + AHEAD < count:
            _fetch(task, begin + lane + AHEAD)
        row = load_int64(task[t.SAMPLED_ROWS], begin + lane)
        env = load_int64(task[t.SAMPLED_ENVS], begin + lane)
        place = row * task[t.N_ENVS] + env
        length = return_length(task, row, env)
        total, last = 0.0, place
        for k in range(length):
            last = ((row + k) % task[t.N_ROWS]) * task[t.N_ENVS] + env
            reward = float(load_float(task[t.REWARDS], last))
            if std != 0.0:
                reward = clip(reward / std, -limit, limit)
            total += reward * load_float(task[t.POWERS], k)
        alive = 1.0 - load_float(task[t.DONES], last) * (1.0 - load_float(task[t.TIMEOUTS], last))
        store_float(rewards, lane, total)
        store_float(factors, lane, alive * load_float(task[t.POWERS], length))
        read_observation(task, floats, task[t.OBSERVATIONS], place, x, lane)
        read_observation(task, floats, task[t.NEXT_OBSERVATIONS], last, next_x, lane)
        for i in range(n_act):
            store_float(x, (n_obs + i) * TILE + lane, load_float(task[t.ACTIONS], place * n_act + i))
