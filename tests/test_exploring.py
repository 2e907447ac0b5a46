"""Actions to explore with are those of Stable-Baselines3 to the last bit, though compiled code computes them."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import COMPILED, Still, quick
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

OBSERVATIONS = spaces.Box(-1.0, 1.0, (4,), np.float32)
SPACES = {
    "symmetric": spaces.Box(-2.0, 2.0, (3,), np.float32),
    "one-sided": spaces.Box(np.array([0.0, -0.3, 5.0], np.float32), np.array([0.1, 7.7, 6.0], np.float32)),
    "float64": spaces.Box(-0.7, 1.3, (3,), np.float64),
    "float16": spaces.Box(-0.7, 1.3, (3,), np.float16),
    "matrix": spaces.Box(-1.0, 0.9, (2, 2), np.float32),
}


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
    model = algorithm("MlpPolicy", make_vec_env(lambda: Still(OBSERVATIONS, space), n_envs), **quick())
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
    model = COMPILED[0]("MlpPolicy", Still(OBSERVATIONS, SPACES["symmetric"]), **quick())
    model._last_obs = np.zeros((1, 4), np.float32)
    model.policy.unscale_action = lambda scaled: np.full_like(scaled, 0.125)
    assert model.policy.explore(model._last_obs, None) is None
    action, scaled = model._sample_action(0, None, 1)
    assert (action == 0.125).all()
    assert (scaled == 0.0625).all()
