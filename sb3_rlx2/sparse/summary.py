"""What a network is made of."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import nn

from sb3_rlx2.sparse.conversion import linear_layers


class LayerSummary(NamedTuple):
    """One linear layer.

    :param name: its name in the module
    :param in_features: number of inputs
    :param out_features: number of outputs
    :param connections: number of weights that are present
    """

    name: str
    in_features: int
    out_features: int
    connections: int

    @property
    def dense_connections(self) -> int:
        """Number of weights that a dense layer of this shape has."""
        return self.in_features * self.out_features

    @property
    def density(self) -> float:
        """Fraction of the weights that are present."""
        return self.connections / self.dense_connections


def summarize(module: nn.Module, exclude: Collection[nn.Module] = ()) -> list[LayerSummary]:
    """The linear layers of a network, sparse and dense, in order.

    :param module: any network
    :param exclude: submodules that are left out, with everything below them, default none
    """
    return [
        LayerSummary(
            name,
            layer.in_features,
            layer.out_features,
            layer.weight.numel() if isinstance(layer, nn.Linear) else layer.nnz,
        )
        for name, layer in linear_layers(module, exclude).items()
    ]


def density(module: nn.Module, exclude: Collection[nn.Module] = ()) -> float:
    """Fraction of all weights of a network's linear layers that are present.

    :param module: any network with at least one linear layer
    :param exclude: submodules that are left out, with everything below them, default none
    """
    layers = summarize(module, exclude)
    return sum(layer.connections for layer in layers) / sum(layer.dense_connections for layer in layers)
