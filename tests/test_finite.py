"""NaN, infinity and what float32 cannot hold are refused before they are stored."""

import copy
import itertools
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers import ALGORITHMS, COMPILED, in_turn, quick
from stable_baselines3 import TD3, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rlx2 import DynamicBufferCallback, DynamicReplayBuffer, RLx2TD3

PLAIN = {"n_steps": 1, "dynamic_buffer": False}
KINDS = {
    "dynamic": {},
    "dynamic class alone": {**PLAIN, "replay_buffer_class": DynamicReplayBuffer},
    "plain": PLAIN,
    "memory": {**PLAIN, "optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
    "dense": {**PLAIN, "topology": "dense"},
    "dense and dynamic": {"topology": "dense"},
}


class Faulty(gym.Env):
    """Gives a bad number once: in the observation or the reward of a step, or in the observation of a reset."""

    action_space = spaces.Box(-2, 2, (2,))

    def __init__(self, step=None, *, observation=0.5, reward=0.0, reset=None, episode=1000, keys=False):
        self.box = spaces.Box(-np.inf, np.inf, (3,), dtype=np.float64)
        self.observation_space = self.box if not keys else spaces.Dict(dict.fromkeys("ab", self.box))
        if keys == "goal":
            names = ("observation", "achieved_goal", "desired_goal")
            self.observation_space = spaces.Dict(dict.fromkeys(names, self.box))
        self.bad_step, self.bad, self.bad_reward = step, observation, reward
        self.bad_reset, self.episode, self.steps, self.resets = reset, episode, 0, 0

    def seen(self, last=0.5):
        observation = np.array([0.1, self.np_random.normal(), last])
        if isinstance(self.observation_space, spaces.Box):
            return observation
        keys = list(self.observation_space)
        return {key: observation if key == keys[-1] else np.zeros(3) for key in keys}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        return self.seen(np.nan if self.resets == self.bad_reset else 0.5), {}

    def step(self, action):
        self.steps += 1
        is_bad = self.steps == self.bad_step
        reward = self.bad_reward if is_bad else 0.0
        done = self.steps % self.episode == 0
        return self.seen(self.bad if is_bad else 0.5), reward, done, False, {}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return np.zeros(len(achieved_goal))


FAULTS = [
    ({"observation": np.nan}, "next observation[2] of environment 0 is nan at environment step 60"),
    ({"observation": -np.inf}, "next observation[2] of environment 0 is -inf at environment step 60"),
    ({"observation": 1e39}, "next observation[2] of environment 0 is 1e+39 at environment step 60"),
    ({"reward": np.nan}, "reward of environment 0 is nan at environment step 60"),
    ({"reward": np.inf}, "reward of environment 0 is inf at environment step 60"),
]


@pytest.mark.parametrize(("algorithm", "kind", "case"), [
    *itertools.product([RLx2TD3], KINDS, FAULTS),
    *in_turn(itertools.product([each for each in ALGORITHMS if each is not RLx2TD3], KINDS), FAULTS),
])  # fmt: skip
def test_a_transition_that_is_not_finite_is_not_stored_and_the_step_is_named(algorithm, kind, case):
    fault, message = case
    model = algorithm("MlpPolicy", Faulty(60, **fault), **quick(**KINDS[kind]))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}: "):
        model.learn(100)
    buffer = model.replay_buffer
    assert buffer.pos == 59
    assert np.isfinite(buffer.observations).all()
    assert np.isfinite(buffer.rewards).all()
    model.learn(40, reset_num_timesteps=False)  # from a reset
    assert buffer.pos == 99
    assert model.env.envs[0].unwrapped.resets == 2


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # VecEnv's rewards are float32
def test_rewards_beyond_float32_are_infinite():
    model = RLx2TD3("MlpPolicy", Faulty(60, reward=1e39), **quick())
    with pytest.raises(ValueError, match="reward of environment 0 is inf at environment step 60"):
        model.learn(100)


@pytest.mark.parametrize("largest", [3.4e38, -3.4e38, 1e30])
def test_large_numbers_that_float32_holds_are_stored(largest):
    model = RLx2TD3("MlpPolicy", Faulty(30, observation=largest, reward=largest), **quick(learning_starts=100))
    model.learn(40)
    assert model.replay_buffer.next_observations[29, 0, 2] == np.float32(largest)
    assert model.replay_buffer.rewards[29, 0] == np.float32(largest)


def test_what_the_buffers_own_type_cannot_hold_is_infinite():
    settings = quick(replay_buffer_kwargs={"observation_dtype": np.float16})
    with pytest.raises(ValueError, match=r"next observation\[2\] of environment 0 is 70000.0 at environment step 20"):
        RLx2TD3("MlpPolicy", Faulty(20, observation=7e4), **settings).learn(100)


