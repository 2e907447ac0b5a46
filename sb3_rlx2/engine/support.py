"""What the compiled engine covers, and why not the rest: one rule, by exact types and options.

The rule reads a model only through a ``Watch``, so whatever it has looked at is watched from then on. What is to be
checked goes in here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sb3_rlx2.engine.updates import ACTIVATIONS
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.sparse import TopologyEvolver
from sb3_rlx2.sparse.dense_gradient import DenseGradient
from sb3_rlx2.sparse.layers import SparseLinear

LINEAR = (SparseLinear, nn.Linear)
ACTORS = (TD3Actor, SACActor)
NETWORKS = ("actor", "actor_target", "critic", "critic_target")
BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
DENSITY_LIMIT = 0.7
"""Above it PyTorch's dense products are the faster ones (benchmarks/speed.py)."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Hooks of a module; those of all modules have the same names behind ``_global``."""
METHODS = ("forward", "action_log_prob", "get_action_dist_params", "extract_features", "q1_forward", "_predict")
"""What computes a network, unless the object has a method of its own in its place."""
OPTIONS = ("amsgrad", "maximize", "capturable", "differentiable", "weight_decay")
"""Options of Adam that must be off; learning rate, betas and epsilon are read before each run."""


def why_not_policy(watch: Watch, policy: nn.Module, policy_class: type) -> str | None:
    """Say why a policy's networks are not ones that compiled code computes; None if they are.

    :param watch: what is read through
    :param policy: the policy
    :param policy_class: what its class must be
    """
    return next(_policy_problems(watch, policy, policy_class, NETWORKS), None)


def why_not_acting(watch: Watch, policy: nn.Module, policy_class: type) -> str | None:
    """Say why a policy's actor is not one that compiled code computes; None if it is.

    :param watch: what is read through
    :param policy: the policy
    :param policy_class: what its class must be
    """
    return next(_policy_problems(watch, policy, policy_class, ("actor",)), None)


def why_not_updates(
    watch: Watch, model: OffPolicyAlgorithm, policy_class: type, buffer_classes: tuple[type, ...]
) -> str | None:
    """Say why a model's updates are not ones that compiled code makes; None if they are.

    :param watch: what is read through
    :param model: the model
    :param policy_class: what the class of its policy must be
    :param buffer_classes: what the class of its replay buffer may be
    """
    return next(_update_problems(watch, model, policy_class, buffer_classes), None)


# --- networks ---


def _policy_problems(watch: Watch, policy: Any, policy_class: type, names: tuple[str, ...]) -> Iterator[str]:
    if watch.type_of(policy) is not policy_class:
        yield f"the policy is a {type(policy).__name__}, not a {policy_class.__name__}"
        return
    attributes = vars(policy)
    space, activation = watch.item(attributes, "observation_space"), watch.item(attributes, "activation_fn")
    if not isinstance(space, spaces.Box) or (watch.item(attributes, "normalize_images") and is_image_space(space)):
        yield f"the observation space is {space}"
    if activation not in ACTIVATIONS:
        yield f"activation_fn is {activation.__name__}"
    for hooks in HOOKS:
        if watch.keys(getattr(nn.modules.module, f"_global{hooks}")):
            yield "there are hooks of all modules"
    watch.item(attributes, "action_space")
    networks = {name: network for name in names if (network := watch.item(policy._modules, name)) is not None}
    for name, network in networks.items():
        yield from _network_problems(watch, name, network, activation, *_sizes(policy))
    yield from _sharing_problems(networks)


def _sizes(policy: Any) -> tuple[int, int]:
    """Numbers of observation and action dimensions."""
    return math.prod(policy.observation_space.shape), math.prod(policy.action_space.shape)


