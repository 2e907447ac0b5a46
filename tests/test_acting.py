"""The compiled actor predicts what the policy's own forward pass does."""

import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch as th
from helpers import ALL_COMPILED, COMPILED, GAUSSIAN, VALUE_BASED, environment, quick
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.td3 import MlpPolicy


def model_for(algorithm, env="HalfCheetah-v5", **kwargs):
    return algorithm("MlpPolicy", env, **quick(**kwargs))


def slow_prediction(model, observations):
    with th.no_grad():
        scaled = model.policy(th.as_tensor(observations, dtype=th.float32), deterministic=True).numpy()
    return model.policy.unscale_action(scaled)


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU])
def test_predicts_as_the_policy_does(algorithm, activation):
    model = model_for(algorithm, policy_kwargs={"net_arch": [64, 40, 31], "activation_fn": activation})
    observations = np.random.default_rng(0).standard_normal((9, 17))
    assert model.policy._fast_actor() is not None
    several, state = model.predict(observations, deterministic=True)
    assert state is None
    np.testing.assert_allclose(several, slow_prediction(model, observations), atol=1e-5)
    assert several.dtype == np.float32
    for i, observation in enumerate(observations):
        single, _ = model.predict(observation, deterministic=True)
        assert single.shape == (6,)
        np.testing.assert_array_equal(single, several[i])
    assert model.predict(observations[:0])[0].shape == (0, 6)


def test_sac_samples_the_actions_that_torch_would():
    model = model_for(RLx2SAC)
    observations = np.random.default_rng(0).standard_normal((3, 17)).astype(np.float32)
    for rows in (observations, observations[:1]):
        th.manual_seed(4)
        fast, _ = model.predict(rows)
        th.manual_seed(4)
        with th.no_grad():
            slow = model.policy.actor(th.as_tensor(rows)).numpy()
        np.testing.assert_allclose(fast, model.policy.unscale_action(slow), atol=1e-5)
        assert not np.allclose(fast, model.predict(rows)[0])


@pytest.mark.parametrize("algorithm", COMPILED)
def test_sees_every_change_of_the_networks(algorithm, tmp_path):
    model = model_for(algorithm, "Pendulum-v1")
    observations = np.random.default_rng(1).standard_normal((4, 3))

    def check(which):
        actions, _ = which.predict(observations, deterministic=True)
        np.testing.assert_allclose(actions, slow_prediction(which, observations), atol=1e-5)

    before = model.predict(observations, deterministic=True)[0]
    model.learn(150)
    assert model.topology_counters["actor"]["evolutions"] > 1
    check(model)
    assert not np.allclose(before, model.predict(observations, deterministic=True)[0])
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter.mul_(1.5)
    check(model)
    model.save(tmp_path / "model")
    other = model_for(algorithm, "Pendulum-v1", seed=8)
    other.predict(observations)
    other.set_parameters(tmp_path / "model")
    check(other)
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], other.predict(observations, deterministic=True)[0]
    )
    check(algorithm.load(tmp_path / "model"))
    model.policy.double()
    assert model.policy._fast_actor() is None


def test_forward_hooks_and_policies_of_ones_own_are_respected():
    model = model_for(RLx2TD3, "Pendulum-v1")
    seen = []
    observation = np.zeros(3, np.float32)
    model.predict(observation)
    handle = model.actor.register_forward_hook(lambda *_: seen.append(1))
    model.predict(observation)
    handle.remove()
    assert seen == [1]

    class Own(MlpPolicy):
        def _predict(self, observation, deterministic=False):
            return th.full((len(observation), 1), 0.25)

    assert RLx2TD3(Own, "Pendulum-v1", **quick()).predict(observation)[0] == pytest.approx(0.5)


