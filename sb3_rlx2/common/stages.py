"""In which order data pass the layers of a network of a policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from sb3_rlx2.sparse import linear_layers
from sb3_rlx2.sparse.reachability import stages_of
from sb3_rlx2.sparse.units import LinearLayer, is_linear_layer

VALUE_LAYERS = ("q_net", "quantile_net")
"""Attributes of value networks of discrete actions."""


def actor_stages(actor: Any) -> list[list[LinearLayer]]:
    """The layers of an actor after its features extractor, SAC's two heads as one stage.

    :param actor: of a policy of TD3 or SAC, sparse or dense
    :return: a stage for each; those of the heads alone where the order of the layers before them is not known, as with
        residual blocks; none where nothing is known
    """
    modules = [module for name in ("latent_pi", "mu") if isinstance(module := getattr(actor, name, None), nn.Module)]
    stages = stages_of(*modules) or stages_of(*modules[-1:]) or _last_stage(*modules[-1:])
    heads = stages_of(log_std) if isinstance(log_std := getattr(actor, "log_std", None), nn.Module) else []
    if stages and len(heads) == 1:
        stages[-1] += heads[0]
    return stages


def network_stages(network: Any) -> list[list[list[LinearLayer]]]:
    """The layers of each chain of a network: one of an actor or a value network, one for each Q-network of a critic.

    :param network: an actor, a critic or a network of DQN or QR-DQN, sparse or dense
    :return: the stages of each chain; the last layer alone where the order of those before it is not known, as with
        residual blocks; none where nothing is known
    """
    if hasattr(network, "q_networks"):
        return [stages_of(q_network) or _last_stage(q_network) for q_network in network.q_networks]
    values = value_layers(network)
    return [actor_stages(network) if values is None else stages_of(values) or _last_stage(values)]


def _last_stage(*networks: nn.Module) -> list[list[LinearLayer]]:
    """The last layer alone, whatever comes before it; none where it is not known."""
    modules = [module for network in networks if isinstance(network, nn.Sequential) for module in network]
    last = _foremost(reversed(modules))
    return [] if last is None else [[last]]


def first_layer(*modules: nn.Module) -> LinearLayer | None:
    """The layer that reads what modules are given, whatever comes after it; None where it is not known.

    :param modules: applied one after the other
    """
    return _foremost(
        child for module in modules for child in (module if isinstance(module, nn.Sequential) else [module])
    )


def _foremost(modules: Iterable[nn.Module]) -> LinearLayer | None:
    """The first of some modules that have linear layers, if it is one itself."""
    found = next((module for module in modules if linear_layers(module)), None)
    return found if found is not None and is_linear_layer(found) else None


def value_layers(network: nn.Module) -> nn.Module | None:
    """The layers of a value network of discrete actions after its features extractor; None for other networks.

    :param network: such as DQN's or QR-DQN's
    """
    return next((module for name in VALUE_LAYERS if (module := network._modules.get(name)) is not None), None)