def _network_problems(
    watch: Watch, name: str, network: nn.Module, activation: type[nn.Module], n_obs: int, n_act: int
) -> Iterator[str]:
    classes = ACTORS if "actor" in name else (ContinuousCritic,)
    if watch.type_of(network) not in classes:
        yield f"the {name} is a {type(network).__name__}"
        return
    if watch.item(vars(network), "use_sde"):
        yield "use_sde=True"
        return
    ends = (n_obs, n_act) if "actor" in name else (n_obs + n_act, 1)
    for sequence in _sequences(watch, network):
        if not _is_mlp(sequence, activation, isinstance(network, TD3Actor)) or not _is_chain(sequence, *ends):
            yield f"the {name} has layers other than SB3's own: {nn.Sequential(*sequence)}"
    allowed = (*classes, nn.ModuleList, FlattenExtractor, nn.Flatten, nn.Sequential, *LINEAR, *ACTIVATIONS)
    for module in _modules(watch, network):
        attributes = vars(module)
        if watch.type_of(module) not in allowed:
            yield f"the {name} has a {type(module).__name__}"
        elif type(module) is nn.ELU and watch.item(attributes, "alpha") != 1.0:
            yield f"the {name} has an ELU with alpha={module.alpha}"
        elif isinstance(module, LINEAR):
            yield from _layer_problems(watch, name, module)
        # A request for dense gradients, which evolution makes, is a hook of the parameter, not of the module
        if any(watch.keys(attributes[hooks]) for hooks in HOOKS):
            yield f"the {name} has hooks"
        for method in METHODS if module is network else METHODS[:1]:
            if watch.item(attributes, method) is not None:
                yield f"the {name} has a {method} of its own"


def _modules(watch: Watch, module: nn.Module) -> Iterator[nn.Module]:
    """A module and all below it."""
    yield module
    for child in _children(watch, module):
        yield from _modules(watch, child)


def _children(watch: Watch, module: nn.Module) -> list[nn.Module]:
    return [*watch.items(cast(dict[str, nn.Module], module._modules)).values()]


def _sequences(watch: Watch, network: Any) -> list[list[nn.Module]]:
    """The modules of each MLP of a network, in order."""
    if isinstance(network, ContinuousCritic):
        numbers = range(len(watch.sequence(watch.item(vars(network), "q_networks"))))
        return [_children(watch, network.q_networks[i]) for i in numbers]
    if isinstance(network, SACActor):
        latent, heads = _children(watch, network.latent_pi), cast(list[nn.Module], [network.mu, network.log_std])
        return [[*latent, head] for head in heads]
    return [_children(watch, network.mu)]


def _is_mlp(sequence: list[nn.Module], activation: type[nn.Module], ends_in_tanh: bool) -> bool:
    """Whether linear layers and activations alternate as SB3's ``create_mlp`` has them."""
    modules = list(sequence)
    if ends_in_tanh and (not modules or type(modules.pop()) is not nn.Tanh):
        return False
    hidden, output = modules[:-1], modules[-1:]
    linear, activations = [*hidden[::2], *output], hidden[1::2]
    return (
        len(modules) % 2 == 1
        and all(type(module) in LINEAR for module in linear)
        and all(type(module) is activation for module in activations)
    )


def _is_chain(sequence: list[nn.Module], n_in: int, n_out: int) -> bool:
    """Whether each linear layer has as many inputs as the one before has outputs."""
    layers = [module for module in sequence if isinstance(module, LINEAR)]
    widths = [n_in, *(layer.out_features for layer in layers)]
    return [layer.in_features for layer in layers] == widths[:-1] and widths[-1] == n_out


def _layer_problems(watch: Watch, name: str, layer: SparseLinear | nn.Linear) -> Iterator[str]:
    parameters = cast(dict[str, Any], layer._parameters)
    n_out = layer.out_features
    shape: tuple[int, ...] = (n_out, layer.in_features)  # of tensors whose own shapes are watched
    if isinstance(layer, SparseLinear):
        indices = watch.numbers(watch.item(cast(dict[str, Any], layer._buffers), "indices"))
        watch.item(vars(layer), "topology_version")
        shape = tuple(indices.shape)
    weights = watch.item(parameters, "values" if isinstance(layer, SparseLinear) else "weight")
    for tensor, expected in ((weights, shape), (watch.item(parameters, "bias"), (n_out,))):
        if tensor is None:
            yield f"the {name} has a layer without bias"
        else:
            yield from _tensor_problems(f"the {name} has parameters", watch.tensor(tensor), expected)


