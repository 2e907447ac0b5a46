"""RLx2TD3 and RLx2SAC: the method."""

import copy
import warnings

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import ALGORITHMS, quick
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise
from torch import nn

import sb3_rlx2.sac
import sb3_rlx2.td3
from sb3_rlx2 import DynamicBufferCallback, DynamicReplayBuffer, RLx2SAC, RLx2TD3, TopologyEvolutionCallback
from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.topology import attached_evolvers, network_density
from sb3_rlx2.sparse import SET, RigL, SparseLinear, linear_layers, sparse_layers
from sb3_rlx2.sparse.rules import cosine_drop_fraction


def targets_follow(model):
    for name in ("actor", "critic"):
        target = getattr(model, f"{name}_target", None)
        if target is not None:
            pairs = zip(sparse_layers(getattr(model, name)).values(), sparse_layers(target).values(), strict=True)
            assert all(th.equal(online.indices, layer.indices) for online, layer in pairs)
    return True


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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("n_envs", "train_freq", "gradient_steps"), [(1, 1, 1), (1, 5, 3), (3, 2, -1), (3, 4, 7), (1, (1, "episode"), -1)]
)
def test_topology_evolves_every_interval_updates_of_that_network(algorithm, n_envs, train_freq, gradient_steps):
    env = make_vec_env("Pendulum-v1", n_envs, env_kwargs={"max_episode_steps": 50})
    model = algorithm(
        "MlpPolicy", env, **quick(train_freq=train_freq, gradient_steps=gradient_steps, topology_end=10**9)
    )
    seen = {"actor": [], "critic": []}
    for name, evolver in attached_evolvers(model).items():
        evolver.on_evolution = seen[name].append
    model.learn(300)
    actor_updates = model._n_updates // 2 if algorithm is RLx2TD3 else model._n_updates
    for name, updates in (("actor", actor_updates), ("critic", model._n_updates)):
        assert model.topology_counters[name]["updates"] == updates
        assert [evolution.update for evolution in seen[name]] == list(range(20, updates + 1, 20))
        assert model.topology_counters[name]["evolutions"] == len(seen[name]) > 0
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_drop_fraction_follows_the_cosine_over_the_training(algorithm):
    fractions = {}
    for end in (None, 200):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_end=end))
        seen = []
        attached_evolvers(model)["critic"].on_evolution = seen.append
        model.learn(350)
        fractions[end] = [evolution.drop_fraction for evolution in seen]
    # Update u of the critic happens at step 50 + u; the end is in updates of the network: (end - 50)
    np.testing.assert_allclose(fractions[None], [cosine_drop_fraction(0.5, u / 300) for u in range(20, 300, 20)])
    np.testing.assert_allclose(fractions[200], [cosine_drop_fraction(0.5, u / 150) for u in range(20, 150, 20)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_growth_is_scored_by_the_networks_own_loss_alone(algorithm):
    calls = []

    class Checked(RigL):
        def growth_score(self, layer):
            # SB3 clears the gradient before the network's own loss, so `values.grad` is that loss's alone
            th.testing.assert_close(layer.dense_grad[layer.mask], layer.values.grad)
            calls.append(layer)
            return super().growth_score(layer)

    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology=Checked(), topology_interval=7))
    model.learn(150)
    assert {layer.out_features for layer in calls} >= {32}
    assert len(calls) > 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("topology_name", ["rigl", "set", "static", SET()])
