"""DynamicReplayBuffer against a list of transitions and a loop."""

import copy
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rlx2 import DynamicReplayBuffer

GAMMA = 0.9
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float64)
ACTIONS = spaces.Box(-1, 1, (1,), np.float32)


def make(buffer_size=20, n_envs=1, cls=DynamicReplayBuffer, **kwargs):
    if issubclass(cls, NStepReplayBuffer):
        kwargs = {"gamma": GAMMA, **kwargs}
    return cls(buffer_size, OBSERVATIONS, ACTIONS, device="cpu", n_envs=n_envs, **kwargs)


class Collector:
    """Random episodes: fills a buffer and remembers, per environment, what an unbounded list would hold."""

    def __init__(self, buffer, seed):
        self.buffer, self.rng = buffer, np.random.default_rng(seed)
        self.history = [[] for _ in range(buffer.n_envs)]
        self.obs = self.rng.normal(size=(buffer.n_envs, 2))

    def step(self, noise_free=None):
        n = self.buffer.n_envs
        next_obs, rewards = self.rng.normal(size=(n, 2)), self.rng.normal(size=n)
        kind = self.rng.choice(["", "", "", "terminated", "truncated"], size=n)
        dones = kind != ""
        infos = [{"TimeLimit.truncated": k == "truncated"} for k in kind]
        actions = self.rng.uniform(-1, 1, size=(n, 1)).astype(np.float32)
        if noise_free is not None:
            self.buffer.set_noise_free_action(noise_free)
        self.buffer.add(self.obs, next_obs, actions, rewards, dones, infos)
        for i in range(n):
            end = "terminated" if kind[i] == "terminated" else "truncated" if kind[i] else None
            self.history[i].append([self.obs[i], actions[i], rewards[i], next_obs[i], end])
        self.obs = np.where(dones[:, None], self.rng.normal(size=(n, 2)), next_obs)

    def cut(self):
        """Reset without an episode end, as a second learn() does."""
        self.obs = self.rng.normal(size=self.obs.shape)
        self.buffer.end_cut_episodes(self.obs)
        for history in self.history:
            if history and history[-1][4] is None:
                history[-1][4] = "truncated"


def brute_force_return(history, start, n_steps, bonus=None):
    """Return, bootstrap state, whether it terminated, and its power of gamma: the definition as a loop."""
    total = 0.0
    for k in range(n_steps):
        _, _, reward, next_obs, end = history[start + k]
        total += GAMMA**k * reward
        if end is not None or start + k == len(history) - 1 or k == n_steps - 1:
            return total, next_obs, end == "terminated", GAMMA ** (k + 1)
        if bonus is not None:
            total += GAMMA ** (k + 1) * bonus(next_obs)
    raise AssertionError("unreachable")


def held_rows(buffer):
    return [(buffer._oldest_row + i) % buffer.buffer_size for i in range(buffer.size())]