def _tensor_problems(what: str, tensor: th.Tensor, shape: tuple[int, ...]) -> Iterator[str]:
    if tensor.device.type != "cpu":
        yield f"the device is {tensor.device}"
    elif tensor.dtype != th.float32:
        yield f"{what} of type {tensor.dtype}"
    elif tuple(tensor.shape) != shape:
        yield f"{what} of shape {tuple(tensor.shape)}, not {shape}"
    elif not tensor.is_contiguous():
        yield f"{what} that are not contiguous"


def _sharing_problems(networks: dict[str, Any]) -> Iterator[str]:
    """Tied layers, critics of different shapes, targets with other connections; all of it has been read before."""
    layers = {name: [m for m in network.modules() if isinstance(m, LINEAR)] for name, network in networks.items()}
    tensors = [tensor for network in networks.values() for tensor in network.parameters()]
    if len({*map(id, tensors)}) != len(tensors) or len(tensors) != 2 * sum(map(len, layers.values())):
        yield "networks share layers"
    critics = [network for network in networks.values() if isinstance(network, ContinuousCritic)]
    for critic in critics:
        if any(q is not critic._modules.get(f"qf{i}") for i, q in enumerate(critic.q_networks)):
            yield "the critic's networks are not its modules"
    shapes = [_shapes(q) for critic in critics for q in critic.q_networks]
    if any(shape != shapes[0] for shape in shapes):
        yield "critics differ in their layers"
    for name, of in layers.items():
        target = layers.get(f"{name}_target", of)
        if [*map(_connections, of)] != [*map(_connections, target)]:
            yield f"the {name}_target has other connections than the {name}"


def _shapes(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, LINEAR)]


def _connections(layer: SparseLinear | nn.Linear) -> tuple[Any, ...]:
    indices = layer.indices.cpu().numpy().tobytes() if isinstance(layer, SparseLinear) else None
    return layer.in_features, layer.out_features, indices


# --- updates ---


def _update_problems(
    watch: Watch, model: OffPolicyAlgorithm, policy_class: type, buffer_classes: tuple[type, ...]
) -> Iterator[str]:
    attributes = vars(model)
    policy = watch.item(attributes, "policy")
    yield from _policy_problems(watch, policy, policy_class, NETWORKS)
    for name in NETWORKS:
        if name in attributes and watch.item(attributes, name) is not policy._modules.get(name):
            yield f"the model's {name} is not its policy's"
    if watch.keys(_global_optimizer_pre_hooks) or watch.keys(_global_optimizer_post_hooks):
        yield "there are hooks of all optimizers"
    connections, positions = 0, 0
    for name in ("actor", "critic"):
        network = cast(nn.Module, policy._modules[name])
        layers = [module for module in network.modules() if isinstance(module, LINEAR)]
        connections += sum(layer.nnz if isinstance(layer, SparseLinear) else layer.weight.numel() for layer in layers)
        positions += sum(layer.in_features * layer.out_features for layer in layers)
        yield from _optimizer_problems(watch, name, watch.item(vars(network), "optimizer"), [*network.parameters()])
    if connections > DENSITY_LIMIT * positions:
        yield f"density {connections / positions:.2f} is above {DENSITY_LIMIT}"
    coefficient = watch.item(attributes, "log_ent_coef")
    coefficient_optimizer = watch.item(attributes, "ent_coef_optimizer")
    if coefficient_optimizer is not None:
        yield from _tensor_problems("the entropy coefficient is", watch.tensor(coefficient), (1,))
        yield from _optimizer_problems(watch, "entropy coefficient", coefficient_optimizer, [coefficient])
    buffer = watch.item(attributes, "replay_buffer")
    yield from _buffer_problems(watch, buffer, buffer_classes, *_sizes(policy))
    normalize = watch.call(model.get_vec_normalize_env)
    if normalize is not None and watch.type_of(normalize) is not VecNormalize:
        yield f"the environment is normalized by a {type(normalize).__name__}"


