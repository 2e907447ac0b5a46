"""From a model to the policy that all exports are made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.qrdqn.policies import QuantileNetwork
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_rlx2.common.saving.algorithm_names import algorithm_name
from sb3_rlx2.engine import programs
from sb3_rlx2.engine.networks import acting_network
from sb3_rlx2.engine.support import why_not_acting
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.export.batch_renorm import Affine, affine_of, reads_affine
from sb3_rlx2.export.sparse_policy import (
    Action,
    Activation,
    Array,
    GreedyAction,
    LayerNorm,
    Linear,
    Normalization,
    Operation,
    SparsePolicy,
    SquashedAction,
    Sum,
)
from sb3_rlx2.sparse.layers import SparseLinear


def read_policy(model: OffPolicyAlgorithm, vec_normalize: VecNormalize | None = None) -> SparsePolicy:
    """The policy of a model, as it acts without noise.

    :param model: an off-policy algorithm of this package, Stable-Baselines3 or sb3-contrib
    :param vec_normalize: whose statistics normalize observations; None (default): they come as they are
    :raises ValueError: if the policy computes something that is not exported; the message says what
    """
    policy = cast(Any, model.policy)
    name = acting_network(policy)
    if name is None:
        raise ValueError(f"a {type(model).__name__} cannot be exported: it has neither an actor nor values of actions")
    if model.device.type != "cpu":
        policy = copy.deepcopy(policy).to("cpu")
    reason = why_not_acting(Watch(), policy, (*_OPERATIONS, "observation_norm", "batch_renorm"))
    if reason is not None:
        raise ValueError(f"the policy cannot be exported: {reason}{_hint(policy.observation_space)}")
    program = programs.acting_program(policy).part(0)
    norm, steps = _observation_norm(program)
    operations = _operations(steps)
    if isinstance(network := policy._modules[name], QuantileNetwork):
        operations[-1] = _mean_over_quantiles(operations[-1], network.n_quantiles)
    observation_shape = tuple(map(int, policy.observation_space.shape))
    n_obs, action = math.prod(observation_shape), _action(policy.action_space)
    read = SparsePolicy(
        algorithm=_name(model),
        observation_shape=observation_shape,
        normalization=_only_one(norm, None if vec_normalize is None else read_normalization(vec_normalize, n_obs)),
        operations=tuple(operations),
        output=program.outputs[0],
        action=action,
        example_observation=np.zeros(n_obs, np.float32),
        example_action=np.zeros(math.prod(action.shape), action.dtype),
    )
    if not all(np.isfinite(array).all() for array in read.describe()[1].values()):
        raise ValueError("the policy cannot be exported: it has parameters or bounds that are NaN or infinite")
    return read


def read_normalization(vec_normalize: VecNormalize, n_obs: int) -> Normalization | None:
    """What a VecNormalize does to observations; None if it leaves them as they are.

    :param vec_normalize: with or without an environment
    :param n_obs: number of observation dimensions
    :raises ValueError: if its statistics are for other observations
    """
    if not vec_normalize.norm_obs:
        return None
    statistics: Any = vec_normalize.obs_rms
    if not isinstance(statistics, RunningMeanStd) or statistics.mean.size != n_obs:
        raise ValueError(f"the VecNormalize has statistics for other observations than the policy's {n_obs} dimensions")
    std = np.sqrt(statistics.var + vec_normalize.epsilon)
    mean = np.asarray(statistics.mean, np.float64).ravel()
    return Normalization(mean, std.ravel(), _finite(vec_normalize.clip_obs))


def _finite(clip: float) -> float:
    """A limit without infinity, which can be written neither in C nor in JSON, and clips nothing."""
    return min(float(clip), float(np.finfo(np.float32).max))


def _operations(steps: list[programs.Operation]) -> list[Operation]:
    """What a policy computes; batch renormalization becomes part of the layers that read it."""
    renormalized: dict[int, Affine] = {}
    operations: list[Operation] = []
    for step in steps:
        if step.kind == "batch_renorm":
            renormalized[step.output] = affine_of(step, renormalized)
            continue
        operation = _OPERATIONS[step.kind](step)
        if renormalized.keys() & {*operation.inputs}:
            if not isinstance(operation, Linear):
                raise ValueError("the policy cannot be exported: no linear layer reads its batch renormalization")
            operation = reads_affine(operation, renormalized[operation.inputs[0]])
        operations.append(operation)
    return operations


def _observation_norm(program: programs.Program) -> tuple[Normalization | None, list[programs.Operation]]:
    """How the program normalizes observations itself, and the operations that read what comes of it as value 0."""
    first, *rest = program.operations
    if all(operation.kind != "observation_norm" for operation in program.operations):
        return None, program.operations
    if first.kind != "observation_norm" or any(
        operation.kind == "observation_norm" or 0 in operation.inputs for operation in rest
    ):
        raise ValueError("the policy cannot be exported: it reads observations both as they are and normalized")
    norm: Any = first.module
    std = np.sqrt(_numbers(norm.variance) + norm.epsilon)
    renamed = [tuple(0 if value == first.output else value for value in operation.inputs) for operation in rest]
    operations = [operation._replace(inputs=inputs) for operation, inputs in zip(rest, renamed, strict=True)]
    return Normalization(_numbers(norm.mean), std, _finite(norm.clip)), operations


def _action(space: spaces.Space[Any]) -> Action:
    if isinstance(space, spaces.Discrete):
        return GreedyAction(int(space.n))
    box = cast(spaces.Box, space)
    low, high = (bound.astype(np.float32).ravel() for bound in (box.low, box.high))
    return SquashedAction(low, high, tuple(map(int, box.shape)))


def _mean_over_quantiles(layer: Operation, n_quantiles: int) -> Linear:
    """The last layer of a quantile network, which makes the mean over the quantiles of each action instead.

    :param layer: its outputs are quantiles, [n_quantiles, n_actions]
    :param n_quantiles: of each action
    """
    if not isinstance(layer, Linear):
        raise ValueError("the policy cannot be exported: its quantiles are not made by a linear layer")
    weights = layer.dense_weight.astype(np.float64).reshape(n_quantiles, -1, layer.n_in).mean(axis=0)
    rows, columns = np.nonzero(weights)
    return replace(
        layer,
        values=weights[rows, columns].astype(np.float32),
        columns=smallest(columns, layer.n_in - 1),
        counts=smallest(np.bincount(rows, minlength=len(weights)), layer.n_in),
        bias=layer.bias.astype(np.float64).reshape(n_quantiles, -1).mean(axis=0).astype(np.float32),
    )


def _only_one(of_policy: Normalization | None, of_environment: Normalization | None) -> Normalization | None:
    if of_policy is not None and of_environment is not None:
        raise ValueError(
            "the policy cannot be exported: it normalizes observations by itself, and its VecNormalize does so before; "
            "train SimBaPolicy with VecNormalize(norm_obs=False)"
        )
    return of_policy or of_environment


def _name(model: OffPolicyAlgorithm) -> str:
    try:
        return algorithm_name(type(model))
    except StopIteration:  # one of Stable-Baselines3
        return type(model).__name__


def _hint(space: spaces.Space[Any]) -> str:
    if not isinstance(space, spaces.Box):
        return ". Box is exported, which gymnasium.wrappers.FlattenObservation makes of other spaces before training"
    if len(space.shape) == 3:
        return ". Image scaling and convolutions are not exported: microcontrollers have no memory for them"
    return ""


def _linear(operation: programs.Operation) -> Linear:
    layer = cast(SparseLinear | nn.Linear, operation.module)
    n_in, n_out = int(layer.in_features), int(layer.out_features)  # NumPy's, of a search, are not for JSON
    if isinstance(layer, SparseLinear):
        flat, values = _numbers(layer.indices).astype(np.int64), _numbers(layer.values)
    else:
        flat, values = np.arange(n_in * n_out), _numbers(layer.weight).ravel()
    return Linear(
        operation.inputs,
        operation.output,
        n_in,
        values,
        smallest(flat % n_in, n_in - 1),
        smallest(np.bincount(flat // n_in, minlength=n_out), n_in),
        _numbers(cast(th.Tensor, layer.bias)),
    )


def smallest(numbers: Array, largest: int) -> Array:
    """Numbers in the smallest unsigned type that holds them all.

    :param numbers: integers
    :param largest: the largest that there can be
    """
    return numbers.astype(np.min_scalar_type(largest))


_FUNCTIONS: Mapping[type[nn.Module], Callable[[Any], tuple[str, float]]] = {
    nn.ReLU: lambda module: ("relu", 0.0),
    nn.Tanh: lambda module: ("tanh", 0.0),
    nn.ELU: lambda module: ("elu", float(module.alpha)),
    nn.LeakyReLU: lambda module: ("leaky_relu", float(module.negative_slope)),
    nn.SiLU: lambda module: ("silu", 0.0),
    nn.GELU: lambda module: ("gelu" if module.approximate == "none" else "gelu_tanh", 0.0),
}


def _activation(operation: programs.Operation) -> Activation:
    module = cast(nn.Module, operation.module)
    if type(module) not in _FUNCTIONS:
        raise ValueError(f"the policy cannot be exported: no export computes a {type(module).__name__}")
    return Activation(operation.inputs, operation.output, *_FUNCTIONS[type(module)](module))


def _layer_norm(operation: programs.Operation) -> LayerNorm:
    module = cast(nn.LayerNorm, operation.module)
    return LayerNorm(
        operation.inputs, operation.output, _numbers(module.weight), _numbers(module.bias), float(module.eps)
    )


def _sum(operation: programs.Operation) -> Sum:
    return Sum(operation.inputs, operation.output)


_OPERATIONS: Mapping[str, Callable[[programs.Operation], Operation]] = {
    "linear": _linear,
    "activation": _activation,
    "layer_norm": _layer_norm,
    "sum": _sum,
}


def _numbers(tensor: th.Tensor) -> Array:
    return tensor.detach().cpu().numpy().copy()
