"""RLx2TD3 and RLx2SAC: the method."""

import copy
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, ALL, COMPILED, VALUE_BASED, environment, few_quantiles, learner, quick, targets_follow
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

from sb3_rlx2 import DynamicReplayBuffer, RLx2CrossQ, RLx2SAC, RLx2TD3
from sb3_rlx2.common import callbacks
from sb3_rlx2.common.topology import attached_evolvers, detach_topology, evolve_topology, networks
from sb3_rlx2.sparse import SET, RigL, SparseLinear, linear_layers, sparse_layers
from sb3_rlx2.sparse.schedules import cosine_drop_fraction


def weights(module):
    return {name: layer.weight.numel() for name, layer in linear_layers(module).items()}


def topology(model):
    return [layer.indices.clone() for layer in sparse_layers(model.policy).values()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_linear_layer_of_actor_and_critics_is_sparse_as_asked(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", actor_sparsity=0.9, critic_sparsity=0.8, buffer_size=1000)
    for network, sparsity in ((model.actor, 0.9), *((q, 0.8) for q in model.critic.q_networks)):
        total = sum(weights(network).values())
        kept = sum(
            layer.nnz if isinstance(layer, SparseLinear) else layer.weight.numel()
            for layer in linear_layers(network).values()
        )
        assert kept == round((1 - sparsity) * total)
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_every_linear_layer_of_a_value_network_is_sparse_as_asked(algorithm):
    model = algorithm("MlpPolicy", "CartPole-v1", sparsity=0.9, buffer_size=1000)
    network = networks(model)[learner(model)]
    layers = linear_layers(network).values()
    assert [layer.out_features for layer in layers][:2] == [256, 256]
    kept = sum(layer.nnz if isinstance(layer, SparseLinear) else layer.weight.numel() for layer in layers)
    assert kept == round(0.1 * sum(weights(network).values()))
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", VALUE_BASED)
@pytest.mark.parametrize("engine", ["torch", "compiled"])
def test_target_networks_follow_in_environment_steps_and_keep_the_connections(algorithm, engine):
    kwargs = quick(target_update_interval=200, topology_end=10**6, **few_quantiles(algorithm))
    model = algorithm("MlpPolicy", "CartPole-v1", engine=engine, **kwargs)
    model.learn(199)
    online, name = model.policy.state_dict(), learner(model)
    pairs = {key: f"{name}_target{key.removeprefix(name)}" for key in online if key.startswith(f"{name}.")}
    assert any(not th.equal(online[key], online[other]) for key, other in pairs.items())
    assert targets_follow(model)
    model.gradient_steps = 0
    model.learn(1, reset_num_timesteps=False)
    state = model.policy.state_dict()
    assert all(th.equal(state[key], state[other]) for key, other in pairs.items())


@pytest.mark.parametrize("algorithm", VALUE_BASED)
def test_actions_that_are_not_numbered_from_0_are_refused(algorithm):
    for space in (spaces.Box(-1, 1, (1,)), spaces.Discrete(3, start=1)):
        model = algorithm("MlpPolicy", None, _init_setup_model=False, **quick())
        model.observation_space, model.action_space = spaces.Box(-1, 1, (2,)), space
        with pytest.raises(ValueError, match="it must be Discrete, and begin with 0"):
            model._setup_model()


def test_defaults_are_the_papers():
    td3, sac = RLx2TD3("MlpPolicy", "Pendulum-v1"), RLx2SAC("MlpPolicy", "Pendulum-v1")
    for model in (td3, sac):
        assert [layer.out_features for layer in linear_layers(model.critic.q_networks[0]).values()] == [256, 256, 1]
        assert (model.learning_rate, model.learning_starts, model.batch_size) == (3e-4, 25_000, 256)
        assert (model.n_steps, model.n_steps_delay, model.topology_interval, model.drop_fraction) == (
            3,
            300_000,
            10_000,
            0.5,
        )
        assert isinstance(model.replay_buffer, DynamicReplayBuffer)
    assert (td3.actor_sparsity, td3.critic_sparsity, td3.buffer_size, td3.buffer_min_size) == (0.9, 0.85, 10**6, 10**5)
    assert (sac.actor_sparsity, sac.critic_sparsity, sac.buffer_size, sac.buffer_min_size) == (
        0.9,
        0.8,
        3 * 10**6,
        2 * 10**5,
    )
    assert isinstance(td3.action_noise, NormalActionNoise)
    assert (td3.action_noise._mu, td3.action_noise._sigma) == (0.0, 0.1)
    assert sac.action_noise is None
    assert RLx2TD3("MlpPolicy", "Pendulum-v1", action_noise=None).action_noise is None


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize(
    ("n_envs", "train_freq", "gradient_steps"), [(1, 1, 1), (1, 5, 3), (3, 2, -1), (3, 4, 7), (1, (1, "episode"), -1)]
)
def test_topology_evolves_every_interval_updates_of_that_network(algorithm, n_envs, train_freq, gradient_steps):
    env = make_vec_env(environment(algorithm), n_envs, env_kwargs={"max_episode_steps": 50})
    model = algorithm(
        "MlpPolicy", env, **quick(train_freq=train_freq, gradient_steps=gradient_steps, topology_end=10**9)
    )
    seen = {name: [] for name in networks(model)}
    for name, evolver in attached_evolvers(model).items():
        evolver.on_evolution = seen[name].append
    model.learn(200)
    for name in seen:
        updates = model._n_updates // (getattr(model, "policy_delay", 1) if name == "actor" else 1)
        assert model.topology_counters[name]["updates"] == updates
        assert [evolution.update for evolution in seen[name]] == list(range(20, updates + 1, 20))
        assert model.topology_counters[name]["evolutions"] == len(seen[name]) > 0
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", ALL)
def test_drop_fraction_follows_the_cosine_over_the_training(algorithm):
    fractions = {}
    for end in (None, 130):
        model = algorithm("MlpPolicy", environment(algorithm), **quick(topology_end=end))
        seen = []
        attached_evolvers(model)[learner(model)].on_evolution = seen.append
        model.learn(200)
        fractions[end] = [evolution.drop_fraction for evolution in seen]
    # Update u of the critic happens at step 50 + u; the end is in updates of the network: (end - 50)
    np.testing.assert_allclose(fractions[None], [cosine_drop_fraction(0.5, u / 150) for u in range(20, 150, 20)])
    np.testing.assert_allclose(fractions[130], [cosine_drop_fraction(0.5, u / 80) for u in range(20, 80, 20)])


@pytest.mark.parametrize("algorithm", ALL)
def test_growth_is_scored_by_the_networks_own_loss_alone(algorithm):
    calls = []

    class Checked(RigL):
        def growth_score(self, layer):
            # SB3 clears the gradient before the network's own loss, so `values.grad` is that loss's alone
            th.testing.assert_close(layer.dense_grad[layer.mask], layer.values.grad)
            calls.append(layer)
            return super().growth_score(layer)

    model = algorithm("MlpPolicy", environment(algorithm), **quick(topology=Checked(), topology_interval=7))
    model.learn(150)
    assert {layer.out_features for layer in calls} >= {32}
    assert len(calls) > 20


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("topology_name", ["rigl", "set", "static", SET()])
def test_connection_counts_never_change(algorithm, topology_name):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(topology=topology_name))
    counts = [layer.nnz for layer in sparse_layers(model.policy).values()]
    before = topology(model)
    model.learn(150)
    assert counts == [layer.nnz for layer in sparse_layers(model.policy).values()]
    moved = not all(th.equal(a, b) for a, b in zip(before, topology(model), strict=True))
    assert moved == (topology_name != "static")
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", ALL)
def test_same_seed_same_run(algorithm):
    runs = []
    for _ in range(2):
        model = algorithm("MlpPolicy", environment(algorithm), **quick(topology="set"))
        model.learn(200)
        runs.append(model.get_parameters()["policy"])
    assert all(th.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


@pytest.mark.parametrize("algorithm", ALL)
def test_n_step_targets_begin_after_the_delay(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(n_steps_delay=30, train_freq=10, gradient_steps=10))
    used = []
    sample = model.replay_buffer.sample
    model.replay_buffer.sample = lambda *args, **kwargs: (
        used.append(model.replay_buffer.n_steps_in_use) or sample(*args, **kwargs)
    )
    model.learn(120)
    assert used == [1] * 30 + [3] * (len(used) - 30)
    assert len(used) > 40
    assert model.n_steps == 3


def test_sac_targets_have_an_entropy_term_at_each_of_the_n_states():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=0, ent_coef=0.5, gamma=0.9))
    model.learn(60)
    buffer = model.replay_buffer
    model._prepare_replay_buffer()
    rows = np.arange(10)
    with_terms = buffer._get_samples(rows)
    buffer.state_bonus = None
    without = buffer._get_samples(rows)
    # Recompute with the same draws: one call on the states s_{t+1}, s_{t+2} of each sample, in order
    model._prepare_replay_buffer()
    th.manual_seed(1)
    with_terms = buffer._get_samples(rows)
    th.manual_seed(1)
    states = th.as_tensor(np.concatenate([buffer.next_observations[row : row + 2, 0] for row in rows]))
    with th.no_grad():
        _, log_prob = model.actor.action_log_prob(states)
    expected = (-0.5 * log_prob.reshape(10, 2) * th.tensor([0.9, 0.9**2])).sum(dim=1)
    th.testing.assert_close(with_terms.rewards[:, 0], without.rewards[:, 0] + expected)
    th.testing.assert_close(with_terms.discounts, th.full((10, 1), 0.9**3))


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_buffer_forgets_every_interval_when_the_policy_has_moved_but_never_below_the_minimum(
    algorithm, n_envs, monkeypatch
):
    if algorithm in VALUE_BASED:  # greedy actions may all be as they were
        monkeypatch.setattr(callbacks, "policy_distance", lambda *_, **__: 1.0)
    env = make_vec_env(environment(algorithm), n_envs)
    sizes = []

    class Sizes(BaseCallback):
        def _on_step(self):
            sizes.append((self.num_timesteps, self.model.replay_buffer.n_transitions))
            return True

    model = algorithm("MlpPolicy", env, **quick(buffer_min_size=100))
    model.learn(300, callback=Sizes())
    held, expected = 0, []
    for step in range(n_envs, 300 + n_envs, n_envs):
        if (step - n_envs) // 50 < step // 50:
            rows = held // n_envs
            held -= max(min(int(0.1 * rows), rows - -(-100 // n_envs)), 0) * n_envs
        expected.append((step, held))
        held += n_envs
    assert sizes == expected
    assert model.replay_buffer.n_transitions < 300

    still = algorithm(
        "MlpPolicy", make_vec_env(environment(algorithm), n_envs), **quick(buffer_distance_threshold=10.0)
    )
    still.learn(120)
    assert still.replay_buffer.n_transitions == 120


@pytest.mark.parametrize("algorithm", ALL)
def test_policy_distance_and_noise_free_actions(algorithm):
    settings = quick(learning_rate=0.0, topology="static", buffer_distance_threshold=10.0, buffer_check_interval=100)
    if algorithm is RLx2CrossQ:  # running statistics change without learning
        settings["policy_kwargs"]["batch_norm"] = False
    model = algorithm("MlpPolicy", environment(algorithm), **settings)
    model.learn(100)
    buffer = model.replay_buffer
    np.testing.assert_array_equal(buffer.noise_free_actions[:50], buffer.actions[:50])  # the random first steps
    policy_actions, _ = model.predict(buffer.observations[50:100, 0], deterministic=True)
    scale = 1.0 if algorithm in VALUE_BASED else 2.0  # torque in [-2, 2]
    stored = buffer.noise_free_actions[:, 0].reshape(len(buffer.actions), *model.action_space.shape)
    np.testing.assert_allclose(stored[50:100] * scale, policy_actions, atol=1e-5)
    # At step 100, 99 transitions were stored; the policy has not changed (learning rate 0)
    now, _ = model.predict(buffer.observations[:99, 0], deterministic=True)
    distance = 0.5 * np.mean((now / scale - stored[:99]) ** 2)
    if algorithm in VALUE_BASED:
        distance = np.mean(now != stored[:99])  # the share of states whose greedy action is another one
    assert model.logger.name_to_value["rlx2/policy_distance"] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("algorithm", ALL)
def test_episodes_that_are_cut_off_count_as_truncated(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(dynamic_buffer=False))
    model.learn(70)
    model.learn(30)  # resets the environment
    model.learn(30, reset_num_timesteps=False)  # goes on where it stood
    model.set_env(make_vec_env(environment(algorithm)))
    model.learn(30, reset_num_timesteps=False)
    assert np.flatnonzero(model.replay_buffer.timeouts[:, 0]).tolist() == [69, 129]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layers_with_too_few_connections_to_evolve_are_named_once(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.98, critic_sparsity=0.5, drop_fraction=0.1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(60)
        model.learn(30, reset_num_timesteps=False)
    told = [str(warning.message) for warning in caught if "never evolve" in str(warning.message)]
    assert len(told) == 1
    few = [f"{name!r} ({layer.nnz})" for name, layer in sparse_layers(model.actor).items() if layer.nnz < 10]
    assert len(few) >= 2
    assert f": {', '.join(few)} with drop_fraction=0.1" in told[0]


@pytest.mark.parametrize("algorithm", ALL)
def test_tensorboard_scalars(algorithm, tmp_path):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(tensorboard_log=str(tmp_path)))
    seen = {}
    model.learn(10)
    record = model.logger.record
    model.logger.record = lambda key, value, *args, **kwargs: (
        seen.update({key: value}),
        record(key, value, *args, **kwargs),
    )
    model.set_logger(model.logger)
    model.learn(260, reset_num_timesteps=False)
    for network, sparsity in model.network_sparsities.items():
        assert seen[f"rlx2/{network}_density"] == pytest.approx(1 - getattr(model, sparsity), abs=0.01)
        assert seen[f"rlx2/{network}_unreachable_outputs"] == 0
        evolution = attached_evolvers(model)[network].last_evolution
        assert seen[f"rlx2/{network}_dropped"] == sum(layer.dropped for layer in evolution.layers.values())
        assert seen[f"rlx2/{network}_grown"] == sum(layer.grown for layer in evolution.layers.values())
        assert 0 <= seen[f"rlx2/{network}_drop_fraction"] <= 0.5
    assert seen["rlx2/n_steps"] == 3
    assert seen["rlx2/buffer_size"] == model.replay_buffer.n_transitions
    assert seen["rlx2/buffer_capacity"] == model.replay_buffer.capacity
    assert seen["rlx2/policy_distance"] > 0
    assert list(tmp_path.glob(f"{algorithm.__name__}_1/events*"))


@pytest.mark.parametrize("algorithm", ALL)
def test_changed_settings_and_replaced_optimizers_take_effect(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(topology_end=10**6))
    model.learn(100)
    counters = model.topology_counters[learner(model)]
    evolutions = counters["evolutions"]
    model.topology = "static"
    model.learn(60, reset_num_timesteps=False)
    assert counters == {"updates": 110, "evolutions": evolutions}
    model.topology, model.topology_interval = "rigl", 10
    owner = model.policy if algorithm in VALUE_BASED else model.critic
    owner.optimizer = th.optim.AdamW(networks(model)[learner(model)].parameters(), lr=1e-3)
    model.learn(50, reset_num_timesteps=False)
    assert counters == {"updates": 160, "evolutions": evolutions + 5}


@pytest.mark.parametrize("algorithm", ALL)
def test_copies_of_a_model_evolve_too(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(topology_end=10**6))
    model.learn(100)
    for twin in (copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        twin.train(40, 32)
        assert twin.topology_counters[learner(twin)] == {"updates": 90, "evolutions": 4}
    assert model.topology_counters[learner(model)] == {"updates": 50, "evolutions": 2}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_networks_that_are_all_dense_are_left_alone(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0, critic_sparsity=0))
    model.learn(100)
    assert not sparse_layers(model.policy)
    half = algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0))
    half.learn(150)
    assert half.topology_counters["actor"]["evolutions"] == 0 < half.topology_counters["critic"]["evolutions"]
    step = next(iter(half.actor.optimizer.state.values()))["step"]
    assert int(step) == half.topology_counters["actor"]["updates"]


def test_a_check_at_the_same_step_of_the_next_learn_is_made():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(100)
    for _ in range(2):
        before = model.replay_buffer.n_transitions
        model.learn(50)  # the only check is at step 50, when 49 more were stored
        assert model.replay_buffer.n_transitions == before + 49 - int(0.1 * (before + 49)) + 1


def test_a_buffer_taken_from_another_model_serves_its_new_owner():
    sac = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick())
    sac.learn(120)
    td3 = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick(gamma=0.9))
    td3.learn(60)
    td3.replay_buffer = sac.replay_buffer
    td3.train(5, 32)
    assert td3.replay_buffer.state_bonus is None
    assert td3.replay_buffer.gamma == 0.9
    td3.replay_buffer = ReplayBuffer(100, td3.observation_space, td3.action_space)
    with pytest.raises(ValueError, match="the replay buffer is a ReplayBuffer: n-step targets"):
        td3.train(5, 32)


