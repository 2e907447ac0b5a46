"""The compiled engine gives the results of the torch path, which is SB3's own train()."""

import copy
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers import (
    ALL_COMPILED,
    COMPILED,
    VALUE_BASED,
    engine_threads,
    environment,
    few_quantiles,
    in_turn,
    learner,
    quick,
    threads_of_last_run,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_rlx2 import DynamicReplayBuffer, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3
from sb3_rlx2.errors import DivergenceError
from sb3_rlx2.sparse import sparsify

LOSSES = ("critic_loss", "actor_loss", "ent_coef_loss", "loss")


def trained(algorithm, engine, steps=150, env=None, change=None, **kwargs):
    """A model after a short run, and the losses on the way."""
    env = env or environment(algorithm)
    model = algorithm("MlpPolicy", env() if callable(env) else env, engine=engine, **quick(**copy.deepcopy(kwargs)))
    if change is not None:
        change(model)
    losses = []

    def record(locals_, _):
        values = model.logger.name_to_value
        losses.append([values.get(f"train/{name}", 0.0) for name in LOSSES])
        return True

    model.learn(steps, callback=record)
    return model, np.array(losses)


def largest_difference(one, other):
    ours, theirs = one.policy.state_dict(), other.policy.state_dict()
    return max((ours[name].double() - theirs[name].double()).abs().max().item() for name in ours)


def assert_same_run(algorithm, tolerance=2e-6, **kwargs):
    if algorithm is RLx2DDPG:  # steps its actor twice as often, by gradients whose rounding Adam makes large
        tolerance = max(tolerance, 2e-4)
    ours, our_losses = trained(algorithm, "compiled", **kwargs)
    theirs, their_losses = trained(algorithm, "torch", **kwargs)
    assert ours._n_updates == theirs._n_updates > 50
    assert ours.topology_counters == theirs.topology_counters
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-3, atol=1e-4)
    assert largest_difference(ours, theirs) < tolerance
    for name in (name for name in ours._get_torch_save_params()[0] if name.endswith(".optimizer")):
        states = [model.get_parameters()[name]["state"] for model in (ours, theirs)]
        for key in states[0]:
            assert states[0][key]["step"] == states[1][key]["step"]
            for moment in ("exp_avg", "exp_avg_sq"):
                th.testing.assert_close(states[0][key][moment], states[1][key][moment], rtol=1e-3, atol=1e-4)
    return ours


@pytest.mark.parametrize(
    ("algorithm", "topology", "n_steps"),
    [
        *itertools.product(ALL_COMPILED, ["rigl"], [1, 3]),
        *in_turn(itertools.product(ALL_COMPILED, ["set", "static"]), [3, 1]),
    ],
)
def test_same_run_as_torch(algorithm, topology, n_steps):
    kwargs = {} if topology == "rigl" else few_quantiles(algorithm)
    model = assert_same_run(
        algorithm, topology=topology, n_steps=n_steps, n_steps_delay=40, topology_interval=16, **kwargs
    )
    assert (min(counts["evolutions"] for counts in model.topology_counters.values()) > 1) == (topology != "static")


# Each algorithm has each activation and each depth
@pytest.mark.parametrize(
    ("activation", "algorithm", "net_arch"),
    in_turn(itertools.product([nn.ReLU, nn.Tanh, nn.ELU], COMPILED), [[], [40], [24, 33, 17, 20]]),
)
@pytest.mark.filterwarnings("ignore:layers with too few connections")
def test_same_run_for_any_depth_and_activation(activation, algorithm, net_arch):
    policy_kwargs = {"net_arch": net_arch, "activation_fn": activation, "n_critics": 3}
    assert_same_run(
        algorithm, policy_kwargs=policy_kwargs, topology_interval=30, actor_sparsity=0.5, critic_sparsity=0.6
    )


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
@pytest.mark.parametrize("batch_size", [1, 63, 200])
def test_same_run_for_any_batch_size(algorithm, batch_size):
    assert_same_run(algorithm, batch_size=batch_size, n_steps_delay=0, **few_quantiles(algorithm))


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_same_run_with_vec_normalize_and_several_environments(algorithm):
    def env():
        return VecNormalize(make_vec_env(environment(algorithm), n_envs=3, seed=1))

    kwargs = few_quantiles(algorithm)
    assert_same_run(algorithm, env=env, gradient_steps=-1, n_steps_delay=30, steps=240, tolerance=1e-5, **kwargs)


