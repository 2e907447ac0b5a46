"""One environment step of an RLx2 algorithm: compiled actions, and only finite numbers into the replay buffer."""

from __future__ import annotations

from typing import Any, cast

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.buffers import Array, DynamicReplayBuffer
from sb3_rlx2.common.finite import CheckedStorage, Observation, RunningStatistics, check_reset
from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.simba import SimBaMixin
from sb3_rlx2.common.topology import uncompiled_policy


class CheckedCollecting(OffPolicyAlgorithm):
    """Collects transitions as Stable-Baselines3 does, with faster actions, and refuses what no training can use."""

    _statistics_before: RunningStatistics

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        self._statistics_before = RunningStatistics(self._vec_normalize_env)
        self._noise_free_action: Array | None = None
        found = None if self.num_timesteps < learning_starts else self._explore(action_noise)
        if found is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        action, scaled_action, self._noise_free_action = found
        return action, scaled_action

    def _explore(self, action_noise: ActionNoise | None) -> tuple[Array, Array, Array] | None:
        """Actions, the same in [-1, 1], and without noise, if compiled code computes just what ``predict`` would."""
        own, policy = type(self).predict is OffPolicyAlgorithm.predict, self.policy
        if not own or "predict" in vars(self) or not isinstance(policy, SparsePolicyMixin):
            return None
        return policy.explore(cast(Array, self._last_obs), action_noise)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: Array,
        new_obs: Array | dict[str, Array],
        reward: Array,
        dones: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        storage = replay_buffer
        if isinstance(replay_buffer, DynamicReplayBuffer):  # it checks by itself
            replay_buffer.num_timesteps = self.num_timesteps
        else:
            storage = cast(ReplayBuffer, CheckedStorage(replay_buffer, self.num_timesteps))
        acted_on = self._last_obs
        try:
            super()._store_transition(storage, buffer_action, new_obs, reward, dones, infos)
        except ValueError:
            self._forget_step()
            raise
        if isinstance(policy := uncompiled_policy(self), SimBaMixin):
            policy.observe(cast(Array, acted_on))
        if any(dones):
            self._check_reset()

    def _check_reset(self) -> None:
        """Check the observation from which the next step starts, unnormalized."""
        observation = self._last_obs if self._vec_normalize_env is None else self._last_original_obs
        try:
            check_reset(cast(Observation, observation), self.n_envs, self.num_timesteps)
        except ValueError:
            self._forget_step()
            raise

    def _forget_step(self) -> None:
        """After a step that must not count: the next one follows a reset of the environment."""
        self._statistics_before.put_back()
        self._last_obs = None
