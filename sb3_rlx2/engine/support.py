"""Which engine computes a model: what the compiled one covers, and why not the rest, by exact types and options.

The rule reads a model only through a ``Watch``, so whatever it has looked at is watched from then on. What is to be
checked goes in here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.networks import ACTING, LEARNING, NETWORKS
from sb3_rlx2.engine.plan import KINDS
from sb3_rlx2.engine.programs import (
    CRITICS,
    VALUE_NETWORKS,
    NotCoveredError,
    Program,
    is_traced,
    network_program,
    parameters_of,
)
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.kernels.structure import MOST_FEATURES
from sb3_rlx2.sparse import TopologyEvolver, resolve_rule
from sb3_rlx2.sparse.dense_gradient import DenseGradient
from sb3_rlx2.sparse.layers import SparseLinear, values_of
from sb3_rlx2.sparse.unit_norm import UnitNorm, unit_norms

Engine = Literal["auto", "compiled", "torch"]
ENGINES = ("auto", "compiled", "torch")

LINEAR = (SparseLinear, nn.Linear)
BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
DENSITY_LIMIT = 0.7
"""Above it PyTorch's dense products are the faster ones (benchmarks/speed.py)."""

POLICIES = (TD3Policy, SACPolicy, TQCPolicy, CrossQPolicy, DQNPolicy, QRDQNPolicy)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Hooks of a module; those of all modules have the same names behind ``_global``."""
METHODS = ("forward", "action_log_prob", "get_action_dist_params", "extract_features", "q1_forward", "_predict")
"""What computes a network, unless the object has a method of its own in its place."""
OPTIONS = ("amsgrad", "maximize", "capturable", "differentiable")
"""Options of Adam that must be off; learning rate, betas, epsilon and weight decay are read before each run."""
MODULE_OPTIONS: dict[type, tuple[str, ...]] = {
    nn.ReLU: ("inplace",),
    nn.SiLU: ("inplace",),
    nn.ELU: ("alpha", "inplace"),
    nn.LeakyReLU: ("negative_slope", "inplace"),
    nn.GELU: ("approximate",),
    nn.LayerNorm: ("eps", "normalized_shape"),
}
"""What decides how a module computes, beside its parameters."""
FREE = (
    "__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__abstractmethods__", "__parameters__",
    "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "_abc_impl",
)  # fmt: skip
"""What a class may have that changes another one's defaults only."""


def why_not_policy(watch: Watch, policy: nn.Module, policy_class: type) -> str | None:
    """Say why a policy's networks are not ones that compiled code computes; None if they are.

    :param watch: what is read through
    :param policy: the policy
    :param policy_class: what its class must be
    """
    return next(_policy_problems(watch, policy, NETWORKS), None)


def why_not_acting(watch: Watch, policy: nn.Module, kinds: Collection[str] = tuple(KINDS)) -> str | None:
    """Say why the network of a policy that acts is not one that compiled code computes; None if it is.

    :param watch: what is read through
    :param policy: the policy
    :param kinds: kinds of operations that may occur; those of compiled code, unless other code computes them
    """
    return next(_policy_problems(watch, policy, ACTING, kinds), None)


