"""Observations on which an export is checked and int8 tables are calibrated."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.export.sparse_policy import Array, SparsePolicy

RANDOM_SHARE = 0.2
"""Of the steps in an environment, those with random actions: states that the policy alone would not come to."""


def from_buffer(model: OffPolicyAlgorithm, count: int, seed: int) -> Array | None:
    """Raw observations drawn from a model's replay buffer, each of them once; None if it has none.

    :param model: whose buffer it is
    :param count: how many, or as many as there are
    :param seed: of the draw
    :return: [at most count, ...]
    """
    buffer, rng = model.replay_buffer, np.random.default_rng(seed)
    if not isinstance(buffer, ReplayBuffer) or buffer.size() == 0 or isinstance(buffer.observations, dict):
        return None
    rows = np.arange(buffer.buffer_size if buffer.full else buffer.pos)
    if isinstance(buffer, DynamicReplayBuffer):
        rows = buffer.rows_held()
    n_held = len(rows) * buffer.n_envs
    chosen, envs = np.divmod(rng.choice(n_held, min(count, n_held), replace=False), buffer.n_envs)
    return np.asarray(buffer.observations[rows[chosen], envs])


def from_environment(policy: SparsePolicy, env_id: str, count: int, seed: int) -> Array:
    """Raw observations of episodes in which the policy acts, with some random actions.

    :param policy: the policy
    :param env_id: id of the environment
    :param count: how many
    :param seed: of environment and random actions
    :return: [count, ...]
    :raises ValueError: if the environment has other observations or actions than the policy
    """
    env: gym.Env[Any, Any] = gym.make(env_id)
    try:
        shapes = policy.observation_shape, policy.action.shape
        if (env.observation_space.shape, env.action_space.shape) != shapes:
            raise ValueError(
                f"{env_id} has observations and actions of shapes {env.observation_space.shape} and "
                f"{env.action_space.shape}, and the policy has {shapes[0]} and {shapes[1]}"
            )
        rng = np.random.default_rng(seed)
        env.action_space.seed(seed)
        observation, _ = env.reset(seed=seed)
        observations: list[Any] = []
        while len(observations) < count:
            observations.append(observation)
            is_random = rng.random() < RANDOM_SHARE
            action = env.action_space.sample() if is_random else policy.predict(observation)[0]
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                observation, _ = env.reset()
        return np.stack(observations)
    finally:
        env.close()


def drawn(policy: SparsePolicy, space: gym.spaces.Box, count: int, seed: int) -> Array:
    """Raw observations drawn at random: from the space where it is bounded, or else from normal distributions.

    :param policy: the policy, whose statistics say where its observations lie
    :param space: the observation space
    :param count: how many
    :param seed: of the draw
    :return: [count, ...]
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, policy.n_obs)) * rng.choice([0.1, 1.0, 3.0], (count, 1))
    if policy.normalization is not None:
        noise = policy.normalization.mean + policy.normalization.std * noise
    low, high = (bound.astype(np.float64).ravel() for bound in (space.low, space.high))
    is_bounded = np.isfinite(low) & np.isfinite(high) & (high - low < 1e6)
    observations = np.where(
        is_bounded,
        rng.uniform(np.where(is_bounded, low, 0.0), np.where(is_bounded, high, 1.0), (count, policy.n_obs)),
        noise,
    )
    return observations.astype(np.float32).reshape(count, *policy.observation_shape)