@pytest.mark.parametrize("kind", ["dynamic", "plain"])
def test_the_environment_is_named(kind):
    env = DummyVecEnv([Faulty, lambda: Faulty(20, observation=np.nan), Faulty])
    with pytest.raises(ValueError, match=r"next observation\[2\] of environment 1 is nan at environment step 60"):
        RLx2TD3("MlpPolicy", env, **quick(**KINDS[kind])).learn(100)


def test_an_action_that_is_not_finite_is_not_stored():
    model = RLx2TD3("MlpPolicy", Faulty(), **quick())
    model.learn(60)
    model.actor.mu[0].values.data[:] = np.nan
    with pytest.raises(ValueError, match=r"action\[0\] of environment 0 is nan at environment step 61"):
        model.learn(10, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 60


@pytest.mark.parametrize("algorithm", COMPILED)
def test_observations_with_keys(algorithm):
    model = algorithm("MultiInputPolicy", Faulty(20, observation=np.nan, keys=True), **quick(**PLAIN))
    with pytest.raises(ValueError, match=r"next observation 'b'\[2\] of environment 0 is nan at environment step 20"):
        model.learn(100)
    settings = quick(**PLAIN, replay_buffer_class=HerReplayBuffer, buffer_size=200)
    model = algorithm("MultiInputPolicy", Faulty(20, observation=np.nan, keys="goal", episode=10), **settings)
    with pytest.raises(ValueError, match=r"next observation '\w+'\[2\] of environment 0 is nan at environment step 20"):
        model.learn(100)


@pytest.mark.parametrize("kind", ["dynamic", "plain"])
def test_the_first_observation_of_an_episode(kind):
    model = RLx2TD3("MlpPolicy", Faulty(reset=1), **quick(**KINDS[kind]))
    with pytest.raises(
        ValueError, match=r"observation after a reset\[2\] of environment 0 is nan at environment step 0"
    ):
        model.learn(100)
    model = RLx2TD3("MlpPolicy", Faulty(reset=3, episode=10), **quick(**KINDS[kind]))
    with pytest.raises(
        ValueError, match=r"observation after a reset\[2\] of environment 0 is nan at environment step 20"
    ):
        model.learn(100)
    model.learn(40, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 60


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # VecNormalize sees them first
@pytest.mark.parametrize("kind", ["dynamic", "plain"])
@pytest.mark.parametrize("fault", [{"observation": np.nan}, {"reward": np.inf}, {"reset": 1}, {"reset": 3}])
def test_statistics_of_vec_normalize_are_put_back(kind, fault):
    env = VecNormalize(DummyVecEnv([lambda: Faulty(30, episode=10, **fault)]))
    model = RLx2TD3("MlpPolicy", env, **quick(**KINDS[kind]))
    kept = []
    sample_action = model._sample_action

    def noting(*args):
        kept[:] = [copy.deepcopy(vars(statistics)) for statistics in (env.obs_rms, env.ret_rms)]
        return sample_action(*args)

    model._sample_action = noting
    with pytest.raises(ValueError, match=r"of environment 0 is \w+ at environment step (0|20|30)"):
        model.learn(100)
    del model._sample_action
    for statistics, before in zip((env.obs_rms, env.ret_rms), kept, strict=False):
        np.testing.assert_equal(vars(statistics), before)
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.returns).all()
    model.learn(80, reset_num_timesteps=False)
    assert np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.ret_rms.var)


def test_stock_sb3_with_a_dynamic_buffer():
    settings = {"buffer_size": 100, "learning_starts": 1000, "device": "cpu"}
    settings |= {"replay_buffer_class": DynamicReplayBuffer, "policy_kwargs": {"net_arch": [8]}}
    model = TD3("MlpPolicy", Faulty(20, observation=np.nan), **settings)
    with pytest.raises(ValueError, match=r"next observation\[2\] of environment 0 is nan at environment step 20"):
        model.learn(100, callback=DynamicBufferCallback())
    assert model.replay_buffer.pos == 19
    model = TD3("MlpPolicy", Faulty(20, observation=np.nan), **settings)
    with pytest.raises(ValueError, match=r"next observation\[2\] of environment 0 is nan: it is not stored"):
        model.learn(100)


def test_images_are_stored_as_they_are():
    buffer = DynamicReplayBuffer(4, spaces.Box(0, 255, (1, 4, 4), np.uint8), Faulty.action_space, device="cpu")
    image = np.full((1, 1, 4, 4), 255, np.uint8)
    buffer.add(image, image, np.zeros((1, 2), np.float32), np.zeros(1), np.zeros(1), [{}])
    assert (buffer.observations[0] == 255).all()
