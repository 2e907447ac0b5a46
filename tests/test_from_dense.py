"""Dense models made sparse and trained on."""

import copy
import functools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import ALL, ALL_COMPILED, assert_counts_agree, environment, few_quantiles, quick
from stable_baselines3 import DDPG, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_rlx2 import RLx2DDPG, RLx2DQN, RLx2SAC, RLx2TD3, RLx2TQC
from sb3_rlx2.common.topology import networks
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.sparse import sparse_layers
from sb3_rlx2.zoo.report import load_model

OWN = {"topology_interval": 20, "n_steps": 3, "n_steps_delay": 20, "buffer_min_size": 40, "buffer_check_interval": 50}


def trained(algorithm, env=None, **kwargs):
    """A dense model after a short run."""
    if env is None and not kwargs:
        return copy.deepcopy(_trained(algorithm))
    return _train(algorithm, env, **kwargs)


@functools.cache
def _trained(algorithm):
    return _train(algorithm)


def _train(algorithm, env=None, **kwargs):
    kwargs = {**few_quantiles(algorithm, net_arch=[32, 24]), "train_freq": 1, **kwargs}
    model = algorithm.dense_class(
        "MlpPolicy", env or gym.make(environment(algorithm)), learning_starts=50, buffer_size=2000, batch_size=32,
        seed=0, device="cpu", **kwargs,
    )  # fmt: skip
    return model.learn(120)


@pytest.mark.parametrize("algorithm", ALL)
def test_the_largest_weights_stay_as_many_as_the_algorithm_gives_each_layer(algorithm):
    dense = trained(algorithm)
    model = algorithm.from_dense(dense)
    kwargs = quick(policy_kwargs={**dense.policy_kwargs, "net_arch": [32, 24]})
    fresh = algorithm("MlpPolicy", environment(algorithm), **kwargs)
    for name, network in networks(model).items():
        layers = sparse_layers(network)
        for key, layer in layers.items():
            weight = dict(getattr(dense.policy, name).named_modules())[key].weight.detach().reshape(-1)
            assert th.equal(layer.values, weight[layer.indices.long()])
            largest = weight.abs().argsort(descending=True)[: layer.nnz]
            assert th.isin(layer.indices, largest).float().mean() > 0.9
            target = getattr(dense.policy, f"{name}_target", None)
            if target is not None:
                weight = dict(target.named_modules())[key].weight.detach().reshape(-1)
                follower = dict(getattr(model.policy, f"{name}_target").named_modules())[key]
                assert th.equal(follower.indices, layer.indices)
                assert th.equal(follower.values, weight[layer.indices.long()])
        expected = sparse_layers(networks(fresh)[name])
        assert {key: layer.nnz for key, layer in layers.items()} == {key: each.nnz for key, each in expected.items()}


@pytest.mark.parametrize("algorithm", ALL)
def test_moments_of_the_weights_that_stay_are_carried_over(algorithm):
    dense = trained(algorithm)
    model = algorithm.from_dense(dense)
    for name, network in networks(model).items():
        states, dense_states = optimizer_of(model.policy, name).state, optimizer_of(dense.policy, name).state
        weights = dict(getattr(dense.policy, name).named_parameters())
        for key, layer in sparse_layers(network).items():
            state, dense_state = states[layer.values], dense_states[weights[f"{key}.weight"]]
            assert state["step"] == dense_state["step"] > 0
            for moment in ("exp_avg", "exp_avg_sq"):
                assert th.equal(state[moment], dense_state[moment].reshape(-1)[layer.indices.long()])


