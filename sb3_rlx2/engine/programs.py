"""Networks as programs: lists of operations with explicit inputs and outputs.

Computing (``operations``), acting, FLOPs, reports and exports read the same program. A program only describes: it holds
the modules whose parameters it reads, and no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import Actor as CrossQActor
from sb3_contrib.qrdqn.policies import QuantileNetwork
from sb3_contrib.tqc.policies import Actor as TQCActor
from sb3_contrib.tqc.policies import Critic as TQCCritic
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import QNetwork
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.td3.policies import Actor as TD3Actor
from torch import fx, nn

from sb3_rlx2.engine.networks import acting_network
from sb3_rlx2.engine.tracing import ADDITIONS, FUNCTIONS, IN_PLACE, traced
from sb3_rlx2.sparse.layers import SparseLinear

Layer = SparseLinear | nn.Linear
GAUSSIAN_ACTORS = (SACActor, TQCActor, CrossQActor)
CRITICS = (ContinuousCritic, TQCCritic)
VALUE_NETWORKS: Mapping[type[nn.Module], str] = {QNetwork: "q_net", QuantileNetwork: "quantile_net"}
"""Networks that tell values of discrete actions, each with the attribute that holds its layers."""
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.GELU)


class NotCoveredError(ValueError):
    """A network that is no program of the operations that there are. The message says why in one sentence."""


class Operation(NamedTuple):
    """One step of a program.

    :param kind: ``"linear"``, ``"activation"``, ``"layer_norm"``, ``"sum"``, ``"observation_norm"`` or
        ``"batch_renorm"``, which no compiled code computes
    :param inputs: numbers of the values that it reads
    :param output: number of the value that it makes
    :param module: the linear layer, activation or normalization; None for a sum
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    module: nn.Module | None


class Program:
    """A network as a list of operations. Value 0 is its input.

    :param n_in: number of features of the input
    """

    def __init__(self, n_in: int) -> None:
        self.widths = [n_in]
        """Number of features of each value."""
        self.operations: list[Operation] = []
        self.outputs: tuple[int, ...] = ()
        """Numbers of the values that the network returns."""
        self.overwritten: set[int] = set()
        """Numbers of the values in whose place another one is now."""

    def add(self, kind: str, inputs: Sequence[int], width: int, module: nn.Module | None = None) -> int:
        """Append an operation.

        :param kind: see ``Operation``
        :param inputs: numbers of the values that it reads
        :param width: number of features that it makes
        :param module: whose parameters it reads
        :return: number of the value that it makes
        :raises NotCoveredError: if it reads a value in whose place another one is
        """
        if self.overwritten & {*inputs}:
            raise NotCoveredError("an operation that reads what another one has overwritten in place")
        self.widths.append(width)
        self.operations.append(Operation(kind, tuple(inputs), len(self.widths) - 1, module))
        return len(self.widths) - 1

    def overwrite(self, value: int) -> None:
        """Note that the newest value has taken the place of an earlier one.

        :param value: number of the earlier one
        :raises NotCoveredError: if it is the network's input, which others may read
        """
        if value == 0:
            raise NotCoveredError("an operation that overwrites the network's input")
        self.overwritten.add(value)

    def apply(self, module: nn.Module, value: int) -> int:
        """Append what a module does to a value.

        :param module: a linear layer, an activation, a layer normalization, an ``nn.Sequential`` of modules that are
            covered, one that has ``add_to_program``, or one whose forward pass calls and adds up nothing but these
        :param value: number of the value that it reads
        :return: number of the value that it returns
        :raises NotCoveredError: for any other module
        """
        if isinstance(module, AddsToProgram):
            return module.add_to_program(self, value)
        translate = _TRANSLATIONS.get(type(module))
        return _traced(self, module, value) if translate is None else translate(self, module, value)

    @property
    def layers(self) -> list[Layer]:
        """Its linear layers in order."""
        return [operation.module for operation in self.operations if isinstance(operation.module, Layer)]

    def readers(self, value: int) -> int:
        """How many operations and outputs read a value."""
        return sum(operation.inputs.count(value) for operation in self.operations) + self.outputs.count(value)

    def part(self, number: int) -> Program:
        """The part of the program that makes one of its outputs.

        :param number: of the output
        """
        part = Program(self.widths[0])
        part.widths, part.outputs = self.widths, (self.outputs[number],)
        needed = set(part.outputs)
        for operation in reversed(self.operations):
            if operation.output in needed:
                needed.update(operation.inputs)
                part.operations.insert(0, operation)
        return part


