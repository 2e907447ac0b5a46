"""Actions to explore with are those of Stable-Baselines3 to the last bit, though compiled code computes them."""

import csv

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALL, COMPILED, environment, quick
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

SPACES = {
    "symmetric": spaces.Box(-2.0, 2.0, (3,), np.float32),
    "one-sided": spaces.Box(np.array([0.0, -0.3, 5.0], np.float32), np.array([0.1, 7.7, 6.0], np.float32)),
    "float64": spaces.Box(-0.7, 1.3, (3,), np.float64),
    "matrix": spaces.Box(-1.0, 0.9, (2, 2), np.float32),
}


class Still(gym.Env):
    """Nothing ever happens."""

    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class Noise(ActionNoise):
    """Noise that is no array of float32, or not in the shape of the actions."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self):
        number = np.random.normal()
        return {"double": np.array([number]), "number": number, "list": [number]}[self.kind]


def noise_of(kind, space, n_envs):
    if kind in ("double", "number", "list"):
        return Noise(kind)
    noise = NormalActionNoise(np.zeros(space.shape), np.full(space.shape, 0.4))
    return {"none": None, "normal": VectorizedActionNoise(noise, n_envs) if n_envs > 1 else noise}[kind]


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("noise", "n_envs"), [("none", 2), ("normal", 1), ("normal", 3), ("double", 2), ("number", 1), ("list", 1)]
)
def test_explores_with_the_numbers_of_stable_baselines3(algorithm, name, noise, n_envs):
    space = SPACES[name]
    model = algorithm("MlpPolicy", make_vec_env(lambda: Still(space), n_envs), **quick())
    model._last_obs = np.random.default_rng(0).standard_normal((n_envs, 4)).astype(np.float32)
    action_noise, results = noise_of(noise, space, n_envs), []
    for sample in (type(model)._sample_action, OffPolicyAlgorithm._sample_action):
        np.random.seed(1)
        th.manual_seed(1)
        results.append(sample(model, 0, action_noise, n_envs))
    assert model._noise_free_action.shape == (n_envs, np.prod(space.shape))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape == (n_envs, *space.shape)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def test_a_scale_of_the_policys_own_is_respected():
    model = COMPILED[0]("MlpPolicy", Still(SPACES["symmetric"]), **quick())
    model._last_obs = np.zeros((1, 4), np.float32)
    model.policy.unscale_action = lambda scaled: np.full_like(scaled, 0.125)
    assert model.policy.explore(model._last_obs, None) is None
    action, scaled = model._sample_action(0, None, 1)
    assert (action == 0.125).all()
    assert (scaled == 0.0625).all()


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_each_log_has_the_numbers_of_its_own_step(algorithm, n_envs, tmp_path):
    env = make_vec_env(environment(algorithm), n_envs)
    model = algorithm("MlpPolicy", env, **quick(buffer_distance_threshold=10.0))  # nothing is forgotten
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(450 * n_envs, log_interval=1)
    model.logger.close()
    with (tmp_path / "progress.csv").open() as file:
        logs = [log for log in csv.DictReader(file) if log["rlx2/buffer_size"]]  # the first of those of a step
    assert len(logs) >= 2
    for log in logs:
        # What the step that ends the episode brings is stored after the callbacks
        assert float(log["rlx2/buffer_size"]) == float(log["time/total_timesteps"]) - n_envs
        assert all(float(log[f"rlx2/{network}_density"]) > 0 for network in model.network_sparsities)
    assert model.logger.name_to_value["rlx2/buffer_size"] == model.replay_buffer.n_transitions