class EngineChoice:
    """The engine that computes a model's updates, by exact rule: the same model always gets the same one.

    :param model: an RLx2 algorithm
    :param trains: the class whose ``train`` chooses the engine, and the one whose ``train`` is what it stands for
    :param buffer_classes: what the class of its replay buffer may be, for the compiled engine
    :param buffer_problem: says why the replay buffer does not fit the model, which it reads through the watch; None if
        it fits
    :raises ValueError: if the replay buffer does not fit the model, or if the compiled engine was asked for and does
        not cover the model
    """

    def __init__(
        self,
        model: Any,
        trains: tuple[type, type],
        buffer_classes: tuple[type, ...],
        buffer_problem: Callable[[Watch, Any], str | None],
    ) -> None:
        self.watch = Watch()
        """What the choice rests on is read through it; so may be what else decides about updates."""
        self._policy, self._updates_class, self._verbose = model.policy, model.updates_class, model.verbose
        self._description: UpdateDescription = model._describe_update()
        self._coefficient_optimizer = vars(model).get("ent_coef_optimizer")
        if (problem := buffer_problem(self.watch, model)) is not None:
            raise ValueError(f"the replay buffer {problem}")
        engine = self.watch.item(vars(model), "engine")
        self.reason: str | None = "engine='torch'"
        """Why it is not the compiled engine; None if it is."""
        if engine != "torch":
            self.reason = next(_problems(self.watch, model, trains, buffer_classes, engine == "compiled"), None)
        if engine == "compiled" and self.reason is not None:
            raise ValueError(
                f"engine='compiled' does not cover this {type(model).__name__}: {self.reason}. "
                "With engine='auto' SB3's own train() computes what it does not cover"
            )

    @property
    def holds(self) -> bool:
        """Whether everything that the choice rests on is still as it was."""
        return self.watch.holds

    @cached_property
    def updates(self) -> Updates:
        """The compiled updates; made when first needed, since that fills the optimizers' states."""
        further = {} if self._coefficient_optimizer is None else {"coefficient": self._coefficient_optimizer}
        updates: Updates = self._updates_class(self._policy, self._description, further, self._verbose)
        return updates

    def __str__(self) -> str:
        return "Engine: compiled" if self.reason is None else f"Engine: torch ({self.reason})"


def _problems(
    watch: Watch, model: Any, trains: tuple[type, type], buffer_classes: tuple[type, ...], is_asked_for: bool
) -> Iterator[str]:
    """Why a model's updates are not ones that compiled code makes, if ``is_asked_for`` with dense networks too."""
    if model.updates_class is None:
        yield f"there is no compiled update of {trains[1].__name__}"
    topology = watch.item(vars(model), "topology")
    rules = watch.items(topology).values() if isinstance(topology, dict) else [topology]
    if not any(resolve_rule(rule).sparse for rule in rules) and not is_asked_for:
        yield f"topology={topology!r}"
    classes = [cls for cls in watch.type_of(model).__mro__ if "train" in vars(cls)]
    stands_for = next(cls for cls in trains[1].__mro__ if "train" in vars(cls))
    if classes[:2] != [trains[0], stands_for]:
        yield f"{classes[0].__name__} has a train of its own"
    yield from _update_problems(watch, model, buffer_classes, is_asked_for)


# --- networks ---


def _computes_as_sb3(cls: type) -> bool:
    """Whether a policy class differs from those of ``POLICIES`` in defaults alone: attributes, arguments."""
    known = {cls for policy in POLICIES for cls in policy.__mro__}
    added = [vars(other) for other in cls.__mro__ if other not in known and not vars(other).get("computes_as_sb3")]
    values = [value for attributes in added for name, value in attributes.items() if name not in FREE]
    return not any(callable(value) or hasattr(value, "__get__") for value in values)


def _policy_problems(
    watch: Watch, policy: Any, names: tuple[str, ...], kinds: Collection[str] = tuple(KINDS)
) -> Iterator[str]:
    if not _computes_as_sb3(watch.type_of(policy)):
        yield f"the policy is a {type(policy).__name__}, which has methods of its own"
        return
    attributes = vars(policy)
    space = watch.item(attributes, "observation_space")
    if not isinstance(space, spaces.Box) or (watch.item(attributes, "normalize_images") and is_image_space(space)):
        yield f"the observation space is {space}"
    for hooks in HOOKS:
        if watch.keys(getattr(nn.modules.module, f"_global{hooks}")):
            yield "there are hooks of all modules"
    watch.item(attributes, "action_space")
    networks = {name: network for name in names if (network := watch.item(policy._modules, name)) is not None}
    programs: dict[str, Program] = {}
    for name, network in networks.items():
        try:
            programs[name] = _program(watch, name, network, policy)
        except NotCoveredError as error:
            yield f"the {name} has {error}"
        else:
            others = [operation.module for operation in programs[name].operations if operation.kind not in kinds]
            yield from (f"the {name} has a {type(module).__name__}" for module in others)
            yield from _network_problems(watch, name, network, programs[name])
    if len({*map(id, _parameters(networks))}) != len(_parameters(networks)):
        yield "networks share layers"
    for name, program in programs.items():
        if f"{name}_target" in programs and _wiring(program) != _wiring(programs[f"{name}_target"]):
            yield f"the {name}_target has other layers or connections than the {name}"


