"""The usual program of a run: reinforcement learning from the first step to the last."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.studies.evaluation import StudyCallback
from sb3_rlx2.studies.model import make_environment, make_model
from sb3_rlx2.studies.run_folder import RunFolder

NEVER = 1_000_000_000
"""Episodes between two logs: what is logged goes nowhere."""


def train(run: RunFolder) -> None:
    """Train the model that the run's hyperparameters describe.

    :param run: folder of the run
    """
    learn(run, new_model(run))


def new_model(run: RunFolder, **changes: Any) -> OffPolicyAlgorithm:
    """The model that a run starts with.

    :param run: folder of the run
    :param changes: arguments of the algorithm that come instead of its hyperparameters
    """
    settings = run.settings
    env = make_environment(settings.environment, settings.hyperparameters)
    return make_model(settings.algorithm, settings.hyperparameters, env, settings.seed, **changes)


def learn(run: RunFolder, model: OffPolicyAlgorithm) -> None:
    """Train a model to the run's last step, with evaluations, and save it.

    :param run: folder of the run
    :param model: at its first step
    """
    model.learn(run.settings.steps, StudyCallback(run), log_interval=NEVER)
    model.save(run.model)
    normalization = model.get_vec_normalize_env()
    if isinstance(normalization, VecNormalize):
        normalization.save(str(run.path / "vecnormalize.pkl"))
