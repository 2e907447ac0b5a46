"""In which order data pass the layers of an actor or a critic."""

from __future__ import annotations

from typing import Any

from torch import nn

from sb3_rlx2.sparse.reachability import stages_of
from sb3_rlx2.sparse.units import LinearLayer


def actor_stages(actor: Any) -> list[list[LinearLayer]]:
    """The layers of an actor after its features extractor, SAC's two heads as one stage.

    :param actor: of a policy of TD3 or SAC, sparse or dense
    :return: a stage for each; those of the heads alone where the order of the layers before them is not known; none
        where nothing is known
    """
    modules = [module for name in ("latent_pi", "mu") if isinstance(module := getattr(actor, name, None), nn.Module)]
    stages = stages_of(*modules) or stages_of(*modules[-1:])
    heads = stages_of(log_std) if isinstance(log_std := getattr(actor, "log_std", None), nn.Module) else []
    if stages and len(heads) == 1:
        stages[-1] += heads[0]
    return stages


def network_stages(network: Any) -> list[list[list[LinearLayer]]]:
    """The layers of each chain of a network: one of an actor, one for each Q-network of a critic.

    :param network: an actor or a critic of a policy of TD3 or SAC, sparse or dense
    :return: the stages of each chain; none for a chain whose order is not known
    """
    if hasattr(network, "q_networks"):
        return [stages_of(q_network) for q_network in network.q_networks]
    return [actor_stages(network)]