@runtime_checkable
class AddsToProgram(Protocol):
    """A module that brings its own translation."""

    def add_to_program(self, program: Program, value: int) -> int:
        """Append what this module does to a value, by ``program.apply`` and ``program.add``.

        :param program: the program so far
        :param value: number of the value that the module reads
        :return: number of the value that it returns
        """


def _linear(program: Program, module: Any, value: int) -> int:
    if program.widths[value] != module.in_features:
        raise NotCoveredError(f"a layer of {module.in_features} inputs that reads {program.widths[value]} features")
    if module.bias is None:
        raise NotCoveredError("a layer without bias")
    return program.add("linear", [value], module.out_features, module)


def _activation(program: Program, module: nn.Module, value: int) -> int:
    if isinstance(module, nn.LeakyReLU) and not module.negative_slope > 0:
        raise NotCoveredError(f"a LeakyReLU with negative_slope={module.negative_slope}")
    if isinstance(module, nn.ELU) and not module.alpha > 0:
        raise NotCoveredError(f"an ELU with alpha={module.alpha}")
    result = program.add("activation", [value], program.widths[value], module)
    if getattr(module, "inplace", False):
        program.overwrite(value)
    return result


def _layer_norm(program: Program, module: nn.LayerNorm, value: int) -> int:
    if module.normalized_shape != (program.widths[value],):
        raise NotCoveredError(f"a LayerNorm over {module.normalized_shape}")
    if module.weight is None or module.bias is None:
        raise NotCoveredError("a LayerNorm without weight or bias")
    return program.add("layer_norm", [value], program.widths[value], module)


def batch_renorm(program: Program, module: BatchRenorm1d, value: int) -> int:
    """Append a batch renormalization, as it is in evaluation mode.

    :param program: the program so far
    :param module: the batch renormalization
    :param value: number of the value that it reads
    :return: number of the value that it returns
    :raises NotCoveredError: if it reads another number of features than it has, or has no scale and bias
    """
    if module.num_features != program.widths[value] or not module.affine:
        raise NotCoveredError(f"a {type(module).__name__} of {module.num_features} features, affine={module.affine}")
    return program.add("batch_renorm", [value], program.widths[value], module)


def _sequence(program: Program, module: nn.Sequential, value: int) -> int:
    for child in module:
        value = program.apply(child, value)
    return value


def _traced(program: Program, module: nn.Module, value: int) -> int:
    """A module of the user's, such as a residual block."""
    graph = traced(module, lambda part: isinstance(part, AddsToProgram) or type(part) in _TRANSLATIONS)
    refusal = NotCoveredError(f"a {type(module).__name__}")
    inputs = [] if graph is None else [node for node in graph.nodes if node.op == "placeholder"]
    if graph is None or len(inputs) != 1:
        raise refusal
    values: dict[Any, int] = {inputs[0]: value}
    for node in graph.nodes:
        known = all(isinstance(argument, fx.Node) and argument in values for argument in node.args)
        if node.op == "output":
            if not known:
                raise refusal
            return values[node.args[0]]
        if node.op == "placeholder":
            continue
        if not known or node.kwargs not in ({}, {"inplace": False}):
            raise refusal
        operands = [values[argument] for argument in node.args]
        if node.op == "call_module":
            values[node] = program.apply(module.get_submodule(str(node.target)), *operands)
        elif node.target in FUNCTIONS and len(operands) == 1:
            values[node] = program.apply(FUNCTIONS[node.target](), *operands)
        elif node.target in ADDITIONS and len({program.widths[operand] for operand in operands}) == 1:
            values[node] = program.add("sum", operands, program.widths[operands[0]])
            if node.target in IN_PLACE:
                program.overwrite(operands[0])
        else:
            raise refusal
    raise refusal


def _nothing(_: Program, __: nn.Module, value: int) -> int:
    return value


_TRANSLATIONS: dict[type[nn.Module], Callable[[Program, Any, int], int]] = {
    SparseLinear: _linear,
    nn.Linear: _linear,
    **dict.fromkeys(ACTIVATIONS, _activation),
    nn.LayerNorm: _layer_norm,
    BatchRenorm1d: batch_renorm,
    nn.Sequential: _sequence,
    nn.Identity: _nothing,
    nn.Flatten: _nothing,
    FlattenExtractor: _nothing,
}


