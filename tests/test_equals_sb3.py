"""With topology="dense", n_steps=1 and dynamic_buffer=False the algorithms are Stable-Baselines3's, step for step."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import VALUE_BASED, environment
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2 import RLx2CrossQ, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC

PAIRS = [
    (TD3, RLx2TD3),
    (SAC, RLx2SAC),
    (DDPG, RLx2DDPG),
    (TQC, RLx2TQC),
    (CrossQ, RLx2CrossQ),
    (DQN, RLx2DQN),
    (QRDQN, RLx2QRDQN),
]
AS_IN_SB3 = {"topology": "dense", "n_steps": 1, "dynamic_buffer": False}
HYPERPARAMETERS = {
    "learning_rate": 1e-3,
    "buffer_size": 90,  # wraps around
    "learning_starts": 50,
    "batch_size": 32,
    "policy_kwargs": {"net_arch": [32, 24]},
    "seed": 3,
    "device": "cpu",
}


LOSSES = ("actor_loss", "critic_loss", "ent_coef", "loss")


def hyperparameters(ours):
    """Everything that both sides are given."""
    given = copy.deepcopy(HYPERPARAMETERS)
    if ours is RLx2QRDQN:
        given["policy_kwargs"]["n_quantiles"] = 10
    if ours is RLx2CrossQ:
        given["policy_kwargs"]["renorm_warmup_steps"] = 60
    if ours in VALUE_BASED:
        return {**given, "train_freq": 1, "target_update_interval": 30, "exploration_fraction": 0.5}
    return {**given, "action_noise": None}


class Recorder(BaseCallback):
    """Everything that could differ: actions, rewards, losses."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def _on_step(self):
        losses = [self.logger.name_to_value[f"train/{name}"] for name in LOSSES]
        self.rows.append(np.concatenate([self.locals["actions"].ravel(), self.locals["rewards"].ravel(), losses]))
        return True


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
@pytest.mark.parametrize("setting", ["one", "vec_normalize", "noise", "gradient_steps", "episodes"])
def test_same_losses_and_actions_step_for_step(theirs, ours, setting):
    runs = []
    for algorithm, extra in ((theirs, {}), (ours, AS_IN_SB3)):
        kwargs = {**hyperparameters(ours), **extra}
        env = gym.make(environment(ours), max_episode_steps=40)
        if setting == "vec_normalize":
            env = VecNormalize(make_vec_env(environment(ours), n_envs=3, seed=1))
            kwargs["gradient_steps"] = -1
        elif setting == "noise":
            if ours in VALUE_BASED:
                pytest.skip("exploration is by random actions")
            kwargs["action_noise"] = NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))
        elif setting == "gradient_steps":
            kwargs |= {"train_freq": 4, "gradient_steps": 3}
        elif setting == "episodes":
            kwargs |= {"train_freq": (1, "episode"), "gradient_steps": -1}
        model, recorder = algorithm("MlpPolicy", env, **kwargs), Recorder()
        model.learn(120, callback=recorder)
        model.learn(40, callback=recorder, reset_num_timesteps=False)
        runs.append((np.array(recorder.rows), model.get_parameters()))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    for name, tensor in runs[0][1]["policy"].items():
        assert th.equal(tensor, runs[1][1]["policy"][name]), name


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_the_test_notices_a_difference(theirs, ours):
    rows = []
    for algorithm, extra in ((theirs, {}), (ours, {**AS_IN_SB3, "topology": "static"})):
        model, recorder = (
            algorithm("MlpPolicy", environment(ours), **hyperparameters(ours), **extra),
            Recorder(),
        )
        model.learn(80, callback=recorder)
        rows.append(np.array(recorder.rows))
    assert not np.array_equal(*rows)
