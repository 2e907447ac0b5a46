"""NaN, infinity and what float32 cannot hold: refused before it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

Array = npt.NDArray[Any]
Observation = Array | Mapping[str, Array]

FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_transition(
    observation: Observation,
    next_observation: Observation,
    action: Array,
    reward: Array,
    *,
    step: int | None,
    observation_max: float = FLOAT32_MAX,
) -> None:
    """Check that all numbers of a transition can be learned from.

    :param observation: of each environment, [n_envs, ...], or by key
    :param next_observation: as ``observation``
    :param action: [n_envs, ...]
    :param reward: [n_envs]
    :param step: number of environment steps so far, this one included; None: not known
    :param observation_max: the largest number that observations are stored as, default float32's
    :raises ValueError: if one is NaN, infinite or too large; it names the number, the environment and the step
    """
    if not (
        _fits(observation, observation_max)
        and _fits(next_observation, observation_max)
        and _fits(action, FLOAT32_MAX)
        and _fits(reward, FLOAT32_MAX)
    ):
        n_envs = np.size(reward)
        _refuse("observation", observation, n_envs, observation_max, step)
        _refuse("action", action, n_envs, FLOAT32_MAX, step)
        _refuse("reward", reward, n_envs, FLOAT32_MAX, step)
        _refuse("next observation", next_observation, n_envs, observation_max, step)


def check_reset(observation: Observation, n_envs: int, step: int) -> None:
    """Check that all numbers of observations at the start of episodes can be learned from.

    :param observation: of each environment, [n_envs, ...], or by key
    :param n_envs: number of environments
    :param step: number of environment steps so far
    :raises ValueError: if one is NaN, infinite or too large; it names the number, the environment and the step
    """
    if not _fits(observation, FLOAT32_MAX):
        _refuse("observation after a reset", observation, n_envs, FLOAT32_MAX, step)


def _fits(numbers: Observation, largest: float) -> bool:
    """Whether all numbers are finite and at most ``largest``."""
    if not isinstance(numbers, np.ndarray):  # asking for a Mapping takes longer
        return all(_fits(entry, largest) for entry in numbers.values())
    # The fastest look at all numbers: NaN and infinity show in the product, and so do large numbers
    return (
        numbers.dtype.kind != "f"
        or float(np.vdot(numbers, numbers)) <= largest * largest
        or bool((np.abs(numbers.astype(np.float64)) <= largest).all())
    )


def _refuse(name: str, numbers: Observation, n_envs: int, largest: float, step: int | None) -> None:
    """Raise an error that names the first number that does not fit, if there is one."""
    if isinstance(numbers, Mapping):
        for key, entry in numbers.items():
            _refuse(f"{name} {key!r}", entry, n_envs, largest, step)
    elif not _fits(numbers, largest):
        rows = numbers.astype(np.float64).reshape(n_envs, -1)
        env, index = np.argwhere(~(np.abs(rows) <= largest))[0]
        component = f"[{index}]" if rows.shape[1] > 1 else ""
        when = "" if step is None else f" at environment step {step}"
        raise ValueError(
            f"{name}{component} of environment {env} is {rows[env, index]}{when}: it is not stored, since nothing can "
            f"be learned from NaN, infinity or numbers beyond {largest:.4g}"
        )


class CheckedStorage:
    """Stores transitions in a replay buffer that does not check them by itself.

    :param buffer: the replay buffer
    :param step: number of environment steps so far
    """

    def __init__(self, buffer: ReplayBuffer, step: int) -> None:
        self._buffer, self._step = buffer, step

    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment, as in SB3's ``ReplayBuffer``, if all of its numbers are finite."""
        check_transition(obs, next_obs, action, reward, step=self._step)
        self._buffer.add(obs, next_obs, action, reward, done, infos)


class RunningStatistics:
    """The running statistics of a ``VecNormalize`` as they are now, to be put back if a step must not count.

    :param env: the normalized environments; None: there is nothing to put back
    """

    def __init__(self, env: VecNormalize | None) -> None:
        self._env = env
        if env is not None:
            # An update makes new arrays, so that references are enough
            self._moments = [(statistics, vars(statistics).copy()) for statistics in _statistics(env)]
            self._returns = env.returns

    def put_back(self) -> None:
        """Make the statistics what they were."""
        if self._env is not None:
            for statistics, moments in self._moments:
                vars(statistics).update(moments)
            self._env.returns = self._returns


def _statistics(env: VecNormalize) -> Iterator[RunningMeanStd]:
    yield env.ret_rms
    of_observations = getattr(env, "obs_rms", None)  # missing with norm_obs=False
    if isinstance(of_observations, dict):
        yield from of_observations.values()
    elif of_observations is not None:
        yield of_observations