def test_a_noise_free_action_does_not_outlive_its_learn():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 80

    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(200, callback=Stop())
    stored = model.replay_buffer.pos
    model.learn(10)  # random first steps again
    np.testing.assert_array_equal(model.replay_buffer.noise_free_actions[stored], model.replay_buffer.actions[stored])


@pytest.mark.parametrize("algorithm", COMPILED)
def test_parameters_loaded_into_one_of_a_pair_are_refused(algorithm):
    first, second = (algorithm("MlpPolicy", "Pendulum-v1", **quick(seed=seed, topology="static")) for seed in (0, 1))
    network = "actor" if algorithm is RLx2TD3 else "critic"
    getattr(second, network).load_state_dict(getattr(first, network).state_dict())
    with pytest.raises(ValueError, match="have different connections: parameters were loaded into one of them only"):
        second.learn(100)
    detach_topology(second)
    with pytest.raises(ValueError, match="have different connections"):
        evolve_topology(second, second._topology_settings)
    assert not any(part.optimizer._optimizer_step_pre_hooks for part in (second.actor, second.critic))
    getattr(second, f"{network}_target").load_state_dict(getattr(first, network).state_dict())
    second.learn(100)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_action_spaces_with_several_dimensions(algorithm):
    class Env(gym.Env):
        observation_space = spaces.Box(-1, 1, (3,), np.float32)
        action_space = spaces.Box(-2, 2, (2, 3), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            assert action.shape == (2, 3)
            return self.observation_space.sample(), float(action.sum()), False, self.np_random.random() < 0.1, {}

    model = algorithm("MlpPolicy", make_vec_env(Env, 2), **quick())
    model.learn(150)
    assert model.replay_buffer.noise_free_actions.shape[1:] == (2, 6)