def test_connection_counts_never_change(algorithm, topology_name):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology=topology_name))
    counts = [layer.nnz for layer in sparse_layers(model.policy).values()]
    before = topology(model)
    model.learn(150)
    assert counts == [layer.nnz for layer in sparse_layers(model.policy).values()]
    moved = not all(th.equal(a, b) for a, b in zip(before, topology(model), strict=True))
    assert moved == (topology_name != "static")
    assert targets_follow(model)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_run(algorithm):
    runs = []
    for _ in range(2):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="set"))
        model.learn(200)
        runs.append(model.get_parameters()["policy"])
    assert all(th.equal(tensor, runs[1][name]) for name, tensor in runs[0].items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_n_step_targets_begin_after_the_delay(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=30, train_freq=10, gradient_steps=10))
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_buffer_forgets_every_interval_when_the_policy_has_moved_but_never_below_the_minimum(algorithm, n_envs):
    env = make_vec_env("Pendulum-v1", n_envs)
    sizes = []

    class Sizes(BaseCallback):
        def _on_step(self):
            sizes.append((self.num_timesteps, self.model.replay_buffer.size()))
            return True

    model = algorithm("MlpPolicy", env, **quick(buffer_min_size=100))
    model.learn(600, callback=Sizes())
    held, expected = 0, []
    for step in range(n_envs, 600 + n_envs, n_envs):
        if (step - n_envs) // 50 < step // 50:
            rows = held // n_envs
            held -= max(min(int(0.1 * rows), rows - -(-100 // n_envs)), 0) * n_envs
        expected.append((step, held))
        held += n_envs
    assert sizes == expected
    assert model.replay_buffer.size() < 600

    still = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", n_envs), **quick(buffer_distance_threshold=10.0))
    still.learn(300)
    assert still.replay_buffer.size() == 300


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_distance_and_noise_free_actions(algorithm):
    model = algorithm(
        "MlpPolicy",
        "Pendulum-v1",
        **quick(learning_rate=0.0, topology="static", buffer_distance_threshold=10.0, buffer_check_interval=100),
    )
    model.learn(100)
    buffer = model.replay_buffer
    np.testing.assert_array_equal(buffer.noise_free_actions[:50], buffer.actions[:50])  # the random first steps
    policy_actions, _ = model.predict(buffer.observations[50:100, 0], deterministic=True)
    np.testing.assert_allclose(
        buffer.noise_free_actions[50:100, 0] * 2.0, policy_actions, atol=1e-5
    )  # torque in [-2, 2]
    # At step 100, 99 transitions were stored; the policy has not changed (learning rate 0)
    now, _ = model.predict(buffer.observations[:99, 0], deterministic=True)
    distance = 0.5 * np.mean((now / 2.0 - buffer.noise_free_actions[:99, 0]) ** 2)
    assert model.logger.name_to_value["rlx2/policy_distance"] == pytest.approx(distance, rel=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_episodes_that_are_cut_off_count_as_truncated(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(dynamic_buffer=False))
    model.learn(70)
    model.learn(30)  # resets the environment
    model.learn(30, reset_num_timesteps=False)  # goes on where it stood
    model.set_env(make_vec_env("Pendulum-v1"))
    model.learn(30, reset_num_timesteps=False)
    assert np.flatnonzero(model.replay_buffer.timeouts[:, 0]).tolist() == [69, 129]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tensorboard_scalars(algorithm, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(tensorboard_log=str(tmp_path)))
    seen = {}
    model.learn(10)
    record = model.logger.record
    model.logger.record = lambda key, value, *args, **kwargs: (
        seen.update({key: value}),
        record(key, value, *args, **kwargs),
    )
    model.set_logger(model.logger)
    model.learn(260, reset_num_timesteps=False)
    for network in ("actor", "critic"):
        assert seen[f"rlx2/{network}_density"] == pytest.approx(1 - getattr(model, f"{network}_sparsity"), abs=0.01)
        evolution = attached_evolvers(model)[network].last_evolution
        assert seen[f"rlx2/{network}_dropped"] == sum(layer.dropped for layer in evolution.layers.values())
        assert seen[f"rlx2/{network}_grown"] == sum(layer.grown for layer in evolution.layers.values())
        assert 0 <= seen[f"rlx2/{network}_drop_fraction"] <= 0.5
    assert seen["rlx2/n_steps"] == 3
    assert seen["rlx2/buffer_size"] == model.replay_buffer.size()
    assert seen["rlx2/buffer_capacity"] == model.replay_buffer.capacity
    assert seen["rlx2/policy_distance"] > 0
    assert list(tmp_path.glob(f"{algorithm.__name__}_1/events*"))


@pytest.mark.parametrize(
    ("stock", "policy", "ours", "n_steps"),
    # SAC's n-step entropy terms are RLx2SAC's own, so n = 1 there
    [(TD3, sb3_rlx2.td3.MlpPolicy, RLx2TD3, 3), (SAC, sb3_rlx2.sac.MlpPolicy, RLx2SAC, 1)],
)
def test_the_parts_with_stock_sb3_make_the_same_run(stock, policy, ours, n_steps):
    sparsities = {"actor_sparsity": 0.8, "critic_sparsity": 0.7}
    common = {"learning_rate": 1e-3, "learning_starts": 50, "batch_size": 32, "buffer_size": 2000, "seed": 0}
    whole = ours(
        "MlpPolicy", "Pendulum-v1", **sparsities, **common, policy_kwargs={"net_arch": [32, 32]}, action_noise=None,
        topology_interval=20, n_steps=n_steps, n_steps_delay=60,
        buffer_min_size=40, buffer_check_interval=50, buffer_distance_threshold=0.0,
    )  # fmt: skip
    whole.learn(200)
    parts = stock(
        policy, "Pendulum-v1", **common, policy_kwargs={"net_arch": [32, 32], **sparsities},
        replay_buffer_class=DynamicReplayBuffer,
        replay_buffer_kwargs={"n_steps": n_steps, "n_steps_delay": 60, "min_size": 40},
    )  # fmt: skip
    parts.learn(200, callback=[TopologyEvolutionCallback(topology_interval=20), DynamicBufferCallback(50, 0.0)])
    assert parts.topology_counters == whole.topology_counters
    assert parts.topology_counters["critic"]["evolutions"] > 3
    assert parts.replay_buffer.size() == whole.replay_buffer.size() < 200
    for name, tensor in parts.policy.state_dict().items():
        assert th.equal(tensor, whole.policy.state_dict()[name]), name


@pytest.mark.parametrize("stock", [TD3, SAC])
def test_callback_counters_survive_save_and_load_with_stock_sb3(stock, tmp_path):
    policy = {TD3: sb3_rlx2.td3.MlpPolicy, SAC: sb3_rlx2.sac.MlpPolicy}[stock]
    model = stock(
        policy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32], "actor_sparsity": 0.5}
    )
    model.learn(60, callback=TopologyEvolutionCallback(topology_interval=8))
    model.save(tmp_path / "model")
    loaded = stock.load(tmp_path / "model", env=model.env)
    assert loaded.topology_counters == model.topology_counters
    loaded.learn(20, callback=TopologyEvolutionCallback(topology_interval=8), reset_num_timesteps=False)
    assert loaded.topology_counters["critic"]["updates"] == 70
    assert loaded.topology_counters["critic"]["evolutions"] == 6 + 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_attaching_the_callback_twice_changes_nothing(algorithm):
    runs = []
    for callbacks in (None, [TopologyEvolutionCallback(topology_interval=3), TopologyEvolutionCallback("set")]):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
        model.learn(100, callback=callbacks)
        model.learn(50, callback=callbacks, reset_num_timesteps=False)
        runs.append((model.topology_counters, model.get_parameters()["policy"]))
    assert runs[0][0] == runs[1][0]
    assert all(th.equal(tensor, runs[1][1][name]) for name, tensor in runs[0][1].items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_changed_settings_and_replaced_optimizers_take_effect(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_end=10**6))
    model.learn(100)
    evolutions = model.topology_counters["critic"]["evolutions"]
    model.topology = "static"
    model.learn(60, reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 110, "evolutions": evolutions}
    model.topology, model.topology_interval = "rigl", 10
    model.critic.optimizer = th.optim.AdamW(model.critic.parameters(), lr=1e-3)
    model.learn(50, reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 160, "evolutions": evolutions + 5}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_copies_of_a_model_evolve_too(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_end=10**6))
    model.learn(100)
    for twin in (copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        twin.train(40, 32)
        assert twin.topology_counters["critic"] == {"updates": 90, "evolutions": 4}
    assert model.topology_counters["critic"] == {"updates": 50, "evolutions": 2}


def test_evolution_ends_with_the_callbacks_learn_on_stock_sb3():
    model = TD3(sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32]})
    model.learn(50, callback=TopologyEvolutionCallback("set", topology_interval=10))
    assert model.topology_counters["critic"] == {"updates": 40, "evolutions": 3}
    model.learn(50, reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 40, "evolutions": 3}
    model.learn(50, callback=TopologyEvolutionCallback("static"), reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 90, "evolutions": 3}
    model.learn(50, callback=TopologyEvolutionCallback("rigl", topology_interval=5), reset_num_timesteps=False)
    assert model.topology_counters["critic"] == {"updates": 140, "evolutions": 3 + 9}