@pytest.mark.parametrize("algorithm", COMPILED)
def test_same_run_where_episodes_end_and_the_buffer_forgets_and_wraps(algorithm):
    def env():
        return gym.make("InvertedPendulum-v5", max_episode_steps=7)

    model = assert_same_run(
        algorithm, env=env, n_steps_delay=0, buffer_size=90, buffer_min_size=20, buffer_check_interval=10,
        buffer_distance_threshold=0.0, steps=220,
    )  # fmt: skip
    assert model.replay_buffer.full
    assert model.replay_buffer._forgotten_rows > 0


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("stock", [True, False])
def test_same_run_with_observations_stored_as_float64(algorithm, stock):
    # A stock buffer keeps MuJoCo's observations as they are
    kwargs = {"n_steps": 1, "dynamic_buffer": False} if stock else {"replay_buffer_kwargs": {"observation_dtype": None}}
    model = assert_same_run(algorithm, env="InvertedPendulum-v5", n_steps_delay=0, **kwargs)
    assert model.replay_buffer.observations.dtype == np.float64
    assert isinstance(model.replay_buffer, DynamicReplayBuffer) is not stock


@pytest.mark.parametrize("kwargs", [{"ent_coef": 0.2}, {"ent_coef": "auto_0.3"}, {"target_update_interval": 3}])
def test_same_run_for_all_ways_of_sac(kwargs):
    assert_same_run(RLx2SAC, n_steps_delay=0, train_freq=4, gradient_steps=4, **kwargs)


@pytest.mark.parametrize("kwargs", [{"policy_delay": 3}, {"policy_delay": 1}, {"target_policy_noise": 0.9}])
def test_same_run_for_all_ways_of_td3(kwargs):
    assert_same_run(RLx2TD3, train_freq=(1, "episode"), gradient_steps=70, steps=450, topology_interval=9, **kwargs)


OPTIMIZERS = [
    {"optimizer_class": th.optim.AdamW},
    {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.5, "betas": (0.8, 0.99), "eps": 1e-5}},
    {"optimizer_kwargs": {"weight_decay": 0.1}},
]


@pytest.mark.parametrize(("algorithm", "policy_kwargs"), in_turn(ALL_COMPILED, OPTIMIZERS))
def test_same_run_for_adam_with_weight_decay(algorithm, policy_kwargs):
    assert_same_run(algorithm, **few_quantiles(algorithm, **policy_kwargs))


@pytest.mark.parametrize(("algorithm", "activation"), in_turn(ALL_COMPILED, [nn.LeakyReLU, nn.SiLU, nn.GELU]))
def test_same_run_for_further_activations(algorithm, activation):
    assert_same_run(algorithm, **few_quantiles(algorithm, net_arch=[40, 32], activation_fn=activation))


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
@pytest.mark.parametrize("net_arch", [[40, 24], [17, 33, 8]])
def test_same_run_for_dense_networks(algorithm, net_arch):
    assert_same_run(algorithm, topology="dense", **few_quantiles(algorithm, net_arch=net_arch))