@pytest.mark.parametrize("algorithm", ALL)
def test_with_all_weights_kept_it_goes_on_as_the_dense_model_does(algorithm):
    dense = trained(algorithm)
    twin = trained(algorithm)
    model = algorithm.from_dense(twin, topology="dense", n_steps=1, dynamic_buffer=False, engine="torch")
    assert model.num_timesteps == 120
    for each in (dense, model):
        set_random_seed(1)
        each.learn(60, reset_num_timesteps=False)
    assert model._n_updates == dense._n_updates
    for ours, theirs in zip(model.policy.parameters(), dense.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_it_is_trained_on_with_all_of_the_method(algorithm, engine):
    dense = trained(algorithm, learning_rate=lambda remaining: 1e-3 * remaining)
    before = copy.deepcopy(dense.policy.state_dict())
    model = algorithm.from_dense(dense, engine=engine, **OWN)
    updates = dense._n_updates
    assert (model.num_timesteps, model._n_updates, model.replay_buffer.size()) == (120, updates, 120)
    if engine == "auto" and algorithm in ALL_COMPILED:
        assert model._choose_engine().reason is None
    model.learn(100, reset_num_timesteps=False)
    assert (model.num_timesteps, model.replay_buffer.n_steps_in_use) == (220, 3)
    assert model._n_updates > updates
    assert all(counters["evolutions"] > 0 for counters in model.topology_counters.values())
    assert all(th.equal(dense.policy.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_saved_model_is_made_sparse_too(tmp_path):
    dense = trained(RLx2SAC)
    dense.save(tmp_path / "sac")
    model = RLx2SAC.from_dense(tmp_path / "sac", env=gym.make("Pendulum-v1"), **OWN)
    assert model.num_timesteps == 120
    assert model.replay_buffer.size() == 0
    assert model.log_ent_coef.item() == pytest.approx(dense.log_ent_coef.item())
    model.learn(60, reset_num_timesteps=False)
    model.save(tmp_path / "sparse")
    assert RLx2SAC.load(tmp_path / "sparse").topology_counters == model.topology_counters


def test_files_that_hold_no_dense_model_of_the_algorithm_are_refused_in_one_line(tmp_path):
    env = gym.make("Pendulum-v1")
    trained(RLx2TD3).save(tmp_path / "td3")
    RLx2TD3("MlpPolicy", env, buffer_size=10).save(tmp_path / "sparse")
    (tmp_path / "junk.zip").write_bytes(b"PK and nothing more")
    for algorithm, name, message in (
        (RLx2SAC, "td3", "td3, a model of TD3, is not allowed: RLx2SAC.from_dense makes a dense SAC sparse"),
        (RLx2TD3, "sparse", "sparse, a model of RLx2TD3, is not allowed: RLx2TD3.from_dense makes a dense TD3 sparse"),
        (RLx2DDPG, "td3", "td3, a model of TD3 with policy_delay=2, is not allowed: RLx2DDPG.from_dense"),
        (RLx2TD3, "junk", "junk is damaged or was cut short"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            algorithm.from_dense(tmp_path / name, env=env)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"env=None is not allowed: the dense model has no environment either"):
        RLx2TD3.from_dense(tmp_path / "td3")
    with pytest.raises(ValueError, match=r"is a model of TD3, not of RLx2TD3: RLx2TD3.from_dense makes it sparse"):
        RLx2TD3.load(tmp_path / "td3")
    loaded = TD3.load(tmp_path / "sparse", env=env)
    with pytest.raises(ValueError, match=r"model=TD3 is not allowed: RLx2TD3.from_dense makes a dense TD3 sparse"):
        RLx2TD3.from_dense(loaded)


def test_a_dense_model_that_is_not_trusted_is_not_unpickled(tmp_path, monkeypatch):
    trained(RLx2TD3).save(tmp_path / "td3")
    env, ran = gym.make("Pendulum-v1"), []
    monkeypatch.setattr(TD3, "load", lambda *args, **kwargs: ran.append(args))
    with pytest.raises(ModelFileError, match="td3 holds pickled objects"):
        RLx2TD3.from_dense(tmp_path / "td3", env=env, trusted=False)
    monkeypatch.setenv("RLX2_TRUSTED", "0")
    with pytest.raises(ModelFileError, match="td3 holds pickled objects"):
        RLx2TD3.from_dense(tmp_path / "td3", env=env)
    with pytest.raises(ModelFileError, match=r"td3\.zip holds pickled objects"):
        load_model(tmp_path / "td3.zip")
    assert not ran


def test_statistics_of_vec_normalize_stay_the_environments():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    dense = trained(RLx2TD3, env)
    model = RLx2TD3.from_dense(dense, **OWN)
    assert model.get_vec_normalize_env() is env
    model.learn(60, reset_num_timesteps=False)


def test_a_buffer_of_the_base_algorithms_class_is_used_on():
    dense = trained(RLx2SAC)
    model = RLx2SAC.from_dense(dense, n_steps=1, dynamic_buffer=False)
    assert type(model.replay_buffer) is ReplayBuffer
    assert model.replay_buffer is dense.replay_buffer


def test_hindsight_relabels_by_the_rewards_of_the_environment_that_is_given():
    def env():
        return BitFlippingEnv(n_bits=4, continuous=True)

    kwargs = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 20, "buffer_size": 200, "device": "cpu"}
    dense = SAC("MultiInputPolicy", env(), **kwargs).learn(60)
    other = RLx2SAC.from_dense(dense, env=env(), n_steps=1, dynamic_buffer=False)
    assert other.replay_buffer.env is other.env is not dense.env
    assert dense.replay_buffer.env is dense.env
    assert other.replay_buffer.size() == 60
    other.learn(20, reset_num_timesteps=False)
    same = RLx2SAC.from_dense(dense, n_steps=1, dynamic_buffer=False)
    assert same.replay_buffer is dense.replay_buffer


def test_a_file_of_td3_is_not_one_of_ddpg(tmp_path):
    env = gym.make("Pendulum-v1")
    for kwargs, name in (({}, "policy_delay=2"), ({"policy_delay": 1}, "target_policy_noise=0.2")):
        TD3("MlpPolicy", env, policy_kwargs={"n_critics": 1}, buffer_size=10, **kwargs).save(tmp_path / "td3")
        with pytest.raises(ValueError, match=rf"a model of TD3 with {name}, is not allowed: RLx2DDPG.from_dense"):
            RLx2DDPG.from_dense(tmp_path / "td3", env=env)
    DDPG("MlpPolicy", env, buffer_size=10).save(tmp_path / "ddpg")
    RLx2DDPG.from_dense(tmp_path / "ddpg", env=env)


@pytest.mark.parametrize("algorithm", [RLx2SAC, RLx2DQN])
def test_a_model_with_other_targets_leaves_the_buffer_of_n_step_returns(algorithm):
    dense = trained(algorithm, n_steps=3)
    assert type(dense.replay_buffer) is NStepReplayBuffer
    model = algorithm.from_dense(dense, n_steps=1, dynamic_buffer=False, gamma=0.5, engine="compiled")
    assert type(model.replay_buffer) is ReplayBuffer
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert np.array_equal(getattr(model.replay_buffer, name)[:120], getattr(dense.replay_buffer, name)[:120])
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 140
    assert dense.replay_buffer.size() == 120


@pytest.mark.parametrize("algorithm", [RLx2SAC, RLx2TQC])
@pytest.mark.parametrize(("before", "given", "first"), [("auto", 0.1, 0.1), (0.1, "auto_0.3", 0.3), (0.1, 0.5, 0.5)])
def test_another_entropy_coefficient_is_the_one_that_counts(algorithm, before, given, first):
    dense = trained(algorithm, ent_coef=before)
    model = algorithm.from_dense(dense, ent_coef=given, **OWN)
    coefficient = model.ent_coef_tensor if model.ent_coef_optimizer is None else model.log_ent_coef.exp()
    assert coefficient.item() == pytest.approx(first)
    model.learn(20, reset_num_timesteps=False)


def test_options_of_the_optimizer_that_are_given_are_those_that_count():
    dense = trained(RLx2SAC)
    dense.actor.optimizer.param_groups[0]["betas"] = (0.8, 0.99)
    options = {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1, "eps": 1e-3}}
    optimizer = RLx2SAC.from_dense(dense, policy_kwargs=options).actor.optimizer
    group = optimizer.param_groups[0]
    assert (type(optimizer), group["weight_decay"], group["eps"]) == (th.optim.AdamW, 0.1, 1e-3)
    assert group["betas"] == (0.8, 0.99)
    assert all(state["step"] == dense._n_updates for state in optimizer.state.values())
    optimizer = RLx2SAC.from_dense(dense, policy_kwargs={"optimizer_class": th.optim.SGD}).actor.optimizer
    assert not optimizer.state


def test_random_numbers_are_not_drawn():
    dense = trained(RLx2SAC)
    before = th.get_rng_state()
    RLx2SAC.from_dense(dense)
    assert th.equal(th.get_rng_state(), before)


def test_what_cannot_be_made_sparse_is_said_in_one_line():
    dense = trained(RLx2SAC)
    with pytest.raises(ValueError, match=r"model=SAC is not allowed: RLx2TD3.from_dense makes a dense TD3 sparse"):
        RLx2TD3.from_dense(dense)
    with pytest.raises(ValueError, match="model=RLx2SAC is not allowed"):
        RLx2SAC.from_dense(RLx2SAC.from_dense(dense))
    with pytest.raises(ValueError, match=r"unknown argument 'actor_sparsty'. Did you mean 'actor_sparsity'"):
        RLx2SAC.from_dense(dense, actor_sparsty=0.5)
    with pytest.raises(ValueError, match="replay buffer has 2000 rows of 1 environments, and the sparse model's 500"):
        RLx2SAC.from_dense(dense, buffer_size=500)
    with pytest.raises(ValueError, match="the actor has other parameters than the dense model's: keep net_arch"):
        RLx2SAC.from_dense(dense, policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        RLx2SAC.from_dense(dense, env=gym.make("MountainCarContinuous-v0"))
    with pytest.raises(ValueError, match="replay buffer is a ReplayBuffer, which a NStepReplayBuffer cannot go on"):
        RLx2SAC.from_dense(dense, n_steps=1, dynamic_buffer=False, replay_buffer_class=NStepReplayBuffer)
    dense.env = None
    with pytest.raises(ValueError, match="env=None is not allowed: the dense model has no environment either"):
        RLx2SAC.from_dense(dense)


def test_layers_are_those_of_the_dense_network():
    dense = TD3("MlpPolicy", "Pendulum-v1", buffer_size=100, device="cpu")
    model = RLx2TD3.from_dense(dense)
    assert model.policy.net_arch == [400, 300]
    assert model.actor.mu[2].in_features == 400
    assert isinstance(dense, TD3)
    assert not isinstance(dense, SAC)


def test_neither_model_changes_the_other_as_it_goes_on():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))
    kwargs = {"learning_starts": 10, "buffer_size": 500, "action_noise": noise, "policy_kwargs": {"net_arch": [64, 64]}}
    dense = TD3("MlpPolicy", "Pendulum-v1", **kwargs).learn(20)
    before = dense.action_noise.noise_prev.copy()
    sparse = RLx2TD3.from_dense(dense).learn(220, reset_num_timesteps=False)
    assert np.array_equal(dense.action_noise.noise_prev, before)
    episodes, before = len(sparse.ep_info_buffer), sparse.action_noise.noise_prev.copy()
    again = sparse.to_dense().learn(400, reset_num_timesteps=False)
    assert len(again.ep_info_buffer) > episodes == len(sparse.ep_info_buffer) > 0
    assert np.array_equal(sparse.action_noise.noise_prev, before)


def test_the_dense_model_handles_time_limits_as_the_sparse_one():
    arguments = {"handle_timeout_termination": False}
    sparse = RLx2TD3("MlpPolicy", "Pendulum-v1", replay_buffer_kwargs=arguments, buffer_size=100)
    assert not sparse.to_dense().replay_buffer.handle_timeout_termination
    assert RLx2TD3("MlpPolicy", "Pendulum-v1", buffer_size=100).to_dense().replay_buffer.handle_timeout_termination


@pytest.mark.parametrize("algorithm", ALL)
def test_counters_of_connections_agree(algorithm):
    assert_counts_agree(algorithm.from_dense(trained(algorithm), **OWN))


def test_actions_that_the_dense_model_took_are_those_that_the_policy_distance_is_taken_from():
    dense = trained(RLx2TD3)
    buffer = RLx2TD3.from_dense(dense, **OWN).replay_buffer
    assert np.array_equal(buffer.noise_free_actions[:120], dense.replay_buffer.actions[:120])


def test_a_full_buffer_keeps_the_order_of_its_transitions():
    dense = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100, learning_starts=110, device="cpu").learn(115)
    buffer = RLx2SAC.from_dense(dense, **OWN).replay_buffer
    assert (buffer.size(), buffer.rows_held()[0]) == (100, 15)


@pytest.mark.parametrize("given", [None, 5, RLx2SAC])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(ValueError, match=r"^model=\w+ is not allowed: RLx2SAC.from_dense makes a dense SAC sparse"):
        RLx2SAC.from_dense(given)