def _sizes(policy: Any) -> tuple[int, int]:
    """Numbers of observation and action dimensions."""
    return math.prod(policy.observation_space.shape), math.prod(policy.action_space.shape)


def _parameters(networks: dict[str, Any]) -> list[th.Tensor]:
    return [tensor for network in networks.values() for tensor in network.parameters()]


def _program(watch: Watch, name: str, network: Any, policy: Any) -> Program:
    """A network's program."""
    if watch.item(vars(network), "use_sde"):
        raise NotCoveredError("use_sde=True")
    kind, (n_obs, n_act) = watch.type_of(network), _sizes(policy)
    if kind in CRITICS:
        watch.sequence(watch.item(vars(network), "q_networks"))
        if any(q is not network._modules.get(f"qf{i}") for i, q in enumerate(network.q_networks)):
            raise NotCoveredError("networks that are not its modules")
    program = network_program(name, network, n_act)
    per_output = watch.item(vars(network), "n_quantiles") or 1
    reads, width = n_obs, n_act
    if kind in CRITICS:
        reads, width = n_obs + n_act, per_output
    elif kind in VALUE_NETWORKS:
        width = int(policy.action_space.n) * per_output
    if program.widths[0] != reads or any(program.widths[value] != width for value in program.outputs):
        raise NotCoveredError("other numbers of inputs or outputs than observations and actions have")
    return program


def _network_problems(watch: Watch, name: str, network: nn.Module, program: Program) -> Iterator[str]:
    """What a program does not tell: hooks, methods of single objects, parameters that cannot be read."""
    for module in _modules(watch, network):
        attributes = vars(module)
        for option in MODULE_OPTIONS.get(watch.type_of(module), ()):
            watch.item(attributes, option)
        if module is not network and is_traced(module):
            for attribute in watch.keys(attributes):
                if attribute != "training":
                    watch.item(attributes, attribute)
        # A request for dense gradients, which evolution makes, is a hook of the parameter, not of the module
        if any(watch.keys(attributes[hooks]) for hooks in HOOKS):
            yield f"the {name} has hooks"
        for method in METHODS if module is network else METHODS[:1]:
            if watch.item(attributes, method) is not None:
                yield f"the {name} has a {method} of its own"
    for operation in program.operations:
        if isinstance(operation.module, (*LINEAR, nn.LayerNorm)):
            yield from _layer_problems(watch, name, operation.module)
        elif operation.kind == "observation_norm":
            yield from _statistics_problems(watch, name, operation.module)
        elif operation.kind == "batch_renorm":
            yield from _renorm_problems(name, operation.module)
    used = [id(parameter) for operation in program.operations for parameter in parameters_of(operation)]
    if len({*used}) != len(used):
        yield f"the {name} has a layer that is used more than once"
    if {id(parameter) for parameter in network.parameters()} != {*used}:
        yield f"the {name} has parameters that none of its operations reads"


def _modules(watch: Watch, module: nn.Module) -> Iterator[nn.Module]:
    """A module and all below it."""
    yield module
    for child in watch.items(cast(dict[str, nn.Module], module._modules)).values():
        if child is not None:
            yield from _modules(watch, child)


