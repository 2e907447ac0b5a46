"""What compiled updates cover, decided by exact types and options."""

from __future__ import annotations

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

from sb3_rlx2.engine.updates import ACTIVATIONS
from sb3_rlx2.sparse.layers import SparseLinear, values_of

LINEAR = (SparseLinear, nn.Linear)
BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
DENSITY_LIMIT = 0.7
"""Above it PyTorch's dense products are the faster ones (benchmarks/speed.py)."""


ACTORS = (TD3Actor, SACActor)


def why_not_policy(policy: nn.Module, policy_class: type) -> str | None:
    """Say why a policy's networks are not ones that compiled code computes; None if they are.

    :param policy: the policy
    :param policy_class: what its class must be
    """
    return next(_policy_problems(policy, policy_class), None)


def why_not_updates(model: OffPolicyAlgorithm, policy_class: type, buffer_classes: tuple[type, ...]) -> str | None:
    """Say why a model's updates are not ones that compiled code makes; None if they are.

    :param model: the model
    :param policy_class: what the class of its policy must be
    :param buffer_classes: what the class of its replay buffer may be
    """
    return next(_update_problems(model, policy_class, buffer_classes), None)


def _policy_problems(policy: nn.Module, policy_class: type) -> Iterator[str]:
    if type(policy) is not policy_class:
        yield f"the policy is a {type(policy).__name__}, not a {policy_class.__name__}"
        return
    known = cast(Any, policy)
    space = known.observation_space
    if not isinstance(space, spaces.Box) or (known.normalize_images and is_image_space(space)):
        yield f"the observation space is {space}"
    if known.activation_fn not in ACTIVATIONS:
        yield f"activation_fn is {known.activation_fn.__name__}"
    for name in ("actor", "actor_target", "critic", "critic_target"):
        network = getattr(policy, name, None)
        if network is not None:
            yield from _network_problems(
                name, network, ACTORS if "actor" in name else (ContinuousCritic,), known.activation_fn
            )
    yield from _sharing_problems(known)


def _sharing_problems(policy: Any) -> Iterator[str]:
    """Tied layers and critics of different shapes."""
    networks = [getattr(policy, name, None) for name in ("actor", "actor_target", "critic", "critic_target")]
    present = [network for network in networks if network is not None]
    tensors = [tensor for network in present for tensor in network.parameters()]
    linear = [m for network in present for m in network.modules() if isinstance(m, LINEAR)]
    if len({*map(id, tensors)}) != len(tensors) or len(tensors) != 2 * len(linear):
        yield "networks share layers"
    critics = [q for network in present if hasattr(network, "q_networks") for q in network.q_networks]
    shapes = [[(m.in_features, m.out_features) for m in q.modules() if isinstance(m, LINEAR)] for q in critics]
    if any(shape != shapes[0] for shape in shapes):
        yield "critics differ in their layers"


def _sequences(network: Any) -> list[nn.Sequential]:
    if hasattr(network, "q_networks"):
        return list(network.q_networks)
    if hasattr(network, "log_std"):
        return [nn.Sequential(*network.latent_pi, network.mu), nn.Sequential(*network.latent_pi, network.log_std)]
    return [network.mu]


def _is_mlp(sequence: nn.Sequential, activation: type[nn.Module], ends_in_tanh: bool) -> bool:
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


def _network_problems(
    name: str, network: nn.Module, classes: tuple[type, ...], activation: type[nn.Module]
) -> Iterator[str]:
    if type(network) not in classes:
        yield f"the {name} is a {type(network).__name__}"
        return
    if getattr(network, "use_sde", False):
        yield "use_sde=True"
        return
    for sequence in _sequences(network):
        if not _is_mlp(sequence, activation, ends_in_tanh=hasattr(network, "mu") and not hasattr(network, "log_std")):
            yield f"the {name} has layers other than SB3's own: {sequence}"
    allowed = (*classes, nn.ModuleList, FlattenExtractor, nn.Flatten, nn.Sequential, *LINEAR, *ACTIVATIONS)
    for module in network.modules():
        if type(module) not in allowed:
            yield f"the {name} has a {type(module).__name__}"
        elif type(module) is nn.ELU and module.alpha != 1.0:
            yield f"the {name} has an ELU with alpha={module.alpha}"
        elif isinstance(module, LINEAR):
            yield from _tensor_problems(name, [values_of(module), module.bias])
        # A request for dense gradients, which evolution makes, is a hook of the parameter, not of the module
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            yield f"the {name} has hooks"


