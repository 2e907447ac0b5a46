"""Behaviour cloning: an actor learns by regression what another one does. Its steps are gradient updates."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch.nn import functional as F

from sb3_rlx2.studies.evaluation import Evaluator, Status, count_connections
from sb3_rlx2.studies.model import make_environment
from sb3_rlx2.studies.run_folder import RunFolder
from sb3_rlx2.studies.tickets import winning_ticket
from sb3_rlx2.studies.training import new_model, trained_model

TRANSITIONS = 100_000
NOISE = 0.1


def train(run: RunFolder) -> None:
    """The program of a run that clones the agent of the last run that it needs.

    States are those that this agent meets with Gaussian noise on its actions, which the actor does not see. Sparse
    layers evolve as ``topology`` says. Options: ``transitions`` (default 100,000), ``noise`` (its σ, on actions in
    [-1, 1], default 0.1), ``ticket`` (true: the connections of the first run that it needs; default false).

    :param run: folder of the run, of an algorithm with a deterministic actor (``"rlx2_td3"``), as the expert's is
    :raises ValueError: if the expert's environment is normalized
    """
    options = run.settings.options
    expert = run.needed[-1]
    if expert.settings.hyperparameters.get("normalize"):
        raise ValueError(f"{run.settings.method} cannot clone {expert.settings.method}: its environment is normalized")
    teacher = trained_model(expert)
    count, noise = int(options.get("transitions", TRANSITIONS)), float(options.get("noise", NOISE))
    states, actions = demonstrations(run, teacher, count, noise)
    model = winning_ticket(run) if options.get("ticket") else new_model(run)
    clone(run, model, states, actions)
    model.save(run.model)


def demonstrations(
    run: RunFolder, teacher: OffPolicyAlgorithm, count: int, noise: float
) -> tuple[th.Tensor, th.Tensor]:
    """States that an agent meets, and what it would do in each without noise.

    :param run: folder of the run, whose environment and seed they are of
    :param teacher: the agent
    :param count: how many states
    :param noise: σ of the noise on its actions, scaled to [-1, 1]
    :return: observations [count, ...] and actions [count, action dimensions] in [-1, 1]
    """
    settings = run.settings
    entry = {name: value for name, value in settings.hyperparameters.items() if name in ("env_kwargs", "env_wrapper")}
    env = make_environment(settings.environment, entry)
    env.seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    observation = cast(Any, env.reset())
    observations, actions = [], []
    for _ in range(count):
        action = teacher.policy.scale_action(teacher.predict(observation, deterministic=True)[0])
        observations.append(observation[0])
        actions.append(action[0])
        noisy = np.clip(action + noise * random.standard_normal(action.shape), -1.0, 1.0)
        observation, *_ = env.step(cast(Any, teacher.policy.unscale_action(noisy.astype(np.float32))))
    return th.as_tensor(np.stack(observations), dtype=th.float32), th.as_tensor(np.stack(actions))


def clone(run: RunFolder, model: Any, states: th.Tensor, actions: th.Tensor) -> None:
    """Train a model's actor by regression, with evaluations.

    :param run: folder of the run
    :param model: of an algorithm with a deterministic actor; its topology evolves by the updates made here
    :param states: observations [n, ...]
    :param actions: what the actor is to do there [n, action dimensions], in [-1, 1]
    """
    settings = run.settings
    evaluator, status = Evaluator(run), Status(run)
    evaluator.begin()
    optimizer = model.actor.optimizer
    random = np.random.default_rng(settings.seed)
    model.learning_starts, model._total_timesteps = 0, settings.steps
    for update in range(1, settings.steps + 1):
        model.num_timesteps = update  # by which the drop fraction anneals
        chosen = th.as_tensor(random.integers(len(states), size=model.batch_size))
        loss = F.mse_loss(model.actor(states[chosen]), actions[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % settings.evaluate_every == 0 or update == settings.steps:
            evaluator.evaluate(model, update, update, count_connections(model))
        status.update(update)
