"""Classes of Stable-Baselines3, Gymnasium and this package are known to files without pickle."""

import io

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALL
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, write_state
from sb3_rlx2.sparse.rules import RULES

SPACES = [
    spaces.Box(-2, 3, (3,)),
    spaces.Box(np.array([-np.inf, 0]), np.array([1e300, np.inf]), dtype=np.float64),
    spaces.Box(0, 255, (3, 8, 8), np.uint8),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Dict({"c": spaces.Discrete(3)})}),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
]


def read_back(state):
    file = io.BytesIO()
    write_state(file, state)
    file.seek(0)
    return read_state(file)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("seed", [None, 3])
def test_spaces_come_back_with_their_random_state(space, seed):
    if seed is not None:
        space.seed(seed)
        space.sample()
    read = read_back(space)
    assert type(read) is type(space)
    assert read == space
    assert (read.dtype, read.shape) == (space.dtype, space.shape)
    if seed is not None:
        assert str(read.sample()) == str(space.sample())


@pytest.mark.parametrize(
    "schedule", [FloatSchedule(3e-4), ConstantSchedule(0.1), FloatSchedule(LinearSchedule(1.0, 0.1, 0.5))], ids=repr
)
def test_schedules_come_back(schedule):
    read = read_back(schedule)
    assert repr(read) == repr(schedule)
    assert [read(part / 8) for part in range(9)] == [schedule(part / 8) for part in range(9)]


@pytest.mark.parametrize(
    "noise",
    [
        NormalActionNoise(np.zeros(2), np.full(2, 0.1)),
        OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.1), dtype=np.float64),
        VectorizedActionNoise(OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2), initial_noise=np.ones(2)), 3),
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_action_noise_comes_back_with_its_state(noise):
    np.random.seed(0)
    noise()
    read = read_back(noise)
    np.random.seed(1)
    expected = [noise(), noise()]
    np.random.seed(1)
    np.testing.assert_array_equal([read(), read()], expected)
    assert read().dtype == expected[0].dtype


def test_train_frequency_goal_selection_and_statistics_come_back():
    frequency = TrainFreq(3, TrainFrequencyUnit.EPISODE)
    assert read_back([frequency, GoalSelectionStrategy.FINAL]) == [frequency, GoalSelectionStrategy.FINAL]
    statistics = RunningMeanStd(shape=(3,))
    statistics.update(np.arange(12.0).reshape(4, 3))
    np.testing.assert_equal(vars(read_back(statistics)), vars(statistics))


@pytest.mark.parametrize("rule", RULES.values())
def test_topology_rules_come_back(rule):
    read = read_back([rule, rule()])
    assert read[0] is rule
    assert type(read[1]) is rule


@pytest.mark.parametrize("algorithm", ALL)
def test_policies_of_every_algorithm_are_known(algorithm):
    policies = [*algorithm.policy_aliases.values(), *algorithm.dense_class.policy_aliases.values()]
    assert read_back(policies) == policies


@pytest.mark.parametrize("value", [th.nn.ReLU, 3, "seed", [1]])
def test_a_space_whose_random_generator_is_something_else_is_refused(value, monkeypatch):
    space = spaces.Discrete(3)
    monkeypatch.setattr(space, "_np_random", value)
    with pytest.raises(ModelFileError, match="random generator"):
        read_back(space)
