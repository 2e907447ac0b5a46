"""Sparse policies: what SB3's policies can do, they can."""

import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, COMPILED, quick, targets_follow
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_rlx2 import RLx2CrossQ, RLx2SAC, RLx2TD3
from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.topology import network_density
from sb3_rlx2.sparse import SparseLinear, allocate, linear_layers, sparse_layers


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("sparse_extractor", [False, True])
def test_cnn(algorithm, sparse_extractor):
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


@pytest.mark.parametrize("algorithm", COMPILED)
def test_shared_extractor(algorithm):
    env = FakeImageEnv(screen_height=40, screen_width=40, discrete=False)
    kwargs = {"features_extractor_kwargs": {"features_dim": 32}, "net_arch": [32], "share_features_extractor": True}
    model = algorithm(
        "CnnPolicy", env, **quick(buffer_size=200, policy_kwargs=kwargs, topology_interval=5, learning_starts=10)
    )
    model.learn(30)
    assert model.actor.features_extractor is model.critic.features_extractor
    with pytest.raises(ValueError, match="sparse_features_extractor=True is not allowed with share_features_extractor"):
        algorithm("CnnPolicy", env, policy_kwargs={**kwargs, "sparse_features_extractor": True}, buffer_size=100)


@pytest.mark.parametrize("algorithm", COMPILED)
def test_dict_observations(algorithm):
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


def test_gsde():
    model = RLx2SAC("MlpPolicy", "Pendulum-v1", **quick(use_sde=True, sde_sample_freq=4, use_sde_at_warmup=True))
    model.learn(120)
    assert isinstance(model.actor.mu[0], SparseLinear | nn.Linear)
    assert model.topology_counters["actor"]["evolutions"] > 0


def n_outputs(model):
    """Of each critic."""
    return getattr(model.critic, "n_quantiles", 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_kwargs_keep_their_meaning(algorithm):
    kwargs = {
        "net_arch": {"pi": [24], "qf": [40, 30]}, "activation_fn": nn.Tanh, "n_critics": 3,
        "optimizer_class": th.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.9, "momentum": 0.5},
        "allocation": "uniform", "connections": "random", "weight_scale": "fan_in",
    }  # fmt: skip
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(policy_kwargs=kwargs))
    model.learn(120)
    assert len(model.critic.q_networks) == 3
    assert [layer.out_features for layer in linear_layers(model.critic.qf2).values()] == [40, 30, n_outputs(model)]
    assert any(isinstance(module, nn.Tanh) for module in model.critic.qf0)
    assert isinstance(model.critic.optimizer, th.optim.RMSprop)
    assert model.topology_counters["critic"]["evolutions"] > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stock_and_custom_policy_classes_are_made_sparse(algorithm, tmp_path):
    stock = algorithm.dense_class.policy_aliases["MlpPolicy"]

    class Custom(stock):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, net_arch=[40, 24], **kwargs)

    usual = [1024, 1024] if algorithm is RLx2CrossQ else [256, 256]
    for policy_class, widths in ((stock, usual), (Custom, [40, 24])):
        model = algorithm(policy_class, "Pendulum-v1", **quick(policy_kwargs={}))
        layers = linear_layers(model.critic.qf0).values()
        assert [layer.out_features for layer in layers] == [*widths, n_outputs(model)]
        assert isinstance(model.policy, policy_class)
        assert isinstance(model.policy, SparsePolicyMixin)
        assert sparse_layers(model.actor)
        model.save(tmp_path / "model")
        assert type(algorithm.load(tmp_path / "model").policy) is type(model.policy)


class ModuleListCritic(BaseModel):
    """A critic whose layers are where it likes: TD3 needs ``forward`` and ``q1_forward`` alone."""

    def __init__(self, observation_space, action_space, features_extractor, features_dim, **kwargs):
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        self.share_features_extractor = kwargs["share_features_extractor"]
        n_in = features_dim + action_space.shape[0]
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(n_in, 32), nn.ReLU(), nn.Linear(32, 1)) for _ in "12"])

    def forward(self, observations, actions):
        inputs = th.cat([self.extract_features(observations, self.features_extractor), actions], 1)
        return tuple(layer(inputs) for layer in self.layers)

    def q1_forward(self, observations, actions):
        return self.forward(observations, actions)[0]


class WithModuleListCritic(TD3Policy):
    def make_critic(self, features_extractor=None):
        return ModuleListCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor))


@pytest.mark.parametrize("topology", ["rigl", "dense"])
def test_a_critic_may_have_its_layers_anywhere(topology, tmp_path):
    changes = {"topology": topology, "topology_interval": 20}
    model = RLx2TD3(WithModuleListCritic, "Pendulum-v1", **quick(**changes)).learn(150)
    is_sparse = topology == "rigl"
    assert [isinstance(layer, SparseLinear) for layer in linear_layers(model.critic).values()] == [is_sparse] * 4
    assert network_density(model.critic) == pytest.approx(1 - model.critic_sparsity * is_sparse, abs=0.02)
    assert (model.topology_counters.get("critic", {}).get("evolutions", 0) > 0) == is_sparse
    model.save(tmp_path / "model")
    loaded = RLx2TD3.load(tmp_path / "model", env=model.get_env())
    loaded.learn(50, reset_num_timesteps=False)
    assert targets_follow(loaded)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policy_save_and_load(algorithm, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(actor_sparsity=0.7))
    model.learn(100)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    observations = np.stack([model.observation_space.sample() for _ in range(5)])
    np.testing.assert_array_equal(
        policy.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


def test_sacs_two_heads_count_as_the_one_layer_of_the_paper():
    model = RLx2SAC("MlpPolicy", "Hopper-v5", actor_sparsity=0.98, critic_sparsity=0.95, buffer_size=1)
    paper = allocate({"0": (256, 11), "2": (256, 256), "heads": (6, 256)}, 0.98)
    assert paper == {"0": 358, "2": 688, "heads": 352}
    assert {name: layer.nnz for name, layer in sparse_layers(model.actor).items()} == {
        "latent_pi.0": 358, "latent_pi.2": 688, "mu": 176, "log_std": 176,
    }  # fmt: skip
