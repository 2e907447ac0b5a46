"""SimBaPolicy: normalized observations, residual blocks and layer normalization, sparse throughout."""

import copy
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import COMPILED, GAUSSIAN, differing, engine_threads, everything, in_turn, quick, targets_follow
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize
from test_engine import largest_difference
from test_resume import assert_resumes
from torch import nn

from sb3_rlx2 import RLx2DDPG, RLx2SAC, RLx2TD3, RLx2TQC, TopologyHistoryCallback
from sb3_rlx2.common.observation_norm import ObservationNorm
from sb3_rlx2.common.simba import ResidualBlock
from sb3_rlx2.errors import CheckpointMismatchError, DivergenceError
from sb3_rlx2.sac import SimBaPolicy
from sb3_rlx2.sac.policies import DenseSimBaPolicy
from sb3_rlx2.sparse import SparseLinear, linear_layers, sparse_layers
from sb3_rlx2.sparse.unit_norm import unit_norms

SMALL = {"net_arch": {"pi": [24], "qf": [32, 32]}}
PLAIN = {"topology": "dense", "n_steps": 1, "dynamic_buffer": False}


def model_of(algorithm, env="Pendulum-v1", policy_kwargs=None, **kwargs):
    return algorithm("SimBaPolicy", env, **quick(policy_kwargs={**SMALL, **(policy_kwargs or {})}, **kwargs))


def trained(algorithm, *args, steps=120, **kwargs):
    return model_of(algorithm, *args, **kwargs).learn(steps)


def norm_of(model):
    return model.policy.actor.features_extractor


@pytest.mark.parametrize("algorithm", COMPILED)
def test_networks_are_an_embedding_residual_blocks_a_normalization_and_heads_all_sparse(algorithm):
    kwargs = {"actor_sparsity": 0.9, "critic_sparsity": 0.9, "buffer_size": 100}
    widths = (128, 512) if algorithm is RLx2DDPG else (64, 128)  # the default, and others
    net_arch = {} if algorithm is RLx2DDPG else {"net_arch": {"pi": [64], "qf": [128, 128]}}
    model = algorithm("SimBaPolicy", "Pendulum-v1", policy_kwargs={"allocation": "uniform", **net_arch}, **kwargs)
    for network, width, blocks, n_out in (
        (model.actor, widths[0], 1, 1),
        *((q, widths[1], 2, getattr(model.critic, "n_quantiles", 1)) for q in model.critic.q_networks),
    ):
        body = getattr(network, "latent_pi", getattr(network, "mu", network))
        kinds = [type(module) for module in body]
        assert kinds[: blocks + 2] == [kinds[0], *[ResidualBlock] * blocks, nn.LayerNorm]
        layers = list(linear_layers(network).values())
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        assert shapes[1:-1][: 2 * blocks] == [(4 * width, width), (width, 4 * width)] * blocks
        assert shapes[-1] == (n_out, width)
        assert all(isinstance(layer, SparseLinear) for layer in layers)
        assert [layer.density for layer in layers] == pytest.approx([0.1] * len(layers), abs=0.01)
        assert layers[-1].mask.any(dim=1).all()
    assert isinstance(model.actor.optimizer, th.optim.AdamW)
    assert model.critic.optimizer.param_groups[0]["weight_decay"] == 0.01


