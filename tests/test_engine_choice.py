"""Which engine computes a model's updates, and what happens where the compiled one cannot."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch as th
from helpers import ALL_COMPILED, COMPILED, GAUSSIAN, environment, one_output, quick
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sb3_rlx2 import DynamicReplayBuffer, RLx2SAC, RLx2TD3
from sb3_rlx2.td3 import MlpPolicy


class OwnTrain(RLx2TD3):
    def train(self, gradient_steps, batch_size=100):
        super().train(gradient_steps, batch_size)


class OwnPolicy(TD3Policy):
    def forward(self, observation, deterministic=False):
        return super().forward(observation, deterministic)


class OwnSACPolicy(SACPolicy):
    def make_critic(self, features_extractor=None):
        return super().make_critic(features_extractor)


class WideTD3Policy(TD3Policy):
    """Other defaults."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"net_arch": [40, 24], **kwargs})


class WideSACPolicy(SACPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"net_arch": [40, 24], **kwargs})


class OwnSparsePolicy(MlpPolicy):
    default_net_arch = (24, 24)


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


def with_dropout(model):
    for network in (model.critic, model.critic_target):
        network.qf1[1] = nn.Dropout()


def with_patched_sample(model):
    model.replay_buffer.sample = model.replay_buffer.sample


MEMORY = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
SGD = {"net_arch": [32, 32], "optimizer_class": th.optim.SGD}
AMSGRAD = {"net_arch": [32, 32], "optimizer_kwargs": {"amsgrad": True}}
NOT_COVERED = [
    (RLx2TD3, {"policy_kwargs": SGD}, None, "optimizer is SGD"),
    (RLx2SAC, {"policy_kwargs": AMSGRAD}, None, r"amsgrad=True"),
    (RLx2TD3, {"policy_kwargs": {"activation_fn": nn.Softplus}}, None, "the actor has a Softplus"),
    (RLx2SAC, {"use_sde": True}, None, "use_sde=True"),
    (RLx2TD3, {"policy": OwnPolicy}, None, "the policy is a SparseOwnPolicy"),
    (RLx2SAC, {"policy": OwnSACPolicy}, None, "the policy is a SparseOwnSACPolicy"),
    (RLx2TD3, {"replay_buffer_class": OwnBuffer}, None, "the replay buffer is a OwnBuffer"),
    (RLx2TD3, {**MEMORY, "n_steps": 1, "dynamic_buffer": False}, None, "optimize_memory_usage"),
    (OwnTrain, {}, None, "OwnTrain has a train of its own"),
    (RLx2TD3, {}, hooked, "the critic has hooks"),
    (RLx2TD3, {}, with_frozen_bias, "the actor has parameters that are not trained"),
    (RLx2TD3, {}, with_another_activation, "the critic_target has other layers or connections than the critic"),
    (RLx2TD3, {}, with_dropout, "the critic has a Dropout"),
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


NOT_SPARSE = [
    ({"topology": "dense"}, r"Engine: torch \(topology='dense'\)"),
    ({"actor_sparsity": 0.1, "critic_sparsity": 0.1}, r"Engine: torch \(density 0\.9"),
]


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize(("kwargs", "reason"), NOT_SPARSE)
def test_what_is_not_sparse_is_compiled_on_request_only(algorithm, kwargs, reason, capsys):
    algorithm("MlpPolicy", "Pendulum-v1", **quick(verbose=1, **kwargs)).learn(70)
    assert re.search(reason, capsys.readouterr().out)
    algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **quick(verbose=1, **kwargs)).learn(70)
    assert "Engine: compiled" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("algorithm", "policy"), [(RLx2TD3, WideTD3Policy), (RLx2SAC, WideSACPolicy), (RLx2TD3, OwnSparsePolicy)]
)
def test_policies_that_change_defaults_only_are_compiled(algorithm, policy):
    model = algorithm(policy, "Pendulum-v1", engine="compiled", **quick(policy_kwargs={}))
    assert model.policy.net_arch in ([40, 24], [24, 24])
    model.learn(70)
    assert model._n_updates > 0
    assert model.policy._fast_actor() is not None


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_what_is_covered_is_compiled(algorithm, capsys):
    model = algorithm("MlpPolicy", environment(algorithm), **quick(verbose=1))
    model.learn(70)
    assert "Engine: compiled" in capsys.readouterr().out
    torch = algorithm("MlpPolicy", environment(algorithm), **quick(verbose=1, engine="torch"))
    torch.learn(70)
    assert "Engine: torch (engine='torch')" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", COMPILED)
