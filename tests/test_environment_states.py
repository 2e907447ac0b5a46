"""An environment whose state was put back into another one does the same from then on."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_rlx2.files import read_state, write_state
from sb3_rlx2.resume import register_environment
from sb3_rlx2.resume.environments import (
    environment_state,
    exactness_problem,
    set_environment_state,
    set_vectorized_state,
    vectorized_problem,
    vectorized_state,
)

CLASSIC = ["CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1", "Taxi-v4"]
MUJOCO = ["Reacher", "Pusher", "InvertedPendulum", "InvertedDoublePendulum", "HalfCheetah", "Hopper", "Swimmer"]
MUJOCO += ["Walker2d", "Ant", "Humanoid", "HumanoidStandup"]


def through_a_file(state, tmp_path):
    write_state(tmp_path / "state", state)
    return read_state(tmp_path / "state")


def moved(env, action):
    observation, reward, terminated, truncated, _ = env.step(action)
    ended = terminated or truncated
    return [np.asarray(observation), reward, ended, *([np.asarray(env.reset()[0])] if ended else [])]


@pytest.mark.parametrize("name", [*CLASSIC, *(f"{name}-v5" for name in MUJOCO)])
def test_gymnasiums_tasks_go_on_in_another_environment(name, tmp_path):
    if name.endswith("v5"):
        pytest.importorskip("mujoco")
    if name not in gym.registry:
        pytest.skip("not in this version of Gymnasium")
    env, other = Monitor(gym.make(name)), Monitor(gym.make(name))
    env.reset(seed=3)
    env.action_space.seed(1)
    for _ in range(57):
        moved(env, env.action_space.sample())
    set_environment_state(other, through_a_file(environment_state(env), tmp_path))
    for _ in range(150):
        action = env.action_space.sample()
        assert other.action_space.sample() == pytest.approx(action, abs=0)
        one, another = moved(env, action), moved(other, action)
        assert all(map(np.array_equal, one, another))
    assert exactness_problem(env) is None
    env.close()
    other.close()


def wrapped(env):
    env = gym.wrappers.NormalizeObservation(env)
    if hasattr(gym.wrappers, "FrameStackObservation"):  # since Gymnasium 1.0
        env = gym.wrappers.RecordEpisodeStatistics(env, buffer_length=5, stats_key="statistics")
        env = gym.wrappers.FrameStackObservation(env, 3)
    return gym.wrappers.TransformReward(env, lambda reward: 2 * reward)


@pytest.mark.parametrize("vectorized", [DummyVecEnv, SubprocVecEnv])
def test_wrappers_of_one_and_of_all_environments_go_on(vectorized, tmp_path):
    def make(folder):
        kwargs = {"start_method": "fork"} if vectorized is SubprocVecEnv else {}
        env = make_vec_env(
            "Pendulum-v1",
            2,
            0,
            wrapper_class=wrapped,
            vec_env_cls=vectorized,
            vec_env_kwargs=kwargs,
            monitor_dir=folder,
        )
        return VecNormalize(VecFrameStack(VecMonitor(env), 2))

    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        env, other = make(str(tmp_path / "one")), make(str(tmp_path / "other"))
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, size=(500, 2, 1))
    for action in actions[:250]:
        env.step(action)
    assert vectorized_problem(env) is None
    set_vectorized_state(other, through_a_file(vectorized_state(env), tmp_path))
    for action in actions[250:]:
        one, another = env.step(action), other.step(action)
        assert all(map(np.array_equal, one[:3], another[:3]))
    assert np.array_equal(env.obs_rms.mean, other.obs_rms.mean)
    env.close()
    other.close()


class Outside:
    """A simulation of which this package knows nothing."""

    def __init__(self):
        self.value = 0.0


class Simulated(gym.Env):
    def __init__(self):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
        self.simulation = Outside()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.simulation.value = self.np_random.normal()
        return np.array([self.simulation.value]), {}

    def step(self, action):
        self.simulation.value += action[0]
        return np.array([self.simulation.value]), 0.0, False, False, {}


def test_what_is_not_known_can_be_registered(monkeypatch):
    env, other = Simulated(), Simulated()
    env.reset(seed=0)
    env.step([0.5])
    assert exactness_problem(env) == "its Simulated does not do the same after its attributes were put back"
    monkeypatch.setattr("sb3_rlx2.resume.environments._registered", {})
    register_environment(
        Simulated,
        lambda env: env.simulation.value,
        lambda env, state: setattr(env.simulation, "value", state),
    )
    assert exactness_problem(env) is None
    set_environment_state(other, environment_state(env))
    assert other.step([0.1])[0] == env.step([0.1])[0]


def test_the_trial_of_an_unknown_environment_changes_nothing():
    env, other = Simulated(), Simulated()
    for one in (env, other):
        one.reset(seed=0)
        one.action_space.seed(2)
    before = np.random.get_state()[1].copy()
    exactness_problem(env)
    assert np.array_equal(np.random.get_state()[1], before)
    assert np.array_equal(env.action_space.sample(), other.action_space.sample())
    assert env.reset()[0] == other.reset()[0]


def test_a_wrapper_with_an_unknown_object_is_named():
    class Holding(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.held = Outside()

    assert exactness_problem(Holding(gym.make("Pendulum-v1"))) == "its Holding.held is a Outside"


def test_the_time_limit_that_the_zoo_puts_in_the_place_of_gymnasiums_is_the_same():
    patched = type("PatchedTimeLimit", (TimeLimit,), {})
    plain, other = (limit(gym.make("Pendulum-v1").unwrapped, 200) for limit in (TimeLimit, patched))
    plain.reset(seed=3)
    plain.step(np.zeros(1, np.float32))
    other.reset(seed=4)
    set_environment_state(other, environment_state(plain))
    np.testing.assert_array_equal(other.step(np.ones(1))[0], plain.step(np.ones(1))[0])
    assert other._elapsed_steps == plain._elapsed_steps == 2


class GlobalNoise(gym.Env):
    """Draws from NumPy's global generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        return np.random.normal(size=1).astype(np.float32), {}

    def step(self, action):
        return np.random.normal(size=1).astype(np.float32), 0.0, False, False, {}


def test_global_random_generators_of_worker_processes_go_on():
    venv = SubprocVecEnv([lambda: Monitor(GlobalNoise())] * 2, start_method="fork")
    venv.reset()
    state = vectorized_state(venv)
    first = venv.step(np.zeros((2, 1)))[0]
    set_vectorized_state(venv, state)
    assert np.array_equal(venv.step(np.zeros((2, 1)))[0], first)
    venv.close()