def test_verbose_prints_a_line_per_evolution(capsys):
    model = TD3(sb3_rlx2.td3.MlpPolicy, "Pendulum-v1", learning_starts=10, policy_kwargs={"net_arch": [32, 32]})
    model.learn(50, callback=TopologyEvolutionCallback("set", topology_interval=10, verbose=1))
    lines = [line for line in capsys.readouterr().out.splitlines() if "topology, update" in line]
    assert [line.split(" topology, ")[0] for line in lines] == ["critic", "actor", "critic", "critic"]
    assert [line.split(":")[0].split()[-1] for line in lines] == ["10", "10", "20", "30"]


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


def test_a_second_buffer_callback_changes_nothing():
    sizes = []
    for callback in (None, DynamicBufferCallback(50, 0.0)):
        model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
        model.learn(150, callback=callback)
        sizes.append(model.replay_buffer.size())
    assert sizes[0] == sizes[1] < 150


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


def test_stock_sb3_with_another_gamma_than_the_buffers_is_refused():
    model = TD3("MlpPolicy", "Pendulum-v1", gamma=0.9, replay_buffer_class=DynamicReplayBuffer, buffer_size=100)
    with pytest.raises(ValueError, match=r"\['gamma'\]=0.99 differs from the algorithm's gamma=0.9"):
        model.learn(10, callback=DynamicBufferCallback())