@given(
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(2, 60),
    st.integers(0, 10**6),
    st.lists(st.sampled_from(["step"] * 8 + ["cut", "shrink"]), min_size=1, max_size=90),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_n_step_returns_equal_a_loop_over_episodes(n_envs, n_steps, buffer_size, seed, events, with_bonus):
    buffer = make(buffer_size, n_envs, n_steps=n_steps)
    collector = Collector(buffer, seed)
    expected_rows = 0
    for event in ["step", *events]:
        if event == "step":
            collector.step()
            expected_rows = min(expected_rows + 1, buffer.buffer_size)
        elif event == "cut":
            collector.cut()
        else:
            expected_rows -= int(0.3 * expected_rows)
            buffer.shrink(0.3)
    assert buffer.size() == expected_rows
    assert buffer.n_transitions == expected_rows * n_envs
    assert buffer.n_transitions <= buffer.capacity <= buffer.buffer_size * n_envs

    bonus = (lambda obs: 3 * obs[..., 0]) if with_bonus and n_steps > 1 else None
    buffer.state_bonus = bonus
    rows = np.array(held_rows(buffer))
    np.random.seed(seed)
    samples = buffer._get_samples(rows)
    np.random.seed(seed)
    envs = np.random.randint(0, n_envs, size=rows.shape)
    for i, env in enumerate(envs):
        history = collector.history[env]
        start = len(history) - len(rows) + i
        total, last_obs, terminated, discount = brute_force_return(history, start, n_steps, bonus)
        np.testing.assert_allclose(samples.observations[i], history[start][0], rtol=1e-6)
        np.testing.assert_allclose(samples.actions[i], history[start][1])
        np.testing.assert_allclose(samples.rewards[i, 0], total, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(samples.next_observations[i], last_obs, rtol=1e-6)
        assert bool(samples.dones[i, 0]) == terminated
        used = GAMMA if samples.discounts is None else samples.discounts[i, 0].item()
        if not terminated:
            assert used == pytest.approx(discount, rel=1e-5)


@given(st.integers(1, 3), st.integers(0, 50), st.floats(0, 1), st.integers(0, 40))
@settings(deadline=None)
def test_shrink_forgets_the_oldest_and_never_goes_below_the_minimum(n_envs, steps, fraction, min_size):
    buffer = make(20 * n_envs, n_envs, min_size=min_size)
    collector = Collector(buffer, 0)
    for _ in range(steps):
        collector.step()
    before, rows = buffer.n_transitions, held_rows(buffer)
    forgotten = buffer.shrink(fraction)
    assert buffer.n_transitions == before - forgotten >= min(before, min_size)
    assert forgotten <= fraction * before
    assert held_rows(buffer) == rows[forgotten // n_envs :]
    if before * (1 - fraction) >= min_size + n_envs:
        assert forgotten // n_envs == int(fraction * (before // n_envs))


def test_capacity_falls_when_forgetting_and_grows_again_to_the_maximum():
    buffer = make(20)
    collector = Collector(buffer, 0)
    for _ in range(25):
        collector.step()
    assert buffer.capacity == buffer.n_transitions == 20
    buffer.shrink(0.5)
    assert buffer.capacity == buffer.n_transitions == 10
    for expected in [*range(11, 21), 20, 20]:
        collector.step()
        assert buffer.capacity == buffer.n_transitions == expected


def test_only_transitions_that_are_held_are_sampled():
    buffer = make(20, n_steps=3)
    collector = Collector(buffer, 0)
    for _ in range(33):
        collector.step()
    buffer.shrink(0.4)
    held = {tuple(np.float32(transition[0])) for transition in collector.history[0][-12:]}
    drawn = {tuple(row) for row in buffer.sample(2000).observations.numpy()}
    assert drawn == held


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("steps", [7, 33])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_with_nothing_forgotten_it_samples_what_sb3_samples(n_steps, steps, n_envs):
    ours = make(20 * n_envs, n_envs, n_steps=n_steps, observation_dtype=None)
    theirs = (
        make(20 * n_envs, n_envs, cls=ReplayBuffer)
        if n_steps == 1
        else make(20 * n_envs, n_envs, cls=NStepReplayBuffer, n_steps=n_steps)
    )
    for buffer in (ours, theirs):
        collector = Collector(buffer, 1)
        for _ in range(steps):
            collector.step()
    assert ours.size() == theirs.size()
    batches = []
    for buffer in (ours, theirs):
        np.random.seed(5)
        batches.append(buffer.sample(64))
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        th.testing.assert_close(getattr(batches[0], name), getattr(batches[1], name))
    if n_steps == 1:
        assert batches[0].discounts is None
    else:
        alive = batches[0].dones == 0
        th.testing.assert_close(batches[0].discounts[alive], batches[1].discounts[alive])


def test_sample_changes_nothing_but_random_state():
    buffer = make(n_steps=3, n_steps_delay=2)
    collector = Collector(buffer, 0)
    for _ in range(10):
        collector.step()
    before = copy.deepcopy(vars(buffer))
    state = np.random.get_state()[2]
    buffer.sample(4)
    assert np.random.get_state()[2] != state
    assert before.keys() == vars(buffer).keys()
    for name, value in vars(buffer).items():
        assert np.array_equal(before[name], value, equal_nan=name == "last_distance"), name


def test_n_steps_come_after_the_delay_and_the_attribute_keeps_its_value():
    buffer = make(n_steps=3, n_steps_delay=2)
    collector = Collector(buffer, 0)
    for _ in range(10):
        collector.step()
    in_use = []
    for n_updates in range(4):
        buffer.n_updates = n_updates
        in_use.append((buffer.n_steps_in_use, buffer.sample(4).discounts is not None))
    assert in_use == [(1, False), (1, False), (3, True), (3, True)]
    assert buffer.n_steps == 3


def test_noise_free_actions_belong_to_their_transitions():
    buffer = make(20)
    collector = Collector(buffer, 0)
    for i in range(25):
        collector.step(np.array([[i / 100]]) if i % 2 else None)
    observations, actions = buffer.oldest(6)
    expected = collector.history[0][5:11]
    np.testing.assert_allclose(observations, [transition[0] for transition in expected], rtol=1e-6)
    for i, (transition, action) in enumerate(zip(expected, actions, strict=True), start=5):
        assert action.item() == pytest.approx(i / 100 if i % 2 else transition[1].item())
    assert len(buffer.oldest(1000)[0]) == 20
    buffer.shrink(0.5)
    np.testing.assert_allclose(buffer.oldest(1)[0][0], collector.history[0][15][0], rtol=1e-6)


def test_end_cut_episodes_leaves_episodes_that_go_on_alone():
    buffer = make(20, 3, n_steps=3)
    buffer.end_cut_episodes(np.zeros((3, 2)))  # nothing stored yet
    obs = np.arange(6.0).reshape(3, 2)
    buffer.add(obs, obs + 10, np.zeros((3, 1)), np.zeros(3), np.array([False, False, True]), [{}] * 3)
    going_on = obs + 10
    going_on[1:] += 1
    buffer.end_cut_episodes(going_on)
    assert buffer.timeouts[0].tolist() == [0, 1, 0]  # goes on, cut off, ended by itself


def test_observations_are_stored_as_float32_unless_told_otherwise():
    assert make().observations.dtype == np.float32
    assert make(observation_dtype=None).observations.dtype == np.float64
    assert make(observation_dtype="float64").next_observations.dtype == np.float64
    images = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    assert DynamicReplayBuffer(10, images, ACTIONS).observations.dtype == np.uint8
    assert make().observation_space is OBSERVATIONS


def test_vec_normalize():
    class Env(DummyVecEnv):
        def __init__(self):
            self.num_envs, self.observation_space, self.action_space = 1, OBSERVATIONS, ACTIONS
            self.envs = [SimpleNamespace(get_wrapper_attr=lambda _: None)]

    normalize = VecNormalize(Env())
    normalize.obs_rms.mean, normalize.obs_rms.var = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    normalize.ret_rms.var = np.array(25.0)
    buffer = make(n_steps=3)
    collector = Collector(buffer, 0)
    for _ in range(10):
        collector.step()
    buffer.state_bonus = lambda obs: 100 * obs[:, 0]
    rows = np.arange(10)
    plain_bonus = buffer.state_bonus
    buffer.state_bonus = None
    raw, scaled = buffer._get_samples(rows), buffer._get_samples(rows, normalize)
    np.testing.assert_allclose(scaled.observations, normalize.normalize_obs(raw.observations.numpy()), rtol=1e-5)
    np.testing.assert_allclose(
        scaled.next_observations, normalize.normalize_obs(raw.next_observations.numpy()), rtol=1e-5
    )
    np.testing.assert_allclose(scaled.rewards, raw.rewards / np.sqrt(25.0 + normalize.epsilon), atol=1e-6)
    buffer.state_bonus = plain_bonus
    with_bonus = buffer._get_samples(rows, normalize).rewards
    history = collector.history[0]
    between = [
        brute_force_return(history, i, 3, lambda obs: 100 * (obs[0] - 1) / np.sqrt(4 + normalize.epsilon))[0]
        - brute_force_return(history, i, 3)[0]
        for i in range(10)
    ]
    np.testing.assert_allclose((with_bonus - scaled.rewards)[:, 0], between, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(buffer.oldest(10, normalize)[0], scaled.observations)


def test_pickles_without_the_models_bonus():
    buffer = make(n_steps=3)
    collector = Collector(buffer, 0)
    for _ in range(30):
        collector.step()
    buffer.shrink(0.2)
    buffer.state_bonus = lambda obs: obs[:, 0]
    twin = pickle.loads(pickle.dumps(buffer))
    assert twin.state_bonus is None
    assert (twin.size(), twin.capacity, twin._oldest_row) == (buffer.size(), buffer.capacity, buffer._oldest_row)
    twin.reset()
    assert twin.size() == 0
    assert buffer.size() == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps=0"),
        ({"n_steps": 1.5}, "n_steps=1.5"),
        ({"n_steps_delay": -1}, "n_steps_delay=-1"),
        ({"min_size": -5}, "min_size=-5"),
        ({"gamma": 2.0}, "gamma=2.0"),
        ({"gamma": "x"}, "gamma='x'"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True"),
        ({"observation_dtype": "int32"}, "observation_dtype='int32'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_dict_observations_and_bad_fractions_are_refused():
    with pytest.raises(ValueError, match="does not support Dict"):
        DynamicReplayBuffer(10, spaces.Dict({"a": OBSERVATIONS}), ACTIONS)
    with pytest.raises(ValueError, match=r"fraction=1.1"):
        make().shrink(1.1)
    with pytest.raises(ValueError, match="buffer_size=0"):
        DynamicReplayBuffer(0, OBSERVATIONS, ACTIONS)


def test_nothing_can_be_sampled_where_nothing_is_held():
    with pytest.raises(ValueError, match="the replay buffer holds no transitions to sample"):
        make().sample(4)


def test_without_time_limits_an_episode_that_is_cut_off_ends_all_the_same():
    buffer = make(2, handle_timeout_termination=False)
    add = partial(buffer.add, np.zeros((1, 2)), np.ones((1, 2)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    add()
    buffer.end_cut_episodes(np.full((1, 2), 9.0))
    assert buffer.timeouts[:, 0].tolist() == [1, 0]
    add()
    add()  # where the cut was
    assert buffer.timeouts[:, 0].tolist() == [0, 0]


def test_as_many_of_the_oldest_transitions_are_read_as_asked_for():
    buffer = make(60, 3)
    collector = Collector(buffer, 0)
    for _ in range(10):
        collector.step()
    assert [len(part) for part in buffer.oldest(4)] == [4, 4]
