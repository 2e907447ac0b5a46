"""Outputs of a network to which no path leads: how many there are, and how they get one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch as th
from torch import nn

from sb3_rlx2.sparse import paths
from sb3_rlx2.sparse.layers import SparseLinear, values_of
from sb3_rlx2.sparse.paths import Array
from sb3_rlx2.sparse.rules import Exchange
from sb3_rlx2.sparse.units import LinearLayer, Stages, connection_mask, is_linear_layer


def stages_of(*modules: nn.Module) -> list[list[LinearLayer]]:
    """The linear layers that data pass one after the other.

    :param modules: applied one after the other; ``nn.Sequential``, nested or not, and linear layers
    :return: a stage for each layer; none at all where the order is not known: there is a linear layer inside of another
        module, or the widths do not follow on one another, or a layer occurs twice
    """
    layers: list[LinearLayer] = []
    for module in _flat(modules):
        if is_linear_layer(module):
            layers.append(module)
        elif any(isinstance(inner, nn.Linear | SparseLinear) for inner in module.modules()):
            return []
    stages = [[layer] for layer in layers]
    return stages if stages_problem(stages) is None else []


def _flat(modules: Sequence[nn.Module]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for module in modules:
        is_plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        found += _flat(list(cast(nn.Sequential, module))) if is_plain else [module]
    return found


def stages_problem(stages: Any) -> str | None:
    """Say why layers cannot pass data on like that.

    :param stages: layers in the order in which data pass them; what a stage reads are the outputs of the one before it,
        side by side
    :return: the problem in words; None if they can
    """
    if not isinstance(stages, (list, tuple)) or not all(isinstance(layers, (list, tuple)) for layers in stages):
        return "it must be a list of stages, each a list of layers"
    for layer in itertools.chain(*stages):
        if not isinstance(layer, nn.Linear | SparseLinear):
            return f"a {type(layer).__name__} is no linear layer"
    if len({id(layer) for layer in itertools.chain(*stages)}) < sum(map(len, stages)):
        return "a layer occurs twice"
    if not all(stages):
        return "a stage has no layer"
    for number, layers in enumerate(stages):
        inputs = {layer.in_features for layer in layers}
        given = sum(layer.out_features for layer in stages[number - 1]) if number else min(inputs)
        if inputs != {given}:
            read, expected = sorted(inputs), f"the one before has {given} outputs" if number else "all must be equal"
            return f"the layers of stage {number} read {', '.join(map(str, read))} inputs where {expected}"
    return None


def unreachable_outputs(stages: Stages) -> list[th.Tensor]:
    """Which outputs of a network no path leads to from any of its inputs: they are the same whatever the input.

    :param stages: the network's layers in the order in which data pass them
    :return: bool [out_features] for each layer of the last stage
    """
    reached = paths.reached_units([_joint(map(_mask, layers)) for layers in stages])[-1]
    return list(th.from_numpy(~reached).split([layer.out_features for layer in stages[-1]]))


def connect_outputs(
    stages: Sequence[Sequence[Array]], weights: Sequence[Sequence[Array]], movable: Sequence[Sequence[bool]]
) -> list[list[Array]]:
    """Connections with which every output has a path, for networks that are not trained yet.

    The fewest connections move that make it so (``paths.reconnect``). Those that come are of large weight, those that
    go are of small weight and on no path.

    :param stages: masks of the network's layers, bool [out_features, in_features]; those of one stage read the same
        inputs
    :param weights: the dense initial weights, shapes as the masks'
    :param movable: whether connections of a layer may move
    :return: the new masks
    """
    masks = [_joint(layers) for layers in stages]
    if bool(paths.reached_units(masks)[-1].all()):
        return [list(layers) for layers in stages]
    may_move = [
        _joint(np.full(mask.shape, may) for mask, may in zip(layers, flags, strict=True))
        for layers, flags in zip(stages, movable, strict=True)
    ]
    strengths = [np.nan_to_num(_joint(np.abs(weight) for weight in layers)) for layers in weights]
    smallest = np.finfo(np.float32).tiny  # all weights may be zero
    prices = [
        np.where(may, paths.price(strength / max(strength.max(), smallest)), np.inf)
        for may, strength in zip(may_move, strengths, strict=True)
    ]
    new = paths.reconnect(
        masks,
        np.arange(len(masks[-1])),
        prices=prices,
        strengths=strengths,
        heights=[[len(mask) for mask in layers] for layers in stages],
        last_resort=paths.narrow_paths,
    )
    return [_parts(mask, [len(part) for part in layers]) for mask, layers in zip(new, stages, strict=True)]


def keep_paths(stages: Stages, exchanges: Mapping[SparseLinear, Exchange]) -> dict[SparseLinear, th.Tensor]:
    """Connections after an evolution step in which no output loses its last path.

    Of the connections that are to be dropped the fewest stay that make it so (``paths.reconnect``), preferably those of
    high drop score. They stay in place of grown ones of low growth score, or of weak ones, in a layer
    that loses connections.

    :param stages: the network's layers in the order in which data pass them, as they are before the step
    :param exchanges: what is to be dropped and grown, in the layers that evolve
    :return: flat positions [nnz], int64, sorted, of layers in which other connections change than planned
    :raises ValueError: if layers lose so many connections that an output must lose its last path
    """
    layers = [layer for stage in stages for layer in stage]
    plans = {layer: _Plan(layer, exchanges.get(layer) if isinstance(layer, SparseLinear) else None) for layer in layers}

    def joint(name: str) -> list[Array]:
        return [_joint(getattr(plans[layer], name) for layer in stage) for stage in stages]

    before, planned = joint("before"), joint("after")
    had, has = paths.reached_units(before)[-1], paths.reached_units(planned)[-1]
    if not bool((had & ~has).any()):
        return {}
    strengths = joint("strength")
    after = paths.reconnect(
        planned,
        np.flatnonzero(had),
        prices=joint("price"),
        strengths=strengths,
        heights=[[layer.out_features for layer in stage] for stage in stages],
        last_resort=lambda _: paths.strongest_paths(before, strengths),
    )
    lost = had & ~paths.reached_units(after)[-1]
    if bool(lost.any()):
        raise ValueError(
            f"the rule's budget leaves {lost.sum()} of {len(lost)} outputs without a path from any input: layers need "
            "more connections"
        )
    changed = {}
    for stage, mask in zip(stages, after, strict=True):
        for layer, part in zip(stage, _parts(mask, [layer.out_features for layer in stage]), strict=True):
            if isinstance(layer, SparseLinear) and (part != plans[layer].after).any():
                changed[layer] = th.from_numpy(np.flatnonzero(part)).to(layer.indices.device)
    return changed


class _Plan:
    """What is planned for a layer in an evolution step, as matrices [out_features, in_features]."""

    def __init__(self, layer: LinearLayer, exchange: Exchange | None) -> None:
        self._layer, self._exchange = layer, exchange
        self.before = _mask(layer)
        self.after = self.before if exchange is None else self.before.copy()
        if exchange is not None:
            self.after.flat[_array(exchange.dropped)] = False
            self.after.flat[_array(exchange.grown)] = True

    @property
    def price(self) -> Array:
        """Of keeping a connection that is to be dropped: the lower the drop score, the dearer; and of one that may give
        way to it.
        """
        may_give_way = self.after if self.after.sum() < self.before.sum() else self.after & ~self.before
        prices = np.where(may_give_way, paths.price(np.ones(())), np.inf)
        if self._exchange is not None:
            dropped = _array(self._exchange.dropped)
            prices.flat[dropped] = paths.price(np.arange(len(dropped)) / max(len(dropped), 1))
        return prices

    @property
    def strength(self) -> Array:
        """Magnitude of what is present; below that what is to be grown, by growth score."""
        strengths = np.zeros(self.before.shape)
        strengths[self.before] = _array(values_of(self._layer).double()).reshape(-1)
        np.abs(strengths, out=strengths)
        if self._exchange is not None:
            grown = _array(self._exchange.grown)
            strengths.flat[grown] = -1.0 - np.arange(len(grown))
        return strengths


def _mask(layer: LinearLayer) -> Array:
    return _array(connection_mask(layer))


def _array(tensor: th.Tensor) -> Array:
    return tensor.detach().cpu().numpy()


def _joint(parts: Iterable[Array]) -> Array:
    return np.concatenate(list(parts))


def _parts(joint: Array, heights: Sequence[int]) -> list[Array]:
    return np.split(joint, np.cumsum(heights)[:-1])
