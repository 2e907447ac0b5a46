"""A discount factor that grows while an agent learns."""

from __future__ import annotations

from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.callbacks import checked_off_policy
from sb3_rlx2.sparse.checks import check_number


class DiscountScheduleCallback(BaseCallback):
    """Look further ahead once the agent has learned to move: the discount factor grows during the training.

    Between two shares of the training ``1 - γ`` shrinks by the same factor in each environment step, from that of
    ``initial_gamma`` to that of ``final_gamma``; before and after, γ stays what it is. The horizon, ``1 / (1 - γ)``
    steps, is 100 and 333 with the defaults. Sets the ``gamma`` of the algorithm and of a replay buffer of multi-step
    targets before each call of ``train``; ``VecNormalize`` keeps its own, so that rewards are not rescaled. Logs
    ``rlx2/gamma``. Works with stock off-policy algorithms of SB3 too.

    As in SB3's schedules, the training is all environment steps since the last ``learn`` that counted from 0. One that
    is resumed goes on with the same values; ``learn(reset_num_timesteps=False)`` makes it longer, and γ is what a
    training of that length has.

    Source: François-Lavet, Fonteneau, Ernst, "How to Discount Deep Reinforcement Learning: Towards New Dynamic
    Strategies", 2015, https://arxiv.org/abs/1512.02011, which lets ``1 - γ`` shrink so from the first step on.

    :param initial_gamma: discount factor at the beginning, in [0, 1), default 0.99
    :param final_gamma: discount factor at the end, in [initial_gamma, 1), default 0.997
    :param start: share of the training's environment steps after which γ grows, in [0, 1], default 0.6
    :param end: share of the training's environment steps after which γ is ``final_gamma``, in [start, 1], default 0.9
    :param verbose: see ``BaseCallback``; nothing is printed, default 0
    :raises ValueError: if an argument is out of range, or, as ``learn`` begins, the algorithm's ``gamma`` is not
        between ``initial_gamma`` and ``final_gamma``
    """

    model: OffPolicyAlgorithm

    def __init__(
        self,
        initial_gamma: float = 0.99,
        final_gamma: float = 0.997,
        start: float = 0.6,
        end: float = 0.9,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.initial_gamma = check_number(initial_gamma, "initial_gamma", 0.0, 1.0)
        self.final_gamma = check_number(final_gamma, "final_gamma", self.initial_gamma, 1.0)
        if self.final_gamma == 1.0:
            raise ValueError(f"final_gamma={final_gamma!r} is not allowed: it must be below 1")
        self.start = check_number(start, "start", 0.0, 1.0)
        self.end = check_number(end, "end", self.start, 1.0)

    def gamma_at(self, share: float) -> float:
        """The discount factor after a share of the training.

        :param share: of the training's environment steps, 0 to 1
        """
        if share <= self.start:
            return self.initial_gamma
        if share >= self.end:
            return self.final_gamma
        grown = (share - self.start) / (self.end - self.start)
        shrinking = (1.0 - self.final_gamma) / (1.0 - self.initial_gamma)
        gamma = 1.0 - (1.0 - self.initial_gamma) * shrinking**grown
        return float(min(max(gamma, self.initial_gamma), self.final_gamma))  # rounded, it may lie outside

    def get_state(self) -> dict[str, Any]:
        """Nothing: the discount factor follows from the number of environment steps."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to do: a training that is resumed follows the arguments of the callback that it is given.

        :param state: what ``get_state`` returned
        """

    def _init_callback(self) -> None:
        gamma = checked_off_policy(self.model, self).gamma
        if not self.initial_gamma <= gamma <= self.final_gamma:
            raise ValueError(
                f"{type(self).__name__}: {type(self.model).__name__} has gamma={gamma}, which is not between "
                f"initial_gamma={self.initial_gamma} and final_gamma={self.final_gamma}"
            )

    def _on_rollout_end(self) -> None:
        model = self.model
        model.gamma = self.gamma_at(self.num_timesteps / model._total_timesteps)
        buffer = cast(Any, model.replay_buffer)
        if hasattr(buffer, "gamma"):
            buffer.gamma = model.gamma
        if "gamma" in model.replay_buffer_kwargs:  # with which load() makes a buffer
            model.replay_buffer_kwargs = {**model.replay_buffer_kwargs, "gamma": model.gamma}
        self.logger.record("rlx2/gamma", model.gamma)

    def _on_step(self) -> bool:
        return True