def test_width_depth_and_inner_width_are_arguments():
    model = model_of(RLx2SAC, policy_kwargs={"net_arch": [20, 20, 20], "expansion": 2})
    shapes = [(layer.out_features, layer.in_features) for layer in linear_layers(model.critic.qf0).values()]
    assert shapes == [(20, 4), *[(40, 20), (20, 40)] * 3, (1, 20)]
    assert len(model.actor.latent_pi) == 5


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        ({"net_arch": [32, 64]}, "all of a network the same"),
        ({"net_arch": []}, "width of each residual block"),
        ({"net_arch": {"pi": [32]}}, "width of each residual block"),
        ({"net_arch": 64}, "width of each residual block"),
        ({"expansion": 0}, "expansion=0 is not allowed"),
        ({"unit_norm": "yes"}, "unit_norm='yes' is not allowed"),
        ({"features_extractor_class": nn.Flatten}, "features_extractor_class=Flatten is not allowed"),
        ({"features_extractor_kwargs": {"clip": 0.0}}, "clip=0.0 is not allowed"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(policy_kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        model_of(RLx2SAC, policy_kwargs=policy_kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("space", [spaces.Box(0, 255, (3, 40, 40), np.uint8), spaces.Discrete(3)])
def test_observations_that_are_no_vectors_are_refused(space):
    with pytest.raises(ValueError, match="take CnnPolicy or MultiInputPolicy"):
        ObservationNorm(space)


@pytest.mark.parametrize(("algorithm", "env"), in_turn(COMPILED, ["one", "normalized"]))
def test_compiled_updates_are_those_of_torch(algorithm, env):
    runs = {}
    for engine in ("compiled", "torch"):
        given = "Pendulum-v1" if env == "one" else VecNormalize(make_vec_env("Pendulum-v1", 2), norm_reward=True)
        runs[engine] = trained(algorithm, given, engine=engine, n_steps=3, n_steps_delay=20, steps=150)
    ours, theirs = runs.values()
    assert ours.topology_counters == theirs.topology_counters
    assert ours.topology_counters["critic"]["evolutions"] > 1
    # DDPG steps its actor by gradients whose rounding Adam makes large
    assert largest_difference(ours, theirs) < 2e-4


@pytest.mark.parametrize("algorithm", COMPILED)
def test_dense_networks_are_compiled_too_where_asked_for(algorithm):
    ours, theirs = (trained(algorithm, **PLAIN, engine=engine, steps=100) for engine in ("compiled", "torch"))
    assert not sparse_layers(ours.policy)
    assert largest_difference(ours, theirs) < 2e-4


def test_dense_is_stable_baselines3s_own_run():
    ours = trained(RLx2SAC, **PLAIN)
    arguments = {"learning_starts": 50, "batch_size": 32, "buffer_size": 2000, "seed": 0, "device": "cpu"}
    theirs = SAC(DenseSimBaPolicy, "Pendulum-v1", policy_kwargs=dict(SMALL), **arguments)
    theirs.learn(120, callback=lambda *_: theirs.policy.observe(theirs._last_obs) or True)
    assert largest_difference(ours, theirs) == 0.0


def test_the_same_bit_for_bit_with_any_number_of_threads():
    runs = []
    for threads in (1, 2):
        with engine_threads(threads):
            runs.append(trained(RLx2TQC, engine="compiled", batch_size=300, learning_starts=100))
    assert largest_difference(*runs) == 0.0


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("topology", ["rigl", "set"])
def test_evolution_keeps_all_counts_and_a_connection_of_each_output(algorithm, topology):
    model = model_of(algorithm, topology=topology, drop_fraction=1.0)
    before = {name: layer.nnz for name, layer in sparse_layers(model.policy).items()}
    model.learn(150)
    assert before == {name: layer.nnz for name, layer in sparse_layers(model.policy).items()}
    assert model.topology_counters["critic"]["evolutions"] > 1
    assert targets_follow(model)
    heads = [network[-1] for network in model.critic.q_networks]
    heads += [model.actor.mu, model.actor.log_std] if algorithm in GAUSSIAN else [model.actor.mu[-2]]
    for head in heads:
        assert not isinstance(head, SparseLinear) or head.mask.any(dim=1).all()


# --- normalization of observations ---


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("algorithm", COMPILED)
def test_statistics_are_those_of_the_stored_observations_each_counted_once(algorithm, n_envs):
    model = trained(algorithm, make_vec_env("Pendulum-v1", n_envs), buffer_min_size=1500, gradient_steps=3)
    norm, buffer = norm_of(model), model.replay_buffer
    stored = buffer.observations[: buffer.pos].reshape(-1, 3).astype(np.float64)
    assert norm.count.item() == model.num_timesteps == len(stored)
    np.testing.assert_allclose(norm.mean, stored.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(norm.variance, stored.var(axis=0), rtol=1e-9)
    assert {id(network.features_extractor) for network in (model.actor, model.critic, model.critic_target)} == {
        id(norm)
    }


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_acting_evaluating_and_updating_leave_the_statistics_alone(engine):
    model = trained(RLx2SAC, engine=engine)
    before = copy.deepcopy(norm_of(model).state_dict())
    model.predict(np.full(3, 100.0), deterministic=True)
    evaluate_policy(model, make_vec_env("Pendulum-v1", 2), n_eval_episodes=2, warn=False)
    model.train(5, 32)
    assert all(th.equal(tensor, before[name]) for name, tensor in norm_of(model).state_dict().items())


@pytest.mark.parametrize("algorithm", COMPILED)
def test_actions_for_observations_far_outside_are_those_at_the_bound(algorithm):
    model = trained(algorithm)
    norm = norm_of(model)
    far = np.array([[1e30, -1e30, 1e38], [-1e38, 3e38, 0.0]])
    bound = (norm.mean + norm.clip * (norm.variance + norm.epsilon).sqrt()).numpy()
    low = (norm.mean - norm.clip * (norm.variance + norm.epsilon).sqrt()).numpy()
    assert model.policy._fast_actor() is not None
    found, _ = model.predict(far[:1], deterministic=True)
    expected, _ = model.predict(np.array([[bound[0], low[1], bound[2]]]), deterministic=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with th.no_grad():
        slow = model.policy(th.as_tensor(far, dtype=th.float32), deterministic=True).numpy()
    fast, _ = model.predict(far, deterministic=True)
    np.testing.assert_allclose(fast, model.policy.unscale_action(slow), atol=1e-5)


def test_every_change_of_the_statistics_is_seen_by_compiled_code():
    model = trained(RLx2SAC, engine="compiled")
    norm, observation = norm_of(model), np.array([[0.3, -0.5, 2.0]], np.float32)

    def grow():
        norm.mean.add_(0.5)

    def replace():
        norm.variance = norm.variance * 9.0

    def narrow():
        norm.clip = 0.2

    def observe():
        model.policy.observe(np.full((500, 3), 3.0))

    for change in (grow, replace, narrow, observe):
        before = model.predict(observation, deterministic=True)[0]
        change()
        with th.no_grad():
            expected = model.policy.unscale_action(model.policy(th.as_tensor(observation), deterministic=True).numpy())
        assert model.policy._fast_actor() is not None
        found = model.predict(observation, deterministic=True)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert not np.array_equal(found, before), change
        twin = trained(RLx2SAC, engine="torch", steps=60)
        twin.set_parameters(model.get_parameters())
        norm_of(twin).clip = norm.clip
        for one in (model, twin):
            one.replay_buffer = model.replay_buffer
            one._n_updates = model._n_updates
            one.set_random_seed(3)
            one.train(1, 64)
        assert largest_difference(model, twin) < 1e-5


def test_observations_far_from_zero_are_told_apart():
    norm = ObservationNorm(spaces.Box(-np.inf, np.inf, (2,)))
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32) + np.array([1e4, -3.0], np.float32)
    for rows in np.array_split(x, 700):
        norm.update(rows)
    normalized = norm(th.as_tensor(x))
    np.testing.assert_allclose(normalized.mean(dim=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(dim=0), 1.0, atol=1e-3)


def test_normalization_can_be_left_to_others():
    from stable_baselines3.common.torch_layers import FlattenExtractor

    model = trained(RLx2TD3, engine="compiled", policy_kwargs={"features_extractor_class": FlattenExtractor})
    assert not [module for module in model.policy.modules() if isinstance(module, ObservationNorm)]


class Broken(gym.Wrapper):
    """Returns NaN once."""

    def step(self, action):
        observation, *rest = super().step(action)
        self.steps = getattr(self, "steps", 0) + 1
        return observation * (np.nan if self.steps == 60 else 1.0), *rest


def test_a_step_that_is_not_stored_is_not_counted():
    model = model_of(RLx2TD3, Broken(gym.make("Pendulum-v1")))
    with pytest.raises(ValueError, match="nan"):
        model.learn(100)
    assert norm_of(model).count.item() == model.replay_buffer.pos == 59
    assert norm_of(model).mean.isfinite().all()


# --- units of norm 1 ---


def hidden_layers(model):
    """Embedding and blocks of actor and critics."""
    bodies = [getattr(model.actor, "latent_pi", model.actor.mu), *model.critic.q_networks]
    inner = [module for body in bodies for module in body if isinstance(module, ResidualBlock)]
    return [body[0] for body in bodies] + [layer for block in inner for layer in linear_layers(block).values()]


def assert_unit_norms(model):
    for layer in hidden_layers(model):
        weight = layer.weight.detach()
        norms = weight.norm(dim=1)[(weight != 0).any(dim=1)]
        assert len(norms) > 0
        th.testing.assert_close(norms, th.ones_like(norms), rtol=0, atol=1e-5)


@pytest.mark.parametrize("algorithm", COMPILED)
def test_units_keep_norm_1_after_every_step_and_evolution_in_both_engines(algorithm):
    runs = []
    for engine in ("compiled", "torch"):
        model = model_of(algorithm, engine=engine, policy_kwargs={"unit_norm": True}, topology_interval=7)
        assert_unit_norms(model)
        assert largest_difference(model, model) == 0.0
        for steps in (60, 61, 62, 63, 64, 120):
            model.learn(steps - model.num_timesteps, reset_num_timesteps=False)
            assert_unit_norms(model)
        assert model._engine_choice.reason == (None if engine == "compiled" else "engine='torch'")
        heads = model.critic.qf0[-1]
        assert not th.allclose(heads.weight.detach().norm(dim=1), th.ones(heads.out_features), atol=1e-3)
        runs.append(model)
    assert runs[0].topology_counters == runs[1].topology_counters
    assert runs[0].topology_counters["critic"]["evolutions"] > 1
    assert largest_difference(*runs) < 2e-4


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_copies_and_replaced_optimizers_keep_norm_1_too(engine):
    model = trained(RLx2SAC, engine=engine, policy_kwargs={"unit_norm": True})
    twin = copy.deepcopy(model.policy)
    assert [len(unit_norms(network.optimizer)) for network in (twin.actor, twin.critic)] == [1, 1]
    assert unit_norms(twin.actor.optimizer)[0].optimizer is twin.actor.optimizer
    assert all(map(th.equal, twin.parameters(), model.policy.parameters()))
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-2)
    model.train(3, 32)
    assert_unit_norms(model)


def test_units_have_norm_1_once_a_dense_model_is_pruned():
    kwargs = {"policy_kwargs": {"net_arch": [16], "unit_norm": True}, "learning_starts": 20, "seed": 0, "device": "cpu"}
    model = RLx2SAC.from_dense(SAC(DenseSimBaPolicy, "Pendulum-v1", **kwargs).learn(40))
    assert_unit_norms(model)
    model.critic = model.critic_target
    assert_unit_norms(model)


def test_units_of_norm_1_are_the_same_with_any_number_of_threads():
    runs, kwargs = [], {"batch_size": 300, "learning_starts": 100, "policy_kwargs": {"unit_norm": True}}
    for threads in (1, 2):
        with engine_threads(threads):
            runs.append(trained(RLx2TD3, engine="compiled", **kwargs))
    assert largest_difference(*runs) == 0.0


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_an_update_that_diverges_leaves_units_of_norm_1_as_they_were(engine):
    model = trained(RLx2SAC, engine=engine, policy_kwargs={"unit_norm": True}, topology="static")
    before = everything(model)
    with th.no_grad():
        model.policy.actor.mu.bias.fill_(1e38)
        model.policy.actor.mu.bias.mul_(1e2)
    with pytest.raises(DivergenceError):
        model.train(1, 32)
    after = everything(model)
    assert differing(before, after) == ["policy.actor.mu.bias"]


# --- files, copies, exports ---


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("name", ["model.zip", "model.safetensors"])
def test_a_saved_model_comes_back_with_its_statistics(algorithm, name, tmp_path):
    model = trained(algorithm, policy_kwargs={"expansion": 2})
    model.save(tmp_path / name)
    loaded = algorithm.load(tmp_path / name, env=model.get_env(), trusted=name == "model.zip")
    assert differing(everything(model), everything(loaded)) == ["buffer"]  # which is saved apart
    assert norm_of(loaded) is loaded.critic.features_extractor
    observations = np.random.default_rng(0).normal(size=(5, 3))
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_a_resumed_training_ends_as_one_that_was_never_stopped(unit_norm, tmp_path):
    assert_resumes(lambda: model_of(RLx2SAC, policy_kwargs={"unit_norm": unit_norm}), tmp_path, callback=[])


def test_policies_and_copies_stand_on_their_own(tmp_path):
    model = trained(RLx2SAC)
    model.policy.save(tmp_path / "policy")
    loaded = SimBaPolicy.load(tmp_path / "policy")
    twin = copy.deepcopy(model.policy)
    observation = np.array([0.3, -0.2, 1.0])
    expected = model.predict(observation, deterministic=True)[0]
    for policy in (loaded, twin):
        np.testing.assert_array_equal(policy.predict(observation, deterministic=True)[0], expected)
        assert policy.actor.features_extractor is policy.critic.features_extractor is not norm_of(model)
    twin.observe(np.ones((10, 3)))
    assert norm_of(model).count.item() == 120
    assert twin.critic_target.features_extractor.count.item() == 130


@pytest.mark.parametrize("algorithm", COMPILED)
def test_the_dense_model_predicts_the_same(algorithm):
    model = trained(algorithm)
    dense = model.to_dense()
    assert not sparse_layers(dense.policy)
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(dense.predict(observations, deterministic=True)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("key", "value"), [("variance", -1.0), ("count", -1.0), ("mean", 7.0), ("mean", np.nan)])
def test_statistics_that_cannot_be_are_refused(key, value):
    model = trained(RLx2SAC)
    before, parameters = everything(model), copy.deepcopy(model.get_parameters())
    name = f"critic.features_extractor.{key}"
    parameters["policy"][name] = th.full_like(parameters["policy"][name], value)
    with pytest.raises(CheckpointMismatchError, match=f"policy.{name} (has|is not that of the other networks)"):
        model.set_parameters(parameters)
    assert differing(before, everything(model)) == []


def test_a_policy_behind_a_second_normalization_is_not_exported(tmp_path):
    model = trained(RLx2SAC, VecNormalize(make_vec_env("Pendulum-v1", 1)))
    with pytest.raises(ValueError, match=r"normalizes observations by itself.*norm_obs=False"):
        model.export(tmp_path)
    only_rewards = trained(RLx2SAC, VecNormalize(make_vec_env("Pendulum-v1", 1), norm_obs=False))
    only_rewards.export(tmp_path, to="numpy")


def test_reports_and_pictures_tell_which_inputs_are_read(tmp_path):
    callback = TopologyHistoryCallback(tmp_path / "history.npz")
    model = model_of(RLx2SAC, policy_kwargs={"allocation": "uniform"}, actor_sparsity=0.5).learn(120, callback)
    inputs = model.report().inputs
    assert [each.name for each in inputs] == ["0", "1", "2", "action 0"]
    embeddings = {
        "actor": model.actor.latent_pi[0],
        "critic.qf0": model.critic.qf0[0],
        "critic.qf1": model.critic.qf1[0],
    }
    for name, layer in embeddings.items():
        assert sum(each.connections.get(name, 0) for each in inputs) == layer.nnz
        assert callback.history.connections_per_input(name)[-1].sum() == layer.nnz
    if find_spec("matplotlib"):
        from sb3_rlx2.analysis.plots.inputs import draw_inputs

        assert len(draw_inputs(callback.history).axes) >= 4