def _optimizer_problems(
    watch: Watch, name: str, optimizer: th.optim.Optimizer, parameters: list[th.Tensor]
) -> Iterator[str]:
    if watch.type_of(optimizer) is not th.optim.Adam:
        yield f"the {name}'s optimizer is {type(optimizer).__name__}, not Adam"
        return
    attributes = vars(optimizer)
    if watch.item(attributes, "step") is not None:
        yield f"the {name}'s optimizer has a step of its own"
    groups = watch.sequence(watch.item(attributes, "param_groups"))
    if len(groups) != 1:
        yield f"the {name}'s optimizer has {len(groups)} groups of parameters"
        return
    for option in OPTIONS:
        if watch.item(groups[0], option):
            yield f"the {name}'s Adam has {option}={groups[0][option]}"
    betas = watch.sequence(watch.item(groups[0], "betas"))
    rate_type = watch.call(lambda: type(groups[0]["lr"]))
    if issubclass(rate_type, th.Tensor) or any(isinstance(beta, th.Tensor) for beta in betas):
        yield f"the {name}'s Adam has a learning rate or betas in a tensor"
    held = watch.sequence(watch.item(groups[0], "params"))
    if {*map(id, held)} != {*map(id, parameters)}:
        yield f"the {name}'s optimizer does not hold all of its parameters, or others too"
    for parameter in held:
        is_trained, *hooks = watch.attributes(
            parameter, "requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks"
        )
        if not is_trained:
            yield f"the {name} has parameters that are not trained"
        if any(_has_foreign(watch, of_kind) for of_kind in hooks if of_kind is not None):
            yield f"the {name} has parameters with hooks"
    for kind in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        if _has_foreign(watch, watch.item(attributes, kind)):
            yield f"the {name}'s optimizer has step hooks"
    state = watch.item(attributes, "state")
    for parameter in held:
        entries = watch.item(state, parameter)
        if entries:
            yield from _state_problems(watch, name, entries, tuple(parameter.shape))
        elif entries is not None:
            watch.keys(entries)  # Adam's first step fills it


def _has_foreign(watch: Watch, hooks: dict[int, Any]) -> bool:
    """Whether there are hooks other than those of evolution, which compiled updates serve."""
    owners = (getattr(hooks[key], "__self__", None) for key in watch.keys(hooks))
    return not all(isinstance(owner, (TopologyEvolver, DenseGradient)) for owner in owners)


def _state_problems(watch: Watch, name: str, entries: dict[str, Any], shape: tuple[int, ...]) -> Iterator[str]:
    for key, expected in (("step", ()), ("exp_avg", shape), ("exp_avg_sq", shape)):
        entry = watch.item(entries, key)
        if isinstance(entry, th.Tensor):
            yield from _tensor_problems(f"the {name}'s Adam has {key}", watch.memory(entry), expected)
        else:
            yield f"the {name}'s Adam has no tensor {key}"


def _buffer_problems(
    watch: Watch, buffer: object, buffer_classes: tuple[type, ...], n_obs: int, n_act: int
) -> Iterator[str]:
    if watch.type_of(buffer) not in buffer_classes or not isinstance(buffer, ReplayBuffer):
        yield f"the replay buffer is a {type(buffer).__name__}"
        return
    attributes = vars(buffer)
    if any(callable(attributes[name]) for name in watch.keys(attributes) if name != "state_bonus"):
        yield "the replay buffer has methods of its own"
    if watch.item(attributes, "optimize_memory_usage"):
        yield "optimize_memory_usage=True"
    rows = (watch.item(attributes, "buffer_size"), watch.item(attributes, "n_envs"))
    widths = {"observations": n_obs, "next_observations": n_obs, "actions": n_act}
    for name in BUFFER_ARRAYS:
        array = watch.array(watch.item(attributes, name))
        if "observations" in name:
            if array.dtype not in (np.float32, np.float64) or array.dtype != buffer.observations.dtype:
                yield f"{name.replace('_', ' ')} are stored as {array.dtype}"
        elif array.dtype != np.float32:
            yield f"{name} are stored as {array.dtype}"
        size = rows[0] * rows[1] * widths.get(name, 1)
        if array.shape[:2] != rows or array.size != size or not array.flags.c_contiguous:
            yield f"the replay buffer's {name} are not a plain array of its size"
