"""What RLx2's value-based algorithms (DQN, QR-DQN) share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise

from sb3_rlx2.common.argument_ranges import check_discrete_actions
from sb3_rlx2.common.buffers import Array
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm
from sb3_rlx2.common.policies import SparseValuePolicyMixin
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.values import ValueUpdates


class RLx2ValueAlgorithm(RLx2OffPolicyAlgorithm):
    """Sparse training on top of an algorithm with one network that tells the values of discrete actions.

    The dynamic buffer keeps the greedy action at each state. Arguments are those of ``RLx2OffPolicyAlgorithm``.
    """

    network_sparsities: ClassVar[Mapping[str, str]] = {"q_net": "sparsity"}
    max_grad_norm: Any

    def _check_action_space(self) -> None:
        check_discrete_actions(self.action_space)

    def _optimizers_of_losses(self) -> dict[str, th.optim.Optimizer]:
        return {"loss": self.policy.optimizer}

    def _prepare_updates(self, updates: ValueUpdates, samples: Samples) -> None:
        updates.prepare(samples, self.max_grad_norm)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        sampled = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.dynamic_buffer and self.num_timesteps >= learning_starts:
            self._noise_free_action = self._greedy_actions()
        return sampled

    def _greedy_actions(self) -> Array | None:
        """Greedy actions at the last observations, if compiled code computes them."""
        policy, observations = self.policy, self._last_obs
        if not isinstance(policy, SparseValuePolicyMixin) or not isinstance(observations, np.ndarray):
            return None
        return policy.fast_actions(cast(Any, observations))
