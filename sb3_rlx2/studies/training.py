"""The usual program of a run: reinforcement learning from the first step to the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.resume import TrainingCheckpointCallback, has_checkpoint, resume
from sb3_rlx2.studies.algorithms import ALGORITHMS
from sb3_rlx2.studies.evaluation import StudyCallback
from sb3_rlx2.studies.model import make_callbacks, make_environment, make_model, save_agent
from sb3_rlx2.studies.run_folder import RunFolder

NEVER = 1_000_000_000
"""Episodes between two logs: what is logged goes nowhere."""


def train(run: RunFolder) -> None:
    """Train the model that the run's hyperparameters describe.

    :param run: folder of the run
    """
    learn(run, lambda: new_model(run))


def new_model(run: RunFolder, **changes: Any) -> OffPolicyAlgorithm:
    """The model that a run starts with.

    :param run: folder of the run
    :param changes: arguments of the algorithm that come instead of its hyperparameters
    """
    settings = run.settings
    env = make_environment(settings.environment, settings.hyperparameters)
    return make_model(settings.algorithm, settings.hyperparameters, env, settings.seed, **changes)


def trained_model(needed: RunFolder) -> OffPolicyAlgorithm:
    """The model of a finished run, with an empty replay buffer.

    :param needed: folder of a run that another one needs
    :raises ValueError: if the model is not there
    """
    if not needed.model.is_file():
        raise ValueError(
            f"{needed.model} is not there, since the run was restored from a file without models: remove "
            f"{needed.path} to have it made again"
        )
    return ALGORITHMS[needed.settings.algorithm].load(needed.model, device="cpu", buffer_size=1)


def learn(run: RunFolder, make: Callable[[], OffPolicyAlgorithm], callbacks: Sequence[BaseCallback] = ()) -> None:
    """Train to the run's last step, with evaluations and checkpoints, and save the model at the end and at its best.

    A run that was killed goes on from its newest checkpoint, and ends as if nothing had happened.

    :param run: folder of the run
    :param make: makes the model at its first step
    :param callbacks: further ones, for a run that begins and for one that goes on, default none
    """
    settings = run.settings
    is_new = not has_checkpoint(run.checkpoints)
    # Its evaluation at the last step comes before the last checkpoint
    every = [*make_callbacks(settings.hyperparameters), *callbacks, StudyCallback(run, is_new)]
    every.append(TrainingCheckpointCallback(run.checkpoints, settings.checkpoint_every))
    if is_new:
        model = make()
        model.learn(settings.steps, every, log_interval=NEVER)
    else:
        env = make_environment(settings.environment, settings.hyperparameters)
        model = resume(run.checkpoints, env, every, algorithm=ALGORITHMS[settings.algorithm])
    save_agent(model, run.path)