class Residual(nn.Module):
    """``x + block(x)``, a module of the user's own."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


def with_residual_critics(model):
    """Give the critics layer normalization and residual blocks, sparse throughout."""
    generator, n_outputs = th.get_rng_state(), getattr(model.critic, "n_quantiles", 1)
    th.manual_seed(2)
    for network in (model.critic, model.critic_target):
        for i in range(len(network.q_networks)):
            block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
            body = nn.Sequential(nn.Linear(4, 32), Residual(block), nn.LayerNorm(32), nn.Linear(32, n_outputs))
            network.q_networks[i] = sparsify(body, 0.6)
            setattr(network, f"qf{i}", network.q_networks[i])
    model.critic_target.load_state_dict(model.critic.state_dict())
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=3e-4)
    th.set_rng_state(generator)


@pytest.mark.parametrize("algorithm", COMPILED)
def test_same_run_for_critics_with_layer_normalization_and_residual_blocks(algorithm):
    model = assert_same_run(algorithm, change=with_residual_critics, tolerance=1e-5)
    assert model.topology_counters["critic"]["evolutions"] > 1


def ending_with(activation, name):
    """Append an activation to networks, their targets too; an SAC actor's mean goes through it."""

    def change(model):
        for network in (getattr(model.policy, each, None) for each in (name, f"{name}_target")):
            if hasattr(network, "q_networks"):
                for q_network in network.q_networks:
                    q_network.append(activation())
            elif hasattr(network, "log_std"):
                network.mu = nn.Sequential(network.mu, activation())
            elif network is not None:
                getattr(network, "mu" if name == "actor" else name).append(activation())

    return change


END_WITH = [
    *itertools.product([(RLx2TD3, "critic"), (RLx2SAC, "critic"), (RLx2SAC, "actor")], [nn.Tanh, nn.ReLU, nn.SiLU]),
    *itertools.product([(RLx2DQN, "q_net"), (RLx2QRDQN, "quantile_net")], [nn.Tanh, nn.ReLU]),
    ((RLx2TD3, "actor"), nn.Tanh),  # which ends with one anyway
]


@pytest.mark.parametrize(("of", "activation"), END_WITH)
def test_same_run_for_networks_that_end_with_an_activation(of, activation):
    algorithm, name = of
    # With a large epsilon Adam's steps tell the size of gradients
    policy_kwargs = {"net_arch": [32, 32], "optimizer_kwargs": {"eps": 1e-3}}
    assert_same_run(algorithm, change=ending_with(activation, name), policy_kwargs=policy_kwargs)


def with_data(algorithm, engine, **kwargs):
    """A model with a filled replay buffer that has made no update."""
    model = algorithm("MlpPolicy", environment(algorithm), engine=engine, **quick(learning_starts=400, **kwargs))
    model.learn(400)
    model.set_logger(Logger(None, []))
    model.set_random_seed(5)
    return model


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize(("algorithm", "name"), [(RLx2DQN, "q_net"), (RLx2QRDQN, "quantile_net")])
def test_no_other_action_hides_a_target_that_is_not_a_number(algorithm, name, engine):
    model = with_data(algorithm, engine)
    with th.no_grad():
        getattr(getattr(model.policy, f"{name}_target"), name)[-1].bias[1] = th.nan  # of the second action
    with pytest.raises(DivergenceError):
        model.train(1, 64)


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_hundreds_of_updates_drift_no_further_apart_than_torch_from_itself(algorithm):
    kwargs = {"n_steps_delay": 120, "topology": "static", **few_quantiles(algorithm)}
    reference = with_data(algorithm, "torch", **kwargs)
    reference.train(200, 64)
    drifts = []
    for seed in range(2):
        perturbed = with_data(algorithm, "torch", **kwargs)
        generator = th.Generator().manual_seed(seed)
        with th.no_grad():
            for parameter in perturbed.policy.parameters():
                up = th.rand(parameter.shape, generator=generator) < 0.5
                parameter.copy_(th.where(up, th.nextafter(parameter, parameter + 1.0), parameter))
        perturbed.train(200, 64)
        drifts.append(largest_difference(perturbed, reference))
    ours = with_data(algorithm, "compiled", **kwargs)
    ours.train(200, 64)
    assert 0 < largest_difference(ours, reference) < 1.5 * max(drifts)


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_same_seed_same_run_bit_for_bit_with_any_number_of_threads(algorithm):
    runs = []
    for threads in (1, 1, 2):
        model = with_data(algorithm, "compiled", batch_size=300, n_steps_delay=0)
        with engine_threads(threads):
            model.train(40, 300)
        assert threads_of_last_run(model) == threads
        runs.append(model)
    assert largest_difference(runs[0], runs[1]) == 0.0
    assert largest_difference(runs[0], runs[2]) == 0.0


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_several_updates_in_one_call_are_the_same_as_one_by_one(algorithm):
    kwargs = {"n_steps_delay": 20, "topology_interval": 15, "topology_end": 10_000}
    together = with_data(algorithm, "compiled", **kwargs)
    together.train(50, 64)
    single = with_data(algorithm, "compiled", **kwargs)
    for _ in range(50):
        single.train(1, 64)
    assert largest_difference(together, single) == 0.0
    assert together.topology_counters == single.topology_counters
    assert together.topology_counters[learner(together)]["evolutions"] == 3


