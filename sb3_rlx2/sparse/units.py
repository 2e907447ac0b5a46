"""What the units of a network are connected to, and which of them do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import torch as th
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from sb3_rlx2.sparse.layers import SparseLinear

LinearLayer = nn.Linear | SparseLinear
Stages = Sequence[Sequence[LinearLayer]]
"""Layers in the order in which data pass them; those of one stage read the same inputs."""


def is_linear_layer(module: nn.Module) -> TypeGuard[LinearLayer]:
    """Whether a module is a sparse or a dense linear layer.

    A subclass of ``torch.nn.Linear`` is none: other code may read its ``weight``. A parametrized ``torch.nn.Linear`` is
    no subclass in this sense.

    :param module: any module
    """
    return type_before_parametrizations(module) is nn.Linear or isinstance(module, SparseLinear)


def connection_mask(layer: LinearLayer) -> th.Tensor:
    """Which connections a linear layer has: bool [out_features, in_features], all True for a dense one.

    :param layer: sparse or dense
    """
    if isinstance(layer, SparseLinear):
        return layer.mask
    return th.ones(layer.out_features, layer.in_features, dtype=th.bool, device=layer.weight.device)


def connections_per_input(layers: Sequence[LinearLayer]) -> th.Tensor:
    """How many connections lead away from each input.

    :param layers: layers that read the same inputs
    :return: [in_features], int64
    """
    counts: th.Tensor = th.stack([connection_mask(layer).sum(dim=0) for layer in layers]).sum(dim=0)
    return counts


def connections_per_unit(layer: LinearLayer) -> th.Tensor:
    """How many connections lead to each unit of a layer.

    :param layer: sparse or dense
    :return: [out_features], int64
    """
    return connection_mask(layer).sum(dim=1)


@th.no_grad()
def mean_activity(
    stages: Stages, forward: Callable[[], Any], normalizations: Iterable[nn.Module] = ()
) -> list[th.Tensor]:
    """Mean magnitude of each hidden unit's activation.

    :param stages: the network's layers; what a stage reads are the activations of the one before it
    :param forward: runs the network once on a batch
    :param normalizations: modules that may stand between an activation and the stage that reads it: the activation is
        what they read, since what they make of a unit that is always zero need not be zero
    :return: [out_features] for each stage but the last
    """
    found: dict[int, th.Tensor] = {}
    normalized: list[tuple[th.Tensor, th.Tensor]] = []

    def listen(place: int) -> Callable[[nn.Module, tuple[th.Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[th.Tensor, ...]) -> None:
            activation = next((before for before, after in normalized if after is inputs[0]), inputs[0])
            found[place] = activation.abs().reshape(-1, activation.shape[-1]).mean(dim=0)

        return hook

    def remember(_: nn.Module, inputs: tuple[th.Tensor, ...], output: th.Tensor) -> None:
        normalized.append((inputs[0], output))

    handles = [layers[0].register_forward_pre_hook(listen(place)) for place, layers in enumerate(stages) if place > 0]
    handles += [module.register_forward_hook(remember) for module in normalizations]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return [found[place] for place in range(1, len(stages))]


@th.no_grad()
def mean_outputs(modules: Sequence[nn.Module], forward: Callable[[], Any]) -> list[th.Tensor]:
    """Mean magnitude of each feature that modules return.

    :param modules: each of them called once by the network
    :param forward: runs the network once on a batch
    :return: [features] for each module
    """
    found: dict[nn.Module, th.Tensor] = {}

    def hook(module: nn.Module, _: Any, output: th.Tensor) -> None:
        found[module] = output.abs().reshape(-1, output.shape[-1]).mean(dim=0)

    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return [found[module] for module in modules]


def dormant_units(activity: th.Tensor, threshold: float = 0.025) -> th.Tensor:
    """Which units are τ-dormant: their mean activity is at most τ times their layer's average.

    Sokar, Agarwal, Castro, Evci, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
    definition 3.1. In a layer where nothing is active all units are dormant.

    :param activity: mean magnitude of each unit's activation, [units]
    :param threshold: τ, default 0.025
    :return: bool [units]
    """
    return activity <= threshold * activity.mean()
