"""Bad input and plans that are too short: said clearly, before anything is lost."""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, ALL, Still, environment, quick

from sb3_rlx2 import DynamicReplayBuffer, RLx2CrossQ, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC, tqc
from sb3_rlx2.sparse import sparse_layers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"actor_sparsity": 1.0}, r"actor_sparsity=1.0 .* 0 <= actor_sparsity < 1"),
        ({"critic_sparsity": -0.1}, r"critic_sparsity=-0.1 .* 0 <= critic_sparsity < 1"),
        ({"actor_sparsity": 0.99999}, r"actor_sparsity=0.99999 in \w*Actor: .*without a single connection"),
        ({"n_steps": 0}, "n_steps=0"),
        ({"n_steps_delay": -1}, "n_steps_delay=-1"),
        ({"topology": "snip"}, r"topology='snip' is unknown: allowed are \['dense', 'rigl', 'set', 'static'\]"),
        ({"topology_interval": 0}, "topology_interval=0"),
        ({"topology_end": 0}, "topology_end=0"),
        ({"drop_fraction": 1.5}, "drop_fraction=1.5"),
        ({"buffer_min_size": -1}, "buffer_min_size=-1"),
        ({"buffer_check_interval": 0}, "buffer_check_interval=0"),
        ({"buffer_distance_threshold": -0.2}, "buffer_distance_threshold=-0.2"),
        ({"engine": "quantum"}, r"engine='quantum' is not available: allowed are \['auto', 'compiled', 'torch'\]"),
        ({"optimize_memory_usage": True}, "optimize_memory_usage=True: not possible with n-step"),
        ({"replay_buffer_kwargs": {"n_steps": 5}}, r"replay_buffer_kwargs\['n_steps'\]: pass n_steps to"),
        ({"action_noise": 0.1}, "^action_noise=0.1 is not allowed: it must be an ActionNoise object, such as"),
        ({"device": "meta"}, "^device='meta' is not allowed: tensors on it hold no numbers"),
        ({"policy_kwargs": {"sparse_features_extractor": True}}, "sparse_features_extractor=True, .*no linear"),
        ({"policy_kwargs": {"actor_sparsity": 0.5}}, r"policy_kwargs\['actor_sparsity'\]: pass actor_sparsity to"),
    ],
)  # fmt: skip
def test_bad_arguments(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        algorithm("MlpPolicy", "Pendulum-v1", **copy.deepcopy(arguments))  # SAC adds to policy_kwargs


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("name", "values", "allowed"),
    [
        ("tau", [5, -0.1, np.nan, "0.1", True, None, [0.1]], "a number in 0 <= tau <= 1"),
        ("gamma", [2, -1e-9, np.inf, np.nan], "a number in 0 <= gamma <= 1"),
        ("learning_rate", [-1e-3, np.nan, np.inf, "lin", None, 10**400], "a finite number >= 0"),
        ("learning_rate", [lambda progress: np.nan, lambda progress: -1.0], "the schedule begins with"),
        ("buffer_size", [0.5, 0, -1, 1e6, 2**60, "many", None], "(a whole number >= 1|at most)"),
        ("batch_size", [0, 0.5, 64.0, True], "a whole number >= 1"),
        ("learning_starts", [-1, 0.5, np.nan], "a whole number >= 0"),
        ("gradient_steps", [-2, 0.5], "a whole number >= -1"),
        ("train_freq", [0, -1, 0.5, (1, "step", 2), (0, "episode"), [1, "step"]], "a whole number >= 1"),
        ("train_freq", [(1, "steps"), (1, 5)], "'step' or 'episode'"),
        ("stats_window_size", [-1, 0.5], "a whole number >= 0"),
        ("seed", [-1, 0.5, "0", 2**32], "(a whole number >= 0|seeds up to)"),
        ("optimize_memory_usage", ["no", 0.5], "True or False"),
        ("dynamic_buffer", ["no", None], "True or False"),
        ("replay_buffer_kwargs", [[5]], "a dict"),
        ("replay_buffer_class", ["ReplayBuffer", dict], "a ReplayBuffer class or None"),
        ("tensorboard_log", [5], "the path of a folder or None"),
        ("actor_sparsity", [False], "0 <= actor_sparsity < 1"),
    ],
)
def test_each_argument_has_a_range_and_the_error_names_it(algorithm, name, values, allowed):
    if name not in inspect.signature(algorithm).parameters:
        pytest.skip("it has no such argument")
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}=[^\n]* is not allowed: [^\n]*{allowed}[^\n]*$"):
            algorithm("MlpPolicy", "Pendulum-v1", **{name: value})