def actor_program(actor: nn.Module) -> Program:
    """The program of an actor: actions before any squashing, or mean and logarithm of the standard deviation.

    :param actor: an actor of Stable-Baselines3's TD3 or SAC or of sb3-contrib's TQC or CrossQ
    :raises NotCoveredError: if it has parts that no operation computes
    """
    known: Any = actor
    program = Program(known.features_dim)
    value = program.apply(known.features_extractor, 0)
    if type(actor) in GAUSSIAN_ACTORS:
        value = program.apply(known.latent_pi, value)
        log_std = program.apply(known.log_std, value)
        program.outputs = (program.apply(known.mu, value), log_std)
    elif type(actor) is TD3Actor:
        modules = list(known.mu)
        if not modules or type(modules[-1]) is not nn.Tanh:
            raise NotCoveredError("an actor that does not end in Tanh")
        for module in modules[:-1]:
            value = program.apply(module, value)
        program.outputs = (value,)
    else:
        raise NotCoveredError(f"a {type(actor).__name__}")
    return program


def critic_program(critic: nn.Module, n_act: int) -> Program:
    """The program of a critic of continuous actions: an output of each network; it reads observation and action.

    :param critic: a critic of Stable-Baselines3's TD3 or SAC or of sb3-contrib's TQC
    :param n_act: number of action dimensions
    :raises NotCoveredError: if it has parts that no operation computes
    """
    if type(critic) not in CRITICS:
        raise NotCoveredError(f"a {type(critic).__name__}")
    known: Any = critic
    program = Program(known.features_extractor.features_dim + n_act)
    outputs: list[int] = []
    # Gradients go back in reverse: through the first critic first, which may be the only one (``NetworkBlocks.parts``)
    for q_network in reversed(known.q_networks):
        value = program.apply(known.features_extractor, 0)  # by each for itself: they share no operation
        if value != 0 and program.operations[-1].kind != "observation_norm":
            raise NotCoveredError("a features extractor between observation and critic")
        outputs.insert(0, program.apply(q_network, value))
    program.outputs = tuple(outputs)
    return program


def value_program(network: nn.Module) -> Program:
    """The program of a value network of discrete actions: one output, values (or quantiles of each) side by side.

    :param network: of Stable-Baselines3's DQN or sb3-contrib's QR-DQN
    :raises NotCoveredError: if it has parts that no operation computes
    """
    if type(network) not in VALUE_NETWORKS:
        raise NotCoveredError(f"a {type(network).__name__}")
    known: Any = network
    program = Program(known.features_dim)
    value = program.apply(known.features_extractor, 0)
    program.outputs = (program.apply(getattr(known, VALUE_NETWORKS[type(network)]), value),)
    return program


def network_program(name: str, network: nn.Module, n_act: int) -> Program:
    """The program of a network of a policy.

    :param name: its attribute of the policy (``networks``)
    :param network: the network
    :param n_act: number of action dimensions, which critics read
    :raises NotCoveredError: if it has parts that no operation computes
    """
    if name.startswith("critic"):
        program = critic_program(network, n_act)
    else:
        program = actor_program(network) if name.startswith("actor") else value_program(network)
    if any(program.readers(operation.output) == 0 for operation in program.operations):
        raise NotCoveredError("an operation whose result nothing reads")
    return program


def acting_program(policy: Any) -> Program:
    """The program of the network of a policy that gives the action.

    :param policy: a policy of an off-policy algorithm
    :raises NotCoveredError: if it has parts that no operation computes
    """
    name = acting_network(policy)
    if name is None:
        raise NotCoveredError(f"no network of a {type(policy).__name__}")
    return network_program(name, policy._modules[name], 0)


def is_traced(module: nn.Module) -> bool:
    """Whether a module's operations are found by running its forward pass, and so depend on its attributes.

    :param module: the module
    """
    return not isinstance(module, AddsToProgram) and type(module) not in _TRANSLATIONS


def parameters_of(operation: Operation) -> Iterator[th.Tensor]:
    """The parameters that an operation reads: weights, then bias."""
    module = operation.module
    if isinstance(module, SparseLinear):
        yield module.values
    elif isinstance(module, (nn.Linear, nn.LayerNorm)):
        yield module.weight
    elif isinstance(module, BatchRenorm1d):
        yield module.scale
    if isinstance(module, (SparseLinear, nn.Linear, nn.LayerNorm, BatchRenorm1d)) and module.bias is not None:
        yield module.bias