def test_an_untrained_model_has_no_optimizer_state(algorithm, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick())
    model.save(tmp_path / "model")
    assert not model.get_parameters()["critic.optimizer"]["state"]


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("place", ["actor", "critic"])
def test_a_loss_that_is_not_finite_stops_before_its_step(algorithm, place):
    model = algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **quick(topology="static"))
    model.learn(80)
    updates = model._n_updates
    if place == "critic":
        model.replay_buffer.rewards[:] = np.inf
    else:
        with th.no_grad():
            model.actor.latent_pi[0].bias.fill_(np.nan) if algorithm in GAUSSIAN else model.actor.mu[0].bias.fill_(
                np.nan
            )
    before = {name: tensor.clone() for name, tensor in model.critic.state_dict().items()}
    loss = "critic_loss" if place == "critic" or algorithm in GAUSSIAN else "actor_loss"
    delay = getattr(model, "policy_delay", 1)
    at = updates + 1 if loss == "critic_loss" else updates + delay - updates % delay
    with pytest.raises(ValueError, match=rf"{loss} is (nan|inf) at update {at}: training has diverged"):
        model.train(10, 32)
    if loss == "critic_loss":
        for name, tensor in model.critic.state_dict().items():
            assert th.equal(tensor, before[name]), name


@pytest.mark.parametrize("algorithm", COMPILED)
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


@pytest.mark.parametrize("algorithm", ALL_COMPILED)
def test_copies_make_tables_of_their_own(algorithm):
    model = algorithm("MlpPolicy", environment(algorithm), engine="compiled", **quick())
    model.learn(80)
    copied = copy.deepcopy(model)
    assert "_engine_choice" not in vars(copied)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    copied.train(20, 32)
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(tensor, before[name]), name


def option(name, value):
    def change(model):
        group = model.critic.optimizer.param_groups[0]
        before = group[name]
        group[name] = value
        return lambda: group.__setitem__(name, before)

    return change


def conversion(dtype):
    def change(model):
        model.critic.to(dtype)
        return lambda: model.critic.to(th.float32)

    return change


def hook(register):
    return lambda model: register(model).remove


def frozen(model):
    parameter = first_parameter(model).requires_grad_(False)
    return lambda: parameter.requires_grad_(True)


def second_group(model):
    model.actor.optimizer.add_param_group({"params": [nn.Parameter(th.zeros(1))]})
    return lambda: model.actor.optimizer.param_groups.pop()


def attribute(find, name, value):
    def change(model):
        owner = find(model)
        before = vars(owner).get(name)
        setattr(owner, name, value)
        return lambda: delattr(owner, name) if before is None else setattr(owner, name, before)

    return change


def other_module(model):
    layers = model.critic.qf0
    before = layers[0]
    layers[0] = copy.deepcopy(before)
    return lambda: layers.__setitem__(0, before)


def other_class(model):
    model.critic.optimizer.__class__ = th.optim.NAdam
    return lambda: setattr(model.critic.optimizer, "__class__", th.optim.Adam)


def moment(entry, change_of, matrix=False):
    def change(model):
        parameter = next(p for p in model.critic.parameters() if (p.dim() == 2) is matrix)
        state = model.critic.optimizer.state[parameter]
        before = state[entry]
        state[entry] = change_of(before)
        return lambda: state.__setitem__(entry, before)

    return change


def moved_moment(model):
    tensor = next(iter(model.critic.optimizer.state.values()))["exp_avg"]
    before = tensor.data
    tensor.data = before[:1].clone()
    return lambda: setattr(tensor, "data", before)


def transposed_weight(model):
    weight = next(p for p in model.critic_target.parameters() if p.dim() == 2)
    before = weight.data
    weight.data = before.T
    return lambda: setattr(weight, "data", before)


