"""What Stable-Baselines3's documentation shows works with the classes swapped."""

import copy
import os

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, ALL, COMPILED, VALUE_BASED, environment, learner, one_output, quick
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from sb3_rlx2 import RLx2DQN, RLx2SAC, RLx2TD3, TrainingCheckpointCallback
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.errors import CheckpointMismatchError
from sb3_rlx2.files import register
from sb3_rlx2.resume import resume
from sb3_rlx2.sparse import sparse_layers


def equal(first, second):
    """Whether two nested structures of tensors are the same to the bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return th.equal(first, second) if th.is_tensor(first) else first == second


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learn_again_and_again_save_and_load(algorithm, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(100).learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == 160
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=gym.make("Pendulum-v1"), custom_objects={"learning_rate": 1e-4})
    assert loaded.learning_rate == 1e-4
    observations = np.stack([model.observation_space.sample() for _ in range(8)])
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )
    assert equal(loaded.get_parameters(), model.get_parameters())
    assert loaded.topology_counters == model.topology_counters
    for name in ("actor_sparsity", "topology_interval", "n_steps", "n_steps_delay", "buffer_min_size", "_n_updates"):
        assert getattr(loaded, name) == getattr(model, name)
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.topology_counters["critic"]["evolutions"] > model.topology_counters["critic"]["evolutions"]
    mean, _ = evaluate_policy(algorithm.load(tmp_path / "model"), make_vec_env("Pendulum-v1"), n_eval_episodes=1)
    assert mean < 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("topology", "n_steps_delay"), [("set", 0), ("rigl", 160), ("rigl", 10**6)])
def test_a_loaded_model_makes_the_same_updates(algorithm, topology, n_steps_delay, tmp_path):
    settings = quick(n_steps_delay=n_steps_delay, topology=topology, topology_interval=9, topology_end=10**6)
    model = algorithm("MlpPolicy", "Pendulum-v1", **settings)
    model.learn(200)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    parameters, counters = [], []
    for again in (model, algorithm.load(tmp_path / "model", env=gym.make("Pendulum-v1"))):
        if again is not model:
            again.load_replay_buffer(tmp_path / "buffer")
        again.set_logger(configure(None, []))
        np.random.seed(7)
        th.manual_seed(7)
        again.train(40, 32)
        parameters.append(again.get_parameters())
        counters.append(again.topology_counters)
    assert equal(*parameters)
    assert counters[0] == counters[1]
    assert counters[0]["critic"] == {"updates": 190, "evolutions": 21}
    assert again.replay_buffer.n_steps_in_use == (3 if n_steps_delay < 190 else 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_set_parameters_takes_all_or_nothing_and_shares_nothing(algorithm):
    first, second = (algorithm("MlpPolicy", "Pendulum-v1", **quick(seed=seed)) for seed in (0, 1))
    first.learn(100)
    second.set_parameters(first.get_parameters())
    assert equal(first.get_parameters(), second.get_parameters())
    before = copy.deepcopy(second.get_parameters())
    first.learn(60, reset_num_timesteps=False)  # evolves, and moves its own moments only
    assert equal(second.get_parameters(), before)

    for other in (
        algorithm("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs={"net_arch": [24, 24]})),
        algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.5)),
        algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="dense")),
        algorithm("MlpPolicy", "MountainCarContinuous-v0", **quick()),
    ):
        with pytest.raises(CheckpointMismatchError, match=r"do not fit this RLx2\w+ .*policy\.actor\."):
            second.set_parameters(other.get_parameters())
        assert equal(second.get_parameters(), before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checkpoint_of_another_architecture_is_refused(algorithm, tmp_path):
    algorithm("MlpPolicy", "Pendulum-v1", **quick()).save(tmp_path / "model")
    with pytest.raises(CheckpointMismatchError, match="another net_arch, sparsity, topology or environment"):
        algorithm.load(tmp_path / "model", actor_sparsity=0.5)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        algorithm.load(tmp_path / "model", env=gym.make("MountainCarContinuous-v0"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_that_cannot_be_loaded_change_nothing(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(100)
    before = copy.deepcopy(model.get_parameters())
    layer = next(key for key in before["policy"] if key.startswith("actor") and key.endswith("indices"))
    target = next(
        (key for key in before["policy"] if key.startswith("critic_target") and key.endswith("indices")), None
    )

    def unsorted(parameters):
        parameters["policy"][layer].fill_(3)

    def other_target(parameters):
        parameters["policy"][target][0] += 1

    def no_optimizer(parameters):
        del parameters["actor.optimizer"]

    def stranger(parameters):
        parameters["value.optimizer"] = {}

    def out_of_range(parameters):
        parameters["policy"][layer][-1] = 10**6

    def other_moments(parameters):
        parameters["critic.optimizer"]["state"][0]["exp_avg"] = th.zeros(1)

    def short_optimizer(parameters):
        parameters["critic.optimizer"]["param_groups"][0]["params"].pop()

    def nothing_of_an_optimizer(parameters):
        parameters["actor.optimizer"].clear()

    def no_state(parameters):
        del parameters["critic.optimizer"]["state"]

    def nameless_group(parameters):
        del parameters["critic.optimizer"]["param_groups"][0]["params"]

    for damage, message in (
        (nothing_of_an_optimizer, "actor.optimizer lacks its state and its param_groups"),
        (no_state, "critic.optimizer lacks its state"),
        (nameless_group, "critic.optimizer lacks its param_groups' params"),
        (unsorted, "connection indices are not sorted and unique"),
        *([(other_target, "has other connections than")] if target else []),
        (no_optimizer, "actor.optimizer is missing"),
        (stranger, "value.optimizer is unexpected"),
        (out_of_range, "connection indices out of range"),
        (other_moments, r"critic.optimizer.exp_avg is \(1,\)"),
        (short_optimizer, "critic.optimizer has parameter groups of sizes"),
    ):
        parameters = copy.deepcopy(before)
        for name in parameters["policy"]:
            if name.endswith("bias"):
                parameters["policy"][name] += 1.0
        damage(parameters)
        with pytest.raises(CheckpointMismatchError, match=message):
            model.set_parameters(parameters)
        assert equal(model.get_parameters(), before)
    with pytest.raises(CheckpointMismatchError, match="value is no network or optimizer"):
        model.set_parameters({"value": {}}, exact_match=False)
    model.set_parameters({"actor": model.actor.state_dict()}, exact_match=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("entry", "damaged", "message"),
    [
        ("exp_avg", lambda moment: th.zeros(()), r"exp_avg is \(\), expected \(\d+"),
        ("exp_avg_sq", lambda moment: th.zeros(1, 1), r"exp_avg_sq is \(1, 1\), expected \(\d+"),
        ("exp_avg", lambda moment: moment[None], r"exp_avg is \(1, \d+"),
        ("exp_avg_sq", lambda moment: moment.T if moment.dim() == 2 else moment[1:], r"exp_avg_sq is \("),
        ("exp_avg", lambda moment: moment.long(), r"exp_avg is of type torch.int64, expected a floating-point type"),
        ("step", lambda step: step[None], r"step is \(1,\), expected \(\)"),
        ("step", lambda step: th.zeros(30), r"step is \(30,\), expected \(\)"),
    ],
)
def test_moments_and_step_counts_of_another_shape_are_refused_for_parameters_of_every_rank(
    algorithm, entry, damaged, message, tmp_path, monkeypatch
):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(**one_output(algorithm)))
    model.learn(60)
    # The last layers are so small that they are dense: their weights are matrices
    ranks = [parameter.dim() for parameter in model.critic.parameters()]
    before = copy.deepcopy(model.get_parameters())
    for rank in (1, 2):
        parameters = copy.deepcopy(before)
        state = parameters["critic.optimizer"]["state"][ranks.index(rank)]
        state[entry] = damaged(state[entry])
        with pytest.raises(CheckpointMismatchError, match=message):
            model.set_parameters(parameters)
        assert equal(model.get_parameters(), before)
        with monkeypatch.context() as patch:
            patch.setattr(algorithm, "get_parameters", lambda _, parameters=parameters: parameters)
            model.save(tmp_path / "model")
        with pytest.raises(CheckpointMismatchError, match=message):
            algorithm.load(tmp_path / "model")


def test_state_of_another_optimizer_is_loaded_by_that_optimizer_only():
    arguments = quick(policy_kwargs={"net_arch": [32, 32], "optimizer_class": th.optim.ASGD})
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments)
    model.learn(80)
    parameters = model.get_parameters()
    assert any("mu" in state for state in parameters["critic.optimizer"]["state"].values()), "averaged"
    other = RLx2TD3("MlpPolicy", "Pendulum-v1", **arguments)
    other.set_parameters(parameters)
    assert equal(other.get_parameters(), parameters)
    with pytest.raises(CheckpointMismatchError, match=r"critic.optimizer"):
        RLx2TD3("MlpPolicy", "Pendulum-v1", **quick()).set_parameters(parameters)
    parameters["critic.optimizer"]["state"][0]["step"] = th.tensor(np.nan)
    with pytest.raises(CheckpointMismatchError, match=r"critic.optimizer.step has 1 of 1 numbers that are NaN"):
        other.set_parameters(parameters)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_buffers_of_other_modules_that_are_called_indices_are_left_alone(algorithm, tmp_path):
    class Columns(FlattenExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.register_buffer("indices", th.tensor([2, 0, 1]))

        def forward(self, observations):
            return super().forward(observations)[:, self.indices]

    kwargs = {"features_extractor_class": Columns, "net_arch": [32, 32]}
    algorithm("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs=kwargs)).save(tmp_path / "model")
    assert algorithm.load(tmp_path / "model").actor.features_extractor.indices.tolist() == [2, 0, 1]


@pytest.mark.parametrize("algorithm", ALL)
def test_a_replay_buffer_of_another_class_is_refused(algorithm, tmp_path):
    stock = algorithm.dense_class("MlpPolicy", environment(algorithm), buffer_size=100)
    stock.save_replay_buffer(tmp_path / "buffer")
    model = algorithm("MlpPolicy", environment(algorithm), **quick())
    own = model.replay_buffer
    with pytest.raises(ValueError, match="the replay buffer is a ReplayBuffer"):
        model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is own
    plain = algorithm("MlpPolicy", environment(algorithm), **quick(n_steps=1, dynamic_buffer=False))
    plain.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize(("algorithm", "stock"), [(RLx2TD3, TD3), (RLx2SAC, SAC)])
def test_to_dense_predicts_the_same_and_goes_on_learning(algorithm, stock, tmp_path):
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 2), **quick())
    model.learn(150)
    state = th.get_rng_state()
    dense = model.to_dense()
    assert th.equal(th.get_rng_state(), state)
    assert type(dense) is stock
    assert type(dense.policy) is stock.policy_aliases["MlpPolicy"]
    assert not sparse_layers(dense.policy)
    observations = np.stack([model.observation_space.sample() for _ in range(50)])
    np.testing.assert_allclose(
        dense.predict(observations, deterministic=True)[0],
        model.predict(observations, deterministic=True)[0],
        atol=1e-6,
    )
    obs, actions = th.as_tensor(observations), th.rand(50, 1)
    for ours, theirs in zip(model.critic_target(obs, actions), dense.critic_target(obs, actions), strict=True):
        th.testing.assert_close(ours, theirs)
    if stock is SAC:
        assert dense.log_ent_coef.item() == model.log_ent_coef.item()
    dense.learn(120)
    dense.save(tmp_path / "dense")
    assert type(stock.load(tmp_path / "dense")) is stock
    model.save(tmp_path / "model")
    without_env = algorithm.load(tmp_path / "model").to_dense()
    np.testing.assert_allclose(
        without_env.predict(observations, deterministic=True)[0],
        model.predict(observations, deterministic=True)[0],
        atol=1e-6,
    )


@pytest.mark.parametrize(("algorithm", "stock"), [(RLx2TD3, TD3), (RLx2SAC, SAC)])
def test_a_checkpoint_at_95_percent_is_at_most_a_fifth_of_the_dense_one(algorithm, stock, tmp_path):
    common = {"learning_starts": 10, "policy_kwargs": {"net_arch": [256, 256]}, "buffer_size": 100}
    sparse = algorithm("MlpPolicy", "Pendulum-v1", actor_sparsity=0.95, critic_sparsity=0.95, **copy.deepcopy(common))
    dense = stock("MlpPolicy", "Pendulum-v1", **copy.deepcopy(common))
    sizes = []
    for model in (sparse, dense):
        model.learn(20)
        model.save(tmp_path / "model")
        sizes.append(os.path.getsize(tmp_path / "model.zip"))
    assert sizes[0] <= sizes[1] / 5


@pytest.mark.parametrize("algorithm", ALL)
def test_callbacks_of_sb3(algorithm, tmp_path):
    model = algorithm("MlpPolicy", environment(algorithm), **quick())
    checkpoints = CheckpointCallback(50, str(tmp_path), save_replay_buffer=True)
    evaluation = EvalCallback(
        Monitor(gym.make(environment(algorithm))),
        eval_freq=60,
        n_eval_episodes=1,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    calls = []
    for callback in (
        CallbackList([checkpoints, evaluation]),
        [EveryNTimesteps(20, StopTrainingOnMaxEpisodes(10))],
        lambda _locals, _globals: calls.append(1) is None,
        None,
    ):
        model.learn(130, callback=callback)
    assert len(calls) == 130
    assert (tmp_path / "rl_model_100_steps.zip").exists()
    assert (tmp_path / "best_model.zip").exists()
    stopped = algorithm("MlpPolicy", gym.make(environment(algorithm), max_episode_steps=20), **quick())
    stopped.learn(10_000, callback=StopTrainingOnMaxEpisodes(3))
    assert stopped.num_timesteps == 60 or (algorithm in VALUE_BASED and stopped.num_timesteps < 60)  # poles fall


def test_progress_bar():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(20, progress_bar=True)
    model.learn(20, callback=ProgressBarCallback())
    assert model.num_timesteps == 20


@pytest.mark.parametrize("algorithm", COMPILED)
def test_her(algorithm):
    env = BitFlippingEnv(n_bits=4, continuous=True)
    with pytest.raises(ValueError, match=r"Pass n_steps=1, dynamic_buffer=False"):
        algorithm("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer)
    with pytest.raises(ValueError, match=r"replay_buffer_class=HerReplayBuffer: not possible .* Pass n_steps=1"):
        algorithm("MlpPolicy", "Pendulum-v1", replay_buffer_class=HerReplayBuffer)
    model = algorithm(
        "MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": "future"},
        **quick(n_steps=1, dynamic_buffer=False),
    )  # fmt: skip
    model.learn(120)
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    assert model.topology_counters["critic"]["evolutions"] == 3


@pytest.mark.parametrize("algorithm", [RLx2TD3, RLx2SAC, RLx2DQN])
def test_subprocesses_vec_normalize_and_gradient_steps_minus_one(algorithm, tmp_path):
    env = VecNormalize(make_vec_env(environment(algorithm), 2, vec_env_cls=SubprocVecEnv))
    model = algorithm("MlpPolicy", env, **quick(gradient_steps=-1, train_freq=2, learning_starts=60))
    model.learn(200)
    assert model._n_updates == 35 * 4  # after each rollout of four steps, from step 64 to 200
    model.save(tmp_path / "model")
    env.save(tmp_path / "normalize.pkl")
    env.close()
    env = VecNormalize.load(tmp_path / "normalize.pkl", make_vec_env(environment(algorithm), 3))
    loaded = algorithm.load(tmp_path / "model", env=env)
    loaded.learn(90, reset_num_timesteps=False)
    assert loaded.n_envs == loaded.replay_buffer.n_envs == 3


@pytest.mark.parametrize(
    "noise",
    [
        NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)),
        OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.1 * np.ones(1)),
        VectorizedActionNoise(NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)), 2),
        None,
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_action_noise(algorithm, noise):
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 2), **quick(action_noise=noise))
    model.learn(120)
    assert model.replay_buffer.size() > 0
    if noise is None:
        assert model.action_noise is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_rate_schedule(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(learning_rate=lambda remaining: 1e-3 * remaining))
    model.learn(100)
    assert model.critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


@pytest.mark.parametrize("algorithm", ALL)
def test_predict(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick())
    shape = model.action_space.shape
    assert model.predict(model.observation_space.sample())[0].shape == shape
    assert model.predict(np.stack([model.observation_space.sample()] * 5), deterministic=True)[0].shape == (5, *shape)


class OneByOne(ReplayBuffer):
    """A row for each transition, whatever the number of environments."""

    def __init__(self, *arguments, n_envs=1, **kwargs):
        super().__init__(*arguments, n_envs=1, **kwargs)

    def add(self, obs, next_obs, action, reward, done, infos):
        for place in range(len(reward)):
            one = slice(place, place + 1)
            super().add(obs[one], next_obs[one], action[one], reward[one], done[one], infos[one])


class Bytes(ReplayBuffer):
    """Observations in bytes."""

    def __init__(self, buffer_size, observation_space, *arguments, **kwargs):
        super().__init__(buffer_size, spaces.Box(0, 255, observation_space.shape, np.uint8), *arguments, **kwargs)

    def add(self, obs, next_obs, *arguments):
        super().add(*((each * 12 + 128).astype(np.uint8) for each in (obs, next_obs)), *arguments)

    def _normalize_obs(self, obs, env=None):
        return (obs.astype(np.float32) - 128) / 12


@pytest.mark.parametrize("buffer_class", [OneByOne, Bytes])
def test_a_replay_buffer_of_ones_own_stores_what_it_likes(buffer_class, tmp_path):
    env = make_vec_env("Pendulum-v1", 2)
    changes = {"replay_buffer_class": buffer_class, "n_steps": 1, "dynamic_buffer": False}
    model = RLx2SAC("MlpPolicy", env, **quick(**changes)).learn(200)
    assert model._n_updates > 0
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = RLx2SAC.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert type(loaded.replay_buffer) is buffer_class
    assert loaded.replay_buffer.size() == model.replay_buffer.size() > 0
    loaded.learn(20, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_optimize_memory_usage_works_with_a_fixed_buffer(algorithm):
    memory = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(n_steps=1, dynamic_buffer=False, **memory))
    model.learn(100)
    assert model.topology_counters["critic"]["evolutions"] == 2


@pytest.mark.parametrize("algorithm", ALL)
def test_policies_can_be_copied(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(learning_rate=1e-3))
    twin = copy.deepcopy(model.policy)
    assert "topology_evolvers" not in twin.__dict__
    observations = np.stack([model.observation_space.sample() for _ in range(20)])
    ours, theirs = (policy.predict(observations, deterministic=True)[0] for policy in (model.policy, twin))
    np.testing.assert_array_equal(ours, theirs)


def falling(progress_remaining):
    return 1e-3 * progress_remaining


register(falling, "tests.falling")


@pytest.mark.parametrize("suffix", ["zip", "safetensors"])
@pytest.mark.parametrize("algorithm", ALL)
def test_a_rate_that_falls_to_nothing_may_go_below_as_in_sb3(algorithm, suffix, tmp_path):
    env = make_vec_env(environment(algorithm), 3)
    kwargs = quick(train_freq=10, learning_rate=falling, buffer_size=600)
    checkpoints = TrainingCheckpointCallback(tmp_path / "checkpoints", 1000)
    model = algorithm("MlpPolicy", env, **kwargs).learn(100, checkpoints)
    optimizer = optimizer_of(model.policy, learner(model))
    assert model.num_timesteps == 120  # the last rollout goes beyond the planned steps
    assert optimizer.param_groups[0]["lr"] < 0.0
    model.save(tmp_path / f"model.{suffix}")
    loaded = algorithm.load(tmp_path / f"model.{suffix}", env=env)
    loaded.set_parameters(model.get_parameters())
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded._n_updates > model._n_updates
    assert resume(tmp_path / "checkpoints", env=env).num_timesteps == 120