def test_a_noise_free_action_does_not_outlive_its_learn():
    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 80

    model = RLx2TD3("MlpPolicy", "Pendulum-v1", **quick())
    model.learn(200, callback=Stop())
    stored = model.replay_buffer.pos
    model.learn(10)  # random first steps again
    np.testing.assert_array_equal(model.replay_buffer.noise_free_actions[stored], model.replay_buffer.actions[stored])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_loaded_into_one_of_a_pair_are_refused(algorithm):
    first, second = (algorithm("MlpPolicy", "Pendulum-v1", **quick(seed=seed, topology="static")) for seed in (0, 1))
    network = "actor" if algorithm is RLx2TD3 else "critic"
    getattr(second, network).load_state_dict(getattr(first, network).state_dict())
    with pytest.raises(ValueError, match="have different connections: parameters were loaded into one of them only"):
        second.learn(100)
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


def test_callbacks_refuse_what_they_cannot_work_with():
    dense = TD3("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match="no sparse layer"):
        dense.learn(10, callback=TopologyEvolutionCallback())
    with pytest.raises(ValueError, match="replay_buffer_class=DynamicReplayBuffer, not ReplayBuffer"):
        dense.learn(10, callback=DynamicBufferCallback())
    with pytest.raises(ValueError, match="topology_interval=0"):
        TopologyEvolutionCallback(topology_interval=0)
    with pytest.raises(ValueError, match="buffer_distance_threshold=-1"):
        DynamicBufferCallback(buffer_distance_threshold=-1)


class TestPolicies:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("sparse_extractor", [False, True])
    def test_cnn(self, algorithm, sparse_extractor):
        env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
        kwargs = {
            "features_extractor_kwargs": {"features_dim": 32},
            "net_arch": [32],
            "sparse_features_extractor": sparse_extractor,
        }
        model = algorithm(
            "CnnPolicy", env, **quick(buffer_size=200, policy_kwargs=kwargs, topology_interval=5, learning_starts=10)
        )
        model.learn(40)
        assert isinstance(model.actor.features_extractor.cnn[0], nn.Conv2d)
        assert isinstance(model.actor.features_extractor.linear[0], SparseLinear) == sparse_extractor
        assert network_density(model.actor) == pytest.approx(1 - model.actor_sparsity, abs=0.01)
        assert any(isinstance(layer, SparseLinear) for layer in linear_layers(model.critic.qf0).values())
        assert model.topology_counters["critic"]["evolutions"] > 0
        assert targets_follow(model)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_shared_extractor(self, algorithm):
        env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
        kwargs = {"features_extractor_kwargs": {"features_dim": 32}, "net_arch": [32], "share_features_extractor": True}
        model = algorithm(
            "CnnPolicy", env, **quick(buffer_size=200, policy_kwargs=kwargs, topology_interval=5, learning_starts=10)
        )
        model.learn(30)
        assert model.actor.features_extractor is model.critic.features_extractor
        with pytest.raises(
            ValueError, match="sparse_features_extractor=True is not allowed with share_features_extractor"
        ):
            algorithm("CnnPolicy", env, policy_kwargs={**kwargs, "sparse_features_extractor": True}, buffer_size=100)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_dict_observations(self, algorithm):
        env = SimpleMultiObsEnv(discrete_actions=False, random_start=False)
        with pytest.raises(ValueError, match=r"Dict observation spaces: .* Pass n_steps=1, dynamic_buffer=False"):
            algorithm("MultiInputPolicy", env, buffer_size=100)
        model = algorithm(
            "MultiInputPolicy",
            env,
            **quick(n_steps=1, dynamic_buffer=False, buffer_size=200, topology_interval=5, learning_starts=10),
        )
        model.learn(40)
        assert model.topology_counters["critic"]["evolutions"] > 0
        assert model.predict(env.observation_space.sample())[0].shape == env.action_space.shape

    def test_gsde(self):
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(use_sde=True, sde_sample_freq=4, use_sde_at_warmup=True))
        model.learn(120)
        assert isinstance(model.actor.mu[0], SparseLinear | nn.Linear)
        assert model.topology_counters["actor"]["evolutions"] > 0

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_policy_kwargs_keep_their_meaning(self, algorithm):
        kwargs = {
            "net_arch": {"pi": [24], "qf": [40, 30]}, "activation_fn": nn.Tanh, "n_critics": 3,
            "optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9, "momentum": 0.5},
            "allocation": "uniform", "connections": "random", "weight_scale": "fan_in",
        }  # fmt: skip
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs=kwargs))
        model.learn(120)
        assert len(model.critic.q_networks) == 3
        assert [layer.out_features for layer in linear_layers(model.critic.qf2).values()] == [40, 30, 1]
        assert any(isinstance(module, nn.Tanh) for module in model.critic.qf0)
        assert isinstance(model.critic.optimizer, th.optim.RMSprop)
        assert model.topology_counters["critic"]["evolutions"] > 0

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_stock_and_custom_policy_classes_are_made_sparse(self, algorithm, tmp_path):
        stock = algorithm.dense_class.policy_aliases["MlpPolicy"]

        class Custom(stock):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, net_arch=[40, 24], **kwargs)

        for policy_class, widths in ((stock, [256, 256, 1]), (Custom, [40, 24, 1])):
            model = algorithm(policy_class, "Pendulum-v1", **quick(policy_kwargs={}))
            assert [layer.out_features for layer in linear_layers(model.critic.qf0).values()] == widths
            assert isinstance(model.policy, policy_class)
            assert isinstance(model.policy, SparsePolicyMixin)
            assert sparse_layers(model.actor)
            model.save(tmp_path / "model")
            assert type(algorithm.load(tmp_path / "model").policy) is type(model.policy)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_policy_save_and_load(self, algorithm, tmp_path):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.7))
        model.learn(100)
        model.policy.save(tmp_path / "policy")
        policy = type(model.policy).load(tmp_path / "policy")
        observations = np.stack([model.observation_space.sample() for _ in range(5)])
        np.testing.assert_array_equal(
            policy.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
        )


