"""``rlx2 train -i``: a training goes on where the saved one ended."""

from __future__ import annotations

from typing import Any, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.topology import attached_evolvers


class ContinuedTraining(BaseCallback):
    """Says where a training goes on, and fills an empty replay buffer before the first update.

    As many transitions are collected as at the start of a training, ``learning_starts``, but with the policy.

    :param trained_agent: file of the model
    """

    def __init__(self, trained_agent: str) -> None:
        super().__init__()
        self.trained_agent = trained_agent
        self._gradient_steps = 0
        self._last_without_update = 0

    def _on_training_start(self) -> None:
        model = cast(OffPolicyAlgorithm, self.model)
        self._gradient_steps = model.gradient_steps
        start, total = model.num_timesteps, model._total_timesteps
        print(f"Continuing at step {start} of {total}{_drop_fraction(model)}")
        buffer = model.replay_buffer
        if buffer is None or buffer.size() == 0:
            self._last_without_update = start + model.learning_starts
            print(
                f"There is no replay_buffer.pkl beside {self.trained_agent} (--save-replay-buffer writes one): "
                f"the policy collects learning_starts={model.learning_starts} transitions before the first update"
            )
            if self._last_without_update >= total:
                print("So no update is made: pass a larger -n, or -params learning_starts:N with a smaller N")

    # Only between two rollouts, so that checkpoints hold the model's own setting

    def _on_rollout_end(self) -> None:
        if self.num_timesteps <= self._last_without_update:
            cast(OffPolicyAlgorithm, self.model).gradient_steps = 0

    def _on_rollout_start(self) -> None:
        cast(OffPolicyAlgorithm, self.model).gradient_steps = self._gradient_steps

    def _on_step(self) -> bool:
        return True


class ContinuedModel:
    """Stands for a loaded model where the zoo trains it as if it were new, and goes on instead.

    Steps would be counted, and schedules anneal, from the beginning.

    :param model: the model
    """

    def __init__(self, model: OffPolicyAlgorithm) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def learn(self, total_timesteps: int, **kwargs: Any) -> None:
        """Train further.

        :param total_timesteps: number of further environment steps
        :param kwargs: as for the model's ``learn``
        """
        gradient_steps = self.model.gradient_steps
        try:
            self.model.learn(total_timesteps, reset_num_timesteps=False, **kwargs)
        finally:
            self.model.gradient_steps = gradient_steps


def _drop_fraction(model: OffPolicyAlgorithm) -> str:
    for evolver in attached_evolvers(model).values():
        if evolver.layers and evolver.rule.evolves:
            progress = evolver.progress(evolver.counters["updates"])
            fraction = evolver.rule.schedule.drop_fraction(evolver.drop_fraction, progress)
            return f", with the drop fraction at {fraction:.3g}"
    return ""
