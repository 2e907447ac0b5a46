"""Which engine computes a model's updates, and what happens where the compiled one cannot."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch as th
from helpers import ALGORITHMS, quick
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from sb3_rlx2 import DynamicReplayBuffer, RLx2SAC, RLx2TD3


class OwnTrain(RLx2TD3):
    def train(self, gradient_steps, batch_size=100):
        super().train(gradient_steps, batch_size)


class OwnPolicy(TD3Policy):
    pass


class OwnSACPolicy(SACPolicy):
    pass


class OwnBuffer(DynamicReplayBuffer):
    pass


class OwnNormalize(VecNormalize):
    pass


def hooked(model):
    model.critic.qf0[0].register_forward_hook(lambda *_: None)


def with_frozen_bias(model):
    model.actor.mu[0].bias.requires_grad_(False)


def with_another_activation(model):
    model.critic.qf1[1] = nn.Tanh()


def with_patched_sample(model):
    model.replay_buffer.sample = model.replay_buffer.sample


MEMORY = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
ADAMW = {"net_arch": [32, 32], "optimizer_class": th.optim.AdamW}
DECAY = {"net_arch": [32, 32], "optimizer_kwargs": {"weight_decay": 0.1}}
NOT_COVERED = [
    (RLx2TD3, {"topology": "dense"}, None, r"topology='dense'"),
    (RLx2TD3, {"policy_kwargs": ADAMW}, None, "optimizer is AdamW"),
    (RLx2SAC, {"policy_kwargs": DECAY}, None, r"weight_decay=0\.1"),
    (RLx2TD3, {"policy_kwargs": {"activation_fn": nn.GELU}}, None, "activation_fn is GELU"),
    (RLx2SAC, {"use_sde": True}, None, "use_sde=True"),
    (RLx2TD3, {"policy": OwnPolicy}, None, "the policy is a SparseOwnPolicy"),
    (RLx2SAC, {"policy": OwnSACPolicy}, None, "the policy is a SparseOwnSACPolicy"),
    (RLx2TD3, {"replay_buffer_class": OwnBuffer}, None, "the replay buffer is a OwnBuffer"),
    (RLx2TD3, {**MEMORY, "n_steps": 1, "dynamic_buffer": False}, None, "optimize_memory_usage"),
    (RLx2TD3, {"actor_sparsity": 0.1, "critic_sparsity": 0.1}, None, r"density 0\.9"),
    (OwnTrain, {}, None, "OwnTrain has a train of its own"),
    (RLx2TD3, {}, hooked, "the critic has hooks"),
    (RLx2TD3, {}, with_frozen_bias, "the actor has parameters that are not trained"),
    (RLx2TD3, {}, with_another_activation, "the critic has layers other than SB3's own"),
    (RLx2TD3, {}, with_patched_sample, "the replay buffer has methods of its own"),
    (RLx2SAC, {"env": lambda: OwnNormalize(make_vec_env("Pendulum-v1"))}, None, "normalized by a OwnNormalize"),
]


@pytest.mark.parametrize(("algorithm", "kwargs", "change", "reason"), NOT_COVERED)
def test_what_is_not_covered_takes_the_torch_path_and_says_why(algorithm, kwargs, change, reason, capsys):
    kwargs = copy.copy(kwargs)
    policy, env = kwargs.pop("policy", "MlpPolicy"), kwargs.pop("env", lambda: "Pendulum-v1")
    model = algorithm(policy, env(), **quick(verbose=1, **kwargs))
    if change is not None:
        change(model)
    model.learn(70)
    assert model._n_updates > 0
    printed = capsys.readouterr().out
    assert "Engine: torch (" in printed
    lines = [line for line in printed.splitlines() if line.startswith("Engine: torch")]
    assert re.search(reason, lines[0]), lines

    def ask_for_it():
        if change is None:
            algorithm(policy, env(), engine="compiled", **quick(**kwargs))
        else:
            model.engine = "compiled"
            model.learn(70)

    with pytest.raises(ValueError, match=r"engine='compiled' does not cover this .*" + reason):
        ask_for_it()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_covered_is_compiled(algorithm, capsys):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(verbose=1))
    model.learn(70)
    assert "Engine: compiled" in capsys.readouterr().out
    torch = algorithm("MlpPolicy", "Pendulum-v1", **quick(verbose=1, engine="torch"))
    torch.learn(70)
    assert "Engine: torch (engine='torch')" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_untrained_model_has_no_optimizer_state(algorithm, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
    model.save(tmp_path / "model")
    assert not model.get_parameters()["critic.optimizer"]["state"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("place", ["actor", "critic"])
def test_a_loss_that_is_not_finite_stops_before_its_step(algorithm, place):
    model = algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **quick(topology="static"))
    model.learn(80)
    updates = model._n_updates
    if place == "critic":
        model.replay_buffer.rewards[:] = np.inf
    else:
        with th.no_grad():
            model.actor.latent_pi[0].bias.fill_(np.nan) if algorithm is RLx2SAC else model.actor.mu[0].bias.fill_(
                np.nan
            )
    before = {name: tensor.clone() for name, tensor in model.critic.state_dict().items()}
    loss = "critic_loss" if place == "critic" or algorithm is RLx2SAC else "actor_loss"
    at = updates + 1 if loss == "critic_loss" else updates + 2 - updates % 2
    with pytest.raises(ValueError, match=rf"{loss} is (nan|inf) at update {at}: training has diverged"):
        model.train(10, 32)
    if loss == "critic_loss":
        for name, tensor in model.critic.state_dict().items():
            assert th.equal(tensor, before[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_engines_can_take_turns(algorithm, tmp_path):
    kwargs = quick(topology_end=1000)
    alone = algorithm("MlpPolicy", "Pendulum-v1", engine="torch", **copy.deepcopy(kwargs))
    turns = algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **copy.deepcopy(kwargs))
    for i in range(5):
        for model in (alone, turns):
            model.set_random_seed(i)
            model.learn(50, reset_num_timesteps=False)
        turns.engine = "torch" if turns.engine == "compiled" else "compiled"
        turns.save(tmp_path / "model")
        turns.set_parameters(tmp_path / "model")
    assert alone.topology_counters == turns.topology_counters
    assert alone.topology_counters["critic"]["evolutions"] > 3
    for name, tensor in alone.policy.state_dict().items():
        th.testing.assert_close(turns.policy.state_dict()[name], tensor, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_copies_make_tables_of_their_own(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **quick())
    model.learn(80)
    copied = copy.deepcopy(model)
    assert "_engine_choice" not in vars(copied)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    copied.train(20, 32)
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(tensor, before[name]), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_changes_while_learning_is_noticed(algorithm):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="static"))
    model.learn(80)
    assert model._choose_engine().reason is None
    for parameter in model.actor.parameters():
        parameter.requires_grad_(False)
    assert "not trained" in model._choose_engine().reason
    for parameter in model.actor.parameters():
        parameter.requires_grad_(True)
    handle = next(model.critic.parameters()).register_hook(lambda gradient: 0 * gradient)
    assert "hooks" in model._choose_engine().reason
    handle.remove()
    model.replay_buffer.rewards = model.replay_buffer.rewards.astype(np.float64)
    assert "rewards are stored as float64" in model._choose_engine().reason
    model.replay_buffer.rewards = model.replay_buffer.rewards.astype(np.float32)
    model.critic.optimizer.state.clear()
    model.train(1, 32)
    steps = [state["step"].item() for state in model.critic.optimizer.state.values()]
    assert steps == [1.0] * len(list(model.critic.parameters()))


def test_a_divergence_at_an_evolution_step_leaves_a_working_model():
    model = RLx2TD3("MlpPolicy", "Pendulum-v1", engine="compiled", **quick(topology_end=10_000))
    model.learn(50 + 19)
    rewards = model.replay_buffer.rewards.copy()
    model.replay_buffer.rewards[:] = np.nan
    with pytest.raises(ValueError, match="critic_loss is nan") as caught:
        model.train(1, 32)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    model.replay_buffer.rewards[:] = rewards
    model.train(3, 32)
    assert model.topology_counters["critic"]["evolutions"] == 1