@pytest.mark.parametrize(
    ("algorithm", "name", "values"),
    [
        (RLx2TD3, "policy_delay", [0, 0.5]),
        (RLx2TD3, "target_policy_noise", [-0.1, np.nan, np.inf]),
        (RLx2TD3, "target_noise_clip", [-0.1, np.nan]),
        (RLx2SAC, "target_update_interval", [0, 0.5]),
        (RLx2SAC, "ent_coef", [-0.1, np.nan, np.inf, None, "auto_0", "auto_-1", "auto_inf", "automatic", "much"]),
        (RLx2SAC, "ent_coef", ["auto_1_0", "auto_0.1_3", "auto_"]),
        (RLx2SAC, "target_entropy", [np.nan, np.inf, None, "much", "nan"]),
        (RLx2SAC, "use_sde", ["no"]),
        (RLx2SAC, "sde_sample_freq", [-2, 0.5]),
        (RLx2CrossQ, "policy_delay", [0, 0.5]),
        (RLx2DQN, "max_grad_norm", [None, -1.0, np.nan]),
        (RLx2QRDQN, "max_grad_norm", [-1.0, np.nan]),
        (RLx2QRDQN, "batch_size", [0, "a", None]),
        (RLx2TQC, "top_quantiles_to_drop_per_net", [-1, 0.5, 25]),
    ],
)
def test_each_argument_of_one_algorithm_has_a_range_and_the_error_names_it(algorithm, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}=[^\n]* is not allowed: [^\n]*$"):
            algorithm("MlpPolicy", environment(algorithm), **{name: value})


@pytest.mark.parametrize("algorithm", ALL)
def test_policy_kwargs_are_a_dict(algorithm):
    for value in ([1], "x", 5):
        with pytest.raises(ValueError, match=r"^policy_kwargs=.* is not allowed: it must be a dict"):
            algorithm("MlpPolicy", environment(algorithm), policy_kwargs=value)


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [*((algorithm, "n_critics") for algorithm in ALGORITHMS), (RLx2TQC, "n_quantiles"), (RLx2QRDQN, "n_quantiles")],
)
def test_there_is_one_critic_and_one_quantile_at_least(algorithm, name):
    for value in (0, -1, 2.5, "2", None):
        with pytest.raises(ValueError, match=rf"^policy_kwargs\['{name}'\]=.* must be a whole number >= 1"):
            algorithm("MlpPolicy", environment(algorithm), policy_kwargs={name: value})


class TwoQuantiles(tqc.MlpPolicy):
    """A policy with a default of its own."""

    def __init__(self, *args, n_quantiles=2, **kwargs):
        super().__init__(*args, n_quantiles=n_quantiles, **kwargs)


def test_quantiles_to_drop_are_fewer_than_the_policy_has():
    with pytest.raises(ValueError, match=r"top_quantiles_to_drop_per_net=2 .* less than n_quantiles=2"):
        RLx2TQC(TwoQuantiles, "Pendulum-v1", **quick())
    RLx2TQC(TwoQuantiles, "Pendulum-v1", **quick(top_quantiles_to_drop_per_net=1))


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        (RLx2TD3, {"tau": 0, "gamma": 1, "learning_rate": 0, "target_noise_clip": np.inf, "target_policy_noise": 0}),
        (RLx2TD3, {"tau": np.float32(1), "buffer_size": np.int64(5), "train_freq": (1, "episode"), "seed": 2**32 - 1}),
        (RLx2SAC, {"ent_coef": 0, "target_entropy": "-1", "gradient_steps": -1, "verbose": False, "use_sde": True}),
        (RLx2SAC, {"ent_coef": "auto_0.5", "learning_rate": lambda progress: 1e-3 * progress, "dynamic_buffer": 1}),
        (RLx2SAC, {"ent_coef": "0.5", "stats_window_size": 0, "optimize_memory_usage": np.False_}),
    ],
)
def test_what_stable_baselines3_takes_at_the_ends_of_the_ranges_is_taken(algorithm, arguments):
    algorithm("MlpPolicy", "Pendulum-v1", **quick(**arguments))