def target_connections(model):
    indices = model.critic_target.qf0[0].indices
    before = indices.clone()
    free = next(i for i in range(10**6) if i not in before.tolist())
    others = before.tolist()[1:]
    indices.copy_(th.tensor(sorted([free, *others]), dtype=indices.dtype))
    return lambda: indices.copy_(before)


def rewards_in_float64(model):
    before = model.replay_buffer.rewards
    model.replay_buffer.rewards = before.astype(np.float64)
    return lambda: setattr(model.replay_buffer, "rewards", before)


def first_parameter(model):
    return next(model.critic.parameters())


def nothing(*_, **__):
    return None


CHANGES = {
    "double": (conversion(th.float64), r"the critic has parameters of type torch\.float64"),
    "half": (conversion(th.float16), r"the critic has parameters of type torch\.float16"),
    "maximize": (option("maximize", True), "maximize=True"),
    "amsgrad": (option("amsgrad", True), "amsgrad=True"),
    "capturable": (option("capturable", True), "capturable=True"),
    "differentiable": (option("differentiable", True), "differentiable=True"),
    "learning rate": (option("lr", th.tensor(1e-3)), "learning rate or betas in a tensor"),
    "betas": (option("betas", (th.tensor(0.9), 0.999)), "learning rate or betas in a tensor"),
    "second group": (second_group, "the actor's optimizer has 2 groups"),
    "optimizer's class": (other_class, "the critic's optimizer is NAdam"),
    "frozen": (frozen, "parameters that are not trained"),
    "gradient hook": (hook(lambda m: first_parameter(m).register_hook(nothing)), "parameters with hooks"),
    "accumulated gradient hook": (
        hook(lambda m: first_parameter(m).register_post_accumulate_grad_hook(nothing)),
        "parameters with hooks",
    ),
    "forward hook": (hook(lambda m: m.critic.qf0[0].register_forward_hook(nothing)), "the critic has hooks"),
    "pre-hook": (hook(lambda m: m.actor.register_forward_pre_hook(nothing)), "the actor has hooks"),
    "backward hook": (hook(lambda m: m.critic.register_full_backward_hook(nothing)), "the critic has hooks"),
    "hook of all modules": (hook(lambda _: register_module_forward_hook(nothing)), "hooks of all modules"),
    "pre-step hook": (hook(lambda m: m.critic.optimizer.register_step_pre_hook(nothing)), "step hooks"),
    "post-step hook": (hook(lambda m: m.critic.optimizer.register_step_post_hook(nothing)), "step hooks"),
    "pre-step hook of all": (hook(lambda _: register_optimizer_step_pre_hook(nothing)), "hooks of all optimizers"),
    "post-step hook of all": (hook(lambda _: register_optimizer_step_post_hook(nothing)), "hooks of all optimizers"),
    "own step": (attribute(lambda m: m.critic.optimizer, "step", nothing), "a step of its own"),
    "own forward": (attribute(lambda m: m.critic.qf0[1], "forward", nothing), "a forward of its own"),
    "other module": (other_module, "does not hold all of its parameters"),
    "other network": (attribute(lambda m: m, "critic_target", nn.Identity()), "the model's critic_target is not"),
    "transposed weight": (transposed_weight, r"the critic_target has parameters of shape \(32, 1\), not \(1, 32\)"),
    "0-dim moment": (moment("exp_avg", lambda _: th.zeros(())), r"exp_avg of shape \(\), not \(\d+,\)"),
    "[1, 1] moment": (moment("exp_avg_sq", lambda _: th.zeros(1, 1)), r"exp_avg_sq of shape \(1, 1\), not \(\d+,\)"),
    "transposed moment": (moment("exp_avg", lambda m: m.T, matrix=True), r"exp_avg of shape \(32, 1\), not \(1, 32\)"),
    "strided moment": (moment("exp_avg", lambda m: m.repeat(2)[::2]), "exp_avg that are not contiguous"),
    "moment in float64": (moment("exp_avg_sq", lambda m: m.double()), r"exp_avg_sq of type torch\.float64"),
    "no moment": (moment("exp_avg_sq", lambda m: None), "no tensor exp_avg_sq"),
    "moved moment": (moved_moment, r"exp_avg of shape \(1,\)"),
    "step of shape [1]": (moment("step", lambda step: step[None]), r"step of shape \(1,\), not \(\)"),
    "step in float64": (moment("step", lambda step: step.double()), r"step of type torch\.float64"),
    "target's connections": (target_connections, "critic_target has other layers or connections than the critic"),
    "own sample": (attribute(lambda m: m.replay_buffer, "sample", nothing), "methods of its own"),
}