class TestErrors:
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
            ({"engine": "quantum"}, r"engine='quantum' is not available: allowed are \['auto', 'torch'\]"),
            ({"optimize_memory_usage": True}, "optimize_memory_usage=True: not possible with n-step"),
            ({"replay_buffer_kwargs": {"n_steps": 5}}, r"replay_buffer_kwargs\['n_steps'\]: pass n_steps to"),
            ({"policy_kwargs": {"sparse_features_extractor": True}}, "sparse_features_extractor=True, .*no linear"),
            ({"policy_kwargs": {"actor_sparsity": 0.5}}, r"policy_kwargs\['actor_sparsity'\]: pass actor_sparsity to"),
        ],
    )  # fmt: skip
    def test_bad_arguments(self, algorithm, arguments, message):
        with pytest.raises(ValueError, match=message):
            algorithm("MlpPolicy", "Pendulum-v1", **arguments)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_discrete_actions(self, algorithm):
        with pytest.raises(AssertionError, match=r"only supports .*Box.* as action spaces but Discrete"):
            algorithm("MlpPolicy", "CartPole-v1")

    def test_unknown_noise(self):
        with pytest.raises(ValueError, match="action_noise='gaussian' is unknown"):
            RLx2TD3("MlpPolicy", "Pendulum-v1", action_noise="gaussian")

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_nan_in_a_loss_names_loss_and_update(self, algorithm):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="static"))
        model.learn(60)
        model.replay_buffer.rewards[:] = np.nan
        with pytest.raises(ValueError, match=r"critic_loss is nan at update 1\d"):
            model.learn(20, reset_num_timesteps=False)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_training_too_short_warns_once_and_names_what_will_not_happen(self, algorithm):
        model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology_interval=10_000, n_steps_delay=300_000))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.learn(60)
        ours = [str(warning.message) for warning in caught if "ends at" in str(warning.message)]
        assert ours == [
            f"{algorithm.__name__}.learn() ends at 60 environment steps: the actor's topology does not evolve "
            "(topology_interval=10000, topology_end=None); the critic's topology does not evolve "
            "(topology_interval=10000, topology_end=None); targets stay 1-step (n_steps_delay=300000)"
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.learn(10, reset_num_timesteps=False)
            algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(200)
        with pytest.warns(UserWarning, match=r"no gradient update is made \(learning_starts=50, gradient_steps=1\)"):
            algorithm("MlpPolicy", "Pendulum-v1", **quick()).learn(20)

    @pytest.mark.parametrize(
        ("arguments", "steps", "message"),
        [
            # Update 20 of the critic is made at step 70, when evolution has annealed to nothing
            ({"topology": "set"}, 70, "the critic's topology does not evolve"),
            ({"topology_end": 60}, 200, r"the actor's .* \(topology_interval=20, topology_end=60\); the critic's"),
            ({"buffer_min_size": 2000}, 200, r"forgets nothing \(buffer_min_size=2000, buffer_size=2000\)"),
            ({"gradient_steps": 0}, 200, "no gradient update is made"),
        ],
    )
    def test_what_the_warning_foresees(self, arguments, steps, message):
        model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(**arguments))
        with pytest.warns(UserWarning, match=message):
            model.learn(steps)
        if "topology" in message:
            assert model.topology_counters["critic"]["evolutions"] == 0

    def test_the_warning_is_silent_where_everything_happens(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(n_steps_delay=5))
            model.learn(71)
        assert model.topology_counters["critic"]["evolutions"] == 1

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_no_warning_of_sb3_about_custom_buffers(self, algorithm, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = algorithm("MlpPolicy", "Pendulum-v1", **quick(replay_buffer_class=DynamicReplayBuffer))
            model.save(tmp_path / "model")
            assert isinstance(algorithm.load(tmp_path / "model").replay_buffer, DynamicReplayBuffer)
            assert model.replay_buffer.n_steps == model.n_steps == 3