def _wiring(program: Program) -> list[tuple[Any, ...]]:
    """All of a program but the numbers in its parameters."""
    return [(o.kind, o.inputs, o.output, type(o.module), *_connections(o.module)) for o in program.operations]


def _connections(module: nn.Module | None) -> tuple[Any, ...]:
    if isinstance(module, SparseLinear):
        return module.in_features, module.out_features, module.indices.cpu().numpy().tobytes()
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else ()


def _layer_problems(watch: Watch, name: str, layer: SparseLinear | nn.Linear | nn.LayerNorm) -> Iterator[str]:
    parameters = cast(dict[str, Any], layer._parameters)
    if isinstance(layer, nn.LayerNorm):
        shape = bias_shape = tuple(layer.normalized_shape)
    else:
        # Of tensors whose own shapes are watched
        shape, bias_shape = (layer.out_features, layer.in_features), (layer.out_features,)
    if isinstance(layer, SparseLinear):
        indices = watch.numbers(watch.item(cast(dict[str, Any], layer._buffers), "indices"))
        watch.item(vars(layer), "topology_version")
        shape = tuple(indices.shape)
        if max(layer.in_features, layer.out_features) > MOST_FEATURES:
            yield f"the {name} has a layer of {layer.in_features} -> {layer.out_features}"
    weights = watch.item(parameters, "values" if isinstance(layer, SparseLinear) else "weight")
    for tensor, expected in ((weights, shape), (watch.item(parameters, "bias"), bias_shape)):
        yield from _tensor_problems(f"the {name} has parameters", watch.tensor(tensor), expected)


def _statistics_problems(watch: Watch, name: str, norm: Any) -> Iterator[str]:
    for option in ("epsilon", "clip"):
        watch.item(vars(norm), option)
    for key in ("mean", "variance"):
        tensor, what = watch.item(norm._buffers, key), f"the {name} has statistics of observations"
        yield from _tensor_problems(what, watch.tensor(tensor), (norm.features_dim,), th.float64)


def _renorm_problems(name: str, renorm: Any) -> Iterator[str]:
    for tensor in (renorm.scale, renorm.bias, renorm.ra_mean, renorm.ra_var):
        yield from _tensor_problems(f"the {name} has batch renormalization", tensor, (renorm.num_features,))


def _tensor_problems(
    what: str, tensor: th.Tensor, shape: tuple[int, ...], dtype: th.dtype = th.float32
) -> Iterator[str]:
    if tensor.device.type != "cpu":
        yield f"the device is {tensor.device}"
    elif tensor.dtype != dtype:
        yield f"{what} of type {tensor.dtype}"
    elif tuple(tensor.shape) != shape:
        yield f"{what} of shape {tuple(tensor.shape)}, not {shape}"
    elif not tensor.is_contiguous():
        yield f"{what} that are not contiguous"


# --- updates ---


def _update_problems(
    watch: Watch, model: OffPolicyAlgorithm, buffer_classes: tuple[type, ...], is_asked_for: bool
) -> Iterator[str]:
    attributes = vars(model)
    policy = watch.item(attributes, "policy")
    yield from _policy_problems(watch, policy, NETWORKS)
    for name in NETWORKS:
        if name in attributes and watch.item(attributes, name) is not policy._modules.get(name):
            yield f"the model's {name} is not its policy's"
    if watch.keys(_global_optimizer_pre_hooks) or watch.keys(_global_optimizer_post_hooks):
        yield "there are hooks of all optimizers"
    connections, positions = 0, 0
    for name in LEARNING:
        network = watch.item(policy._modules, name)
        if network is None:
            continue
        layers = [module for module in network.modules() if isinstance(module, LINEAR)]
        connections += sum(layer.nnz if isinstance(layer, SparseLinear) else layer.weight.numel() for layer in layers)
        positions += sum(layer.in_features * layer.out_features for layer in layers)
        optimizer = watch.item(vars(network), "optimizer") or watch.item(vars(policy), "optimizer")
        yield from _optimizer_problems(watch, name, optimizer, [*network.parameters()])
    if connections > DENSITY_LIMIT * positions and not is_asked_for:
        yield f"density {connections / positions:.2f} is above {DENSITY_LIMIT}"
    coefficient = watch.item(attributes, "log_ent_coef")
    coefficient_optimizer = watch.item(attributes, "ent_coef_optimizer")
    if coefficient_optimizer is not None:
        yield from _tensor_problems("the entropy coefficient is", watch.tensor(coefficient), (1,))
        yield from _optimizer_problems(watch, "entropy coefficient", coefficient_optimizer, [coefficient])
    buffer = watch.item(attributes, "replay_buffer")
    action_type = np.float32 if isinstance(policy.action_space, spaces.Box) else np.int64
    yield from _buffer_problems(watch, buffer, buffer_classes, _sizes(policy), action_type)
    normalize = watch.call(model.get_vec_normalize_env)
    if normalize is not None and watch.type_of(normalize) is not VecNormalize:
        yield f"the environment is normalized by a {type(normalize).__name__}"