@pytest.mark.parametrize("algorithm", COMPILED)
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_changes_under_the_compiled_engine_falls_back_or_raises(algorithm, change, capsys, monkeypatch):
    model = algorithm("MlpPolicy", "Pendulum-v1", **quick(verbose=1, topology="static", **one_output(algorithm)))
    model.learn(80)
    assert model._choose_engine().reason is None
    calls = []
    of_sb3 = [
        cls
        for cls in algorithm.__mro__
        if cls.__module__.startswith(("stable_baselines3.", "sb3_contrib.")) and "train" in vars(cls)
    ]
    monkeypatch.setattr(of_sb3[0], "train", lambda *_: calls.append(1))
    make, reason = CHANGES[change]
    undo = make(model)
    try:
        capsys.readouterr()
        model.train(1, 32)
        assert calls == [1]  # SB3's own train has it
        assert re.search(rf"^Engine: torch \(.*{reason}.*\)$", capsys.readouterr().out, re.MULTILINE)
        model.engine = "compiled"
        before = copy.deepcopy(model.policy.state_dict())
        for _ in range(2):
            with pytest.raises(ValueError, match=r"engine='compiled' does not cover this .*" + reason) as caught:
                model.train(1, 32)
            assert "\n" not in str(caught.value)
        assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    finally:
        undo()
    model.train(2, 32)
    assert calls == [1]


@pytest.mark.parametrize("algorithm", COMPILED)
def test_a_policy_that_was_double_and_is_float_again_learns_on_as_if_nothing_had_been(algorithm):
    kwargs = quick(topology_end=1000)
    models = [algorithm("MlpPolicy", "Pendulum-v1", engine="compiled", **copy.deepcopy(kwargs)) for _ in range(2)]
    for model in models:
        model.set_random_seed(2)
        model.learn(80)
        if model is models[1]:
            for convert in (model.policy.half, model.policy.double):
                before = copy.deepcopy(model.policy.state_dict())
                convert()
                assert model.policy._fast_actor() is None
                with pytest.raises(ValueError, match="parameters of type"):
                    model.train(1, 32)
                model.policy.float()
                model.policy.load_state_dict(before)
        model.set_random_seed(3)
        model.train(40, 32)
        assert model.policy._fast_actor() is not None
    assert models[0].topology_counters["critic"]["evolutions"] > 2
    for name, tensor in models[0].policy.state_dict().items():
        assert th.equal(tensor, models[1].policy.state_dict()[name]), name


@pytest.mark.parametrize("name", ["mean", "var"])
def test_statistics_of_other_observations_are_an_error_before_they_are_read(name):
    model = RLx2TD3("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1")), engine="compiled", **quick())
    model.learn(60)
    setattr(model.get_vec_normalize_env().obs_rms, name, np.ones(2))
    with pytest.raises(ValueError, match=rf"obs_rms\.{name} is \(2,\), and observations are \(3,\)"):
        model.train(1, 32)


@pytest.mark.parametrize("algorithm", COMPILED)
def test_learning_rate_and_betas_may_change_to_other_numbers(algorithm):
    models = [
        algorithm("MlpPolicy", "Pendulum-v1", **quick(topology="static", engine=e)) for e in ("compiled", "torch")
    ]
    for model in models:
        model.set_random_seed(0)
        model.learn(80)
        model.lr_schedule = lambda _: 3e-2
        model.critic.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        model.train(3, 32)
    for name, tensor in models[0].policy.state_dict().items():
        th.testing.assert_close(tensor, models[1].policy.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", COMPILED)
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
    undo = rewards_in_float64(model)
    with pytest.raises(ValueError, match="the replay buffer has rewards of type float64"):
        model._choose_engine()
    undo()
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