@pytest.mark.parametrize("algorithm", VALUE_BASED)
@pytest.mark.parametrize("net_arch", [[], [40], [24, 33, 17, 20]])
def test_same_run_of_value_networks_for_any_depth(algorithm, net_arch):
    kwargs = few_quantiles(algorithm, net_arch=net_arch)
    assert_same_run(algorithm, topology_interval=30, sparsity=0.5, tau=0.3, **kwargs)


@pytest.mark.parametrize("algorithm", VALUE_BASED)
@pytest.mark.parametrize("norm", [0.05, 0.0, np.inf])
def test_same_run_where_gradients_are_limited(algorithm, norm):
    # Batches of 400 have shards, whose gradients are added up before their norm is taken
    kwargs = {"max_grad_norm": norm, "batch_size": 400, "target_update_interval": 20, "topology_end": 1}
    model = assert_same_run(algorithm, **kwargs, **few_quantiles(algorithm))
    first = next(iter(model.policy.optimizer.state.values()))["exp_avg"]
    assert (first.abs().sum() == 0) == (norm == 0)


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_same_run_with_episodes_that_end_and_a_buffer_that_forgets(algorithm, monkeypatch):
    forgotten, shrink = [], DynamicReplayBuffer.shrink

    def recorded(buffer, *args):
        result = shrink(buffer, *args)
        forgotten.append(buffer._forgotten_rows)
        return result

    monkeypatch.setattr(DynamicReplayBuffer, "shrink", recorded)
    # With a learning rate so large rounding differs by some 3e-6
    model = assert_same_run(
        algorithm, 1e-5, n_steps_delay=0, buffer_size=90, buffer_min_size=20, buffer_check_interval=10,
        buffer_distance_threshold=0.0, target_update_interval=15, steps=220, learning_rate=1e-2,
        **few_quantiles(algorithm),
    )  # fmt: skip
    assert model.replay_buffer.full
    assert max(forgotten) > 0


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_an_action_that_there_is_not_is_never_read(algorithm):
    model = trained(algorithm, "compiled")[0]
    model.replay_buffer.actions[:] = 10**6
    with pytest.raises(DivergenceError, match="loss"):
        model.train(1, 32)


@pytest.mark.parametrize("settings", [{"clip_obs": 0.5}, {"clip_reward": 0.05}, {"epsilon": 1.0}])
def test_same_run_with_any_settings_of_vec_normalize(settings):
    def env():
        return VecNormalize(make_vec_env("Pendulum-v1", n_envs=3, seed=1), **settings)

    assert_same_run(RLx2SAC, env=env, gradient_steps=-1, n_steps_delay=30, steps=240, tolerance=1e-5)