def _optimizer_problems(
    watch: Watch, name: str, optimizer: th.optim.Optimizer, parameters: list[th.Tensor]
) -> Iterator[str]:
    if watch.type_of(optimizer) not in (th.optim.Adam, th.optim.AdamW):
        yield f"the {name}'s optimizer is {type(optimizer).__name__}, not Adam or AdamW"
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
    betas = watch.item(groups[0], "betas")
    if not isinstance(betas, (list, tuple)):
        yield f"the {name}'s Adam has betas in a {type(betas).__name__}"
        return
    betas = watch.sequence(betas)
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
    if not {id(values_of(layer)) for norm in unit_norms(optimizer) for layer in norm.layers} <= {*map(id, held)}:
        yield f"the {name}'s optimizer keeps units of other layers at norm 1"
    state = watch.entries(watch.item(attributes, "state"))
    for parameter in held:
        entries = state.get(parameter)
        if entries:
            yield from _state_problems(watch, name, entries, tuple(parameter.shape))
        elif entries is not None:
            watch.keys(entries)  # Adam's first step fills it


def _has_foreign(watch: Watch, hooks: dict[int, Any]) -> bool:
    """Whether there are hooks other than those of evolution and of unit norms, which compiled updates serve."""
    owners = (getattr(hooks[key], "__self__", None) for key in watch.keys(hooks))
    return not all(isinstance(owner, (TopologyEvolver, DenseGradient, UnitNorm)) for owner in owners)


def _state_problems(watch: Watch, name: str, entries: dict[str, Any], shape: tuple[int, ...]) -> Iterator[str]:
    for key, expected in (("step", ()), ("exp_avg", shape), ("exp_avg_sq", shape)):
        entry = watch.item(entries, key)
        if isinstance(entry, th.Tensor):
            yield from _tensor_problems(f"the {name}'s Adam has {key}", watch.tensor(entry), expected)
        else:
            yield f"the {name}'s Adam has no tensor {key}"


def _buffer_problems(
    watch: Watch, buffer: object, buffer_classes: tuple[type, ...], sizes: tuple[int, int], action_type: type
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
    widths = {"observations": sizes[0], "next_observations": sizes[0], "actions": sizes[1]}
    for name in BUFFER_ARRAYS:
        array = watch.array(watch.item(attributes, name))
        if "observations" in name:
            if array.dtype not in (np.float32, np.float64) or array.dtype != buffer.observations.dtype:
                yield f"{name.replace('_', ' ')} are stored as {array.dtype}"
        elif array.dtype != (action_type if name == "actions" else np.float32):
            yield f"{name} are stored as {array.dtype}"
        size = rows[0] * rows[1] * widths.get(name, 1)
        if array.shape[:2] != rows or array.size != size or not array.flags.c_contiguous:
            yield f"the replay buffer's {name} are not a plain array of its size"