def test_wrong_observations_get_sb3s_errors():
    model = model_for(RLx2TD3, "Pendulum-v1")
    with pytest.raises(ValueError, match="Unexpected observation shape"):
        model.predict(np.zeros(4))
    with pytest.raises(ValueError, match="mixing Gym API"):
        model.predict((np.zeros(3), {}))


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_the_buffer_gets_the_noise_free_action_of_acting_itself(algorithm):
    exploring = {"exploration_final_eps": 0.5} if algorithm in VALUE_BASED else {}
    model = model_for(algorithm, make_vec_env(environment(algorithm), n_envs=2), learning_starts=20, **exploring)
    model.learn(20)
    model.gradient_steps = 0
    model.learn(80, reset_num_timesteps=False)
    buffer = model.replay_buffer
    rows = slice(12, 48)
    observations = buffer.observations[rows].reshape(-1, *model.observation_space.shape)
    with th.no_grad():
        expected = model.policy(th.as_tensor(observations), deterministic=True).numpy().reshape(-1, 1)
    np.testing.assert_allclose(buffer.noise_free_actions[rows].reshape(-1, 1), expected, atol=1e-5)
    assert not np.allclose(buffer.actions[rows], buffer.noise_free_actions[rows])
    np.testing.assert_array_equal(buffer.actions[:10], buffer.noise_free_actions[:10])


@pytest.mark.parametrize("owner", ["class", "model", "policy"])
def test_a_predict_of_ones_own_chooses_the_actions(owner):
    def own(self, observation, *args, **kwargs):
        return np.full((len(observation), 1), 0.5, np.float32), None

    kind = type("Own", (RLx2TD3,), {"predict": own}) if owner == "class" else RLx2TD3
    model = kind("MlpPolicy", "Pendulum-v1", **quick(learning_starts=10, gradient_steps=0, action_noise=None))
    if owner != "class":
        owned = model if owner == "model" else model.policy
        owned.predict = types.MethodType(own, owned)
    model.learn(30)
    np.testing.assert_array_equal(model.replay_buffer.actions[10:30], 0.25)


@pytest.mark.parametrize("name", ["_predict", "obs_to_tensor"])
def test_what_predict_calls_may_be_ones_own(name):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    own, called = getattr(model.policy, name), []
    setattr(model.policy, name, lambda *args, **kwargs: (called.append(name), own(*args, **kwargs))[1])
    model.predict(np.zeros(3, np.float32))
    assert called == [name]


def test_threads_may_act_at_once():
    model = model_for(RLx2TD3)
    batches = [np.random.default_rng(i).standard_normal((64, 17)) for i in range(4)]
    expected = [model.predict(batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            for result, truth in zip(pool.map(lambda batch: model.predict(batch)[0], batches), expected, strict=True):
                np.testing.assert_array_equal(result, truth)


def test_an_actor_that_was_rebuilt_is_noticed():
    model, other = model_for(RLx2TD3), model_for(RLx2TD3, seed=5)
    observations = np.random.default_rng(0).standard_normal((3, 17))
    model.predict(observations)
    model.policy.actor.mu = other.policy.actor.mu
    np.testing.assert_array_equal(model.predict(observations)[0], other.predict(observations)[0])
    seen = []
    model.policy.actor.mu[0].register_forward_hook(lambda *_: seen.append(1))
    model.predict(observations)
    assert seen


@pytest.mark.parametrize("algorithm", COMPILED)
def test_an_actor_of_another_type_or_with_a_forward_of_its_own_is_left_to_torch(algorithm):
    model = model_for(algorithm)
    observations = np.random.default_rng(0).standard_normal((3, 17))
    expected = model.predict(observations, deterministic=True)[0]
    bias = model.actor.latent_pi[0].bias if algorithm in GAUSSIAN else model.actor.mu[0].bias
    saved = bias.data
    bias.data = saved.double()  # of a single tensor, which no layer notices
    assert model.policy._fast_actor() is None
    bias.data = saved
    assert model.policy._fast_actor() is not None
    handle = register_module_forward_hook(lambda *_: None)
    assert model.policy._fast_actor() is None
    handle.remove()
    model.actor.forward = lambda *_, **__: th.full((3, 6), 0.25)
    np.testing.assert_allclose(model.predict(observations)[0], 0.25)
    del model.actor.forward
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], expected)