def test_actions_without_bounds_are_refused():
    for low, high in ((-np.inf, 1.0), (-1.0, np.nan), (1.0, 1.0)):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(), _init_setup_model=False)
        model.action_space.low[:], model.action_space.high[:] = low, high
        with pytest.raises(ValueError, match=r"the action space is .*bounds must be finite, with low < high"):
            model._setup_model()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_discrete_actions(algorithm):
    with pytest.raises(AssertionError, match=r"only supports .*Box.* as action spaces but Discrete"):
        algorithm("MlpPolicy", "CartPole-v1")


def test_unknown_noise():
    with pytest.raises(ValueError, match="action_noise='gaussian' is unknown"):
        RLx2TD3("MlpPolicy", "Pendulum-v1", action_noise="gaussian")


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2DDPG])
def test_actions_that_are_one_number_need_another_noise_than_the_default(algorithm):
    env = Still(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, ()))
    with pytest.raises(ValueError, match=r"action_noise='default' is not allowed with actions of shape \(\)"):
        algorithm("MlpPolicy", env)
    algorithm("MlpPolicy", env, **quick(action_noise=None)).learn(80)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nan_in_a_loss_names_loss_and_update(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="static"))
    model.learn(60)
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(ValueError, match=r"critic_loss is nan at update 1\d"):
        model.learn(20, reset_num_timesteps=False)


def test_steps_to_learn_are_a_number_and_may_be_written_as_1e2(tmp_path):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    for steps in (np.nan, np.inf, -1, "9", None):
        with pytest.raises(ValueError, match=r"^total_timesteps=.* is not allowed: it must be a finite number >= 0$"):
            model.learn(steps)
    model.learn(1e2).save(tmp_path / "model")
    assert (model.num_timesteps, RLx2TD3.load(tmp_path / "model").num_timesteps) == (100, 100)
    model._total_timesteps = 100.0  # as files of earlier versions have it
    model.save(tmp_path / "model")
    RLx2TD3.load(tmp_path / "model")


@pytest.mark.parametrize("algorithm", ALL)
def test_a_device_that_is_none_is_named(algorithm):
    with pytest.raises(ValueError, match=r"^device='gpu' is not available: Expected one of cpu, cuda"):
        algorithm("MlpPolicy", environment(algorithm), device="gpu")


@pytest.mark.parametrize("topology", ["dense", "static"])
def test_a_topology_that_is_changed_to_one_that_stays_evolves_no_more(topology):
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(topology_interval=10)).learn(80)
    before = model.topology_counters["critic"]["evolutions"]
    connections = [layer.indices.clone() for layer in sparse_layers(model.critic).values()]
    model.topology = topology
    model.learn(60, reset_num_timesteps=False)
    assert model.topology_counters["critic"]["evolutions"] == before > 0
    now = [layer.indices for layer in sparse_layers(model.critic).values()]
    assert all(th.equal(one, other) for one, other in zip(connections, now, strict=True))


@pytest.mark.parametrize("algorithm", ALL)
def test_no_warning_of_sb3_about_custom_buffers(algorithm, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = algorithm("MlpPolicy", environment(algorithm), **quick(replay_buffer_class=DynamicReplayBuffer))
        model.save(tmp_path / "model")
        assert isinstance(algorithm.load(tmp_path / "model").replay_buffer, DynamicReplayBuffer)
        assert model.replay_buffer.n_steps == model.n_steps == 3
