"""Units whose weights have norm 1 after every step of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch as th

from sb3_rlx2.sparse.layers import SparseLinear, values_of
from sb3_rlx2.sparse.units import LinearLayer, is_linear_layer


class UnitNorm:
    """Keeps the weights that lead to each unit of some layers at Euclidean norm 1.

    After every step of the optimizer (and after an evolution of the topology, which takes the place of one) the weights
    of each unit, as many as are present, are divided by their norm. The size of weights is then none of the optimizer's
    business, and its learning rate turns all units alike, however long training has gone on: projected gradient descent
    as in SimbaV2 (Lee et al., 2025, https://arxiv.org/abs/2502.15280), XQC (Palenicek et al., 2025,
    https://arxiv.org/abs/2509.25174) and FlashSAC (2026, https://arxiv.org/abs/2604.04539). Units without connections,
    and those whose weights are all zero or not finite, stay as they are. Biases are free.

    :param layers: linear layers, sparse or dense
    :param optimizer: whose steps to follow
    :param at_once: whether to normalize their weights now, too, default True
    :raises ValueError: if a layer is no linear layer, or the optimizer does not hold its weights
    """

    def __init__(self, layers: Sequence[LinearLayer], optimizer: th.optim.Optimizer, at_once: bool = True) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for place, layer in enumerate(layers):
            if not is_linear_layer(layer):
                raise ValueError(f"layers[{place}] is a {type(layer).__name__}, not a linear layer")
            if id(values_of(layer)) not in held:
                raise ValueError(f"optimizer does not hold the weights of layers[{place}]")
        self.layers, self.optimizer = tuple(layers), optimizer
        if at_once:
            self.normalize()
        self._handle = optimizer.register_step_post_hook(self._after_step)

    def close(self) -> None:
        """Stop listening to the optimizer."""
        self._handle.remove()

    def normalize(self) -> None:
        """Divide the weights of each unit by their norm."""
        for layer in self.layers:
            normalize_units(layer)

    def _after_step(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.normalize()


@th.no_grad()
def normalize_units(layer: LinearLayer) -> None:
    """Divide the weights of each unit of a layer by their Euclidean norm, if it is above 0 and finite.

    :param layer: sparse or dense, changed in place
    """
    values = values_of(layer)
    if isinstance(layer, SparseLinear):
        rows = layer.indices.long() // layer.in_features
        squares = values.new_zeros(layer.out_features).index_add_(0, rows, values.square())
        values.mul_(_factors(squares)[rows])
    else:
        values.mul_(_factors(values.square().sum(dim=1, keepdim=True)))


def unit_norms(optimizer: th.optim.Optimizer) -> list[UnitNorm]:
    """What keeps units at norm 1 after an optimizer's steps.

    :param optimizer: any optimizer
    """
    hooks = vars(optimizer).get("_optimizer_step_post_hooks", {})
    owners = [getattr(hook, "__self__", None) for hook in hooks.values()]
    return [owner for owner in owners if isinstance(owner, UnitNorm)]


def _factors(squares: th.Tensor) -> th.Tensor:
    return th.where((squares > 0) & squares.isfinite(), squares.rsqrt(), th.ones_like(squares))