def _tensor_problems(name: str, tensors: list[th.Tensor | None]) -> Iterator[str]:
    for tensor in tensors:
        if tensor is None:
            yield f"the {name} has a layer without bias"
        elif tensor.device.type != "cpu":
            yield f"the device is {tensor.device}"
        elif tensor.dtype != th.float32 or not tensor.is_contiguous():
            yield f"the {name} has parameters of type {tensor.dtype}"


def _update_problems(model: OffPolicyAlgorithm, policy_class: type, buffer_classes: tuple[type, ...]) -> Iterator[str]:
    yield from _policy_problems(model.policy, policy_class)
    connections, positions = 0, 0
    for name in ("actor", "critic"):
        network = cast(nn.Module, getattr(model.policy, name))
        layers = [module for module in network.modules() if isinstance(module, LINEAR)]
        connections += sum(values_of(layer).numel() for layer in layers)
        positions += sum(layer.in_features * layer.out_features for layer in layers)
        yield from _optimizer_problems(name, cast(Any, network).optimizer, network)
    if connections > DENSITY_LIMIT * positions:
        yield f"density {connections / positions:.2f} is above {DENSITY_LIMIT}"
    coefficient_optimizer = getattr(model, "ent_coef_optimizer", None)
    if coefficient_optimizer is not None:
        yield from _optimizer_problems("entropy coefficient", coefficient_optimizer, None)
    yield from _buffer_problems(model.replay_buffer, buffer_classes)
    normalize = model.get_vec_normalize_env()
    if normalize is not None and type(normalize) is not VecNormalize:
        yield f"the environment is normalized by a {type(normalize).__name__}"


def _optimizer_problems(name: str, optimizer: th.optim.Optimizer, network: nn.Module | None) -> Iterator[str]:
    if type(optimizer) is not th.optim.Adam:
        yield f"the {name}'s optimizer is {type(optimizer).__name__}, not Adam"
        return
    if len(optimizer.param_groups) != 1:
        yield f"the {name}'s optimizer has {len(optimizer.param_groups)} groups of parameters"
        return
    group = optimizer.param_groups[0]
    for option in ("amsgrad", "maximize", "capturable", "differentiable", "weight_decay"):
        if group[option]:
            yield f"the {name}'s Adam has {option}={group[option]}"
    if isinstance(group["lr"], th.Tensor) or any(isinstance(beta, th.Tensor) for beta in group["betas"]):
        yield f"the {name}'s Adam has a learning rate or betas in a tensor"
    if network is not None and {*map(id, group["params"])} != {*map(id, network.parameters())}:
        yield f"the {name}'s optimizer does not hold all of its parameters, or others too"
    if not all(parameter.requires_grad for parameter in group["params"]):
        yield f"the {name} has parameters that are not trained"
    if any(parameter._backward_hooks for parameter in group["params"]):
        yield f"the {name} has parameters with hooks"
    # One step hook is the evolution's own, which compiled updates serve
    if len(optimizer._optimizer_step_pre_hooks) > 1 or optimizer._optimizer_step_post_hooks:
        yield f"the {name}'s optimizer has step hooks"
    for state in optimizer.state.values():
        if state and any(entry.dtype != th.float32 or not entry.is_contiguous() for entry in state.values()):
            yield f"the {name}'s Adam has moments of another type than float32"


def _buffer_problems(buffer: object, buffer_classes: tuple[type, ...]) -> Iterator[str]:
    if type(buffer) not in buffer_classes or not isinstance(buffer, ReplayBuffer):
        yield f"the replay buffer is a {type(buffer).__name__}"
        return
    if any(callable(value) for name, value in vars(buffer).items() if name != "state_bonus"):
        yield "the replay buffer has methods of its own"
    if buffer.optimize_memory_usage:
        yield "optimize_memory_usage=True"
    if buffer.observations.dtype not in (np.float32, np.float64):
        yield f"observations are stored as {buffer.observations.dtype}"
    for name in BUFFER_ARRAYS:
        array = getattr(buffer, name)
        if "observations" not in name and array.dtype != np.float32:
            yield f"{name} are stored as {array.dtype}"
        if array.shape[:2] != (buffer.buffer_size, buffer.n_envs) or not array.flags.c_contiguous:
            yield f"the replay buffer's {name} are not a plain array of its size"
    if buffer.next_observations.dtype != buffer.observations.dtype:
        yield f"next observations are stored as {buffer.next_observations.dtype}"
