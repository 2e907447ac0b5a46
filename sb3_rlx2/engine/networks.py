"""Which networks a policy has: those that learn, the one that acts, their targets and their optimizers."""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

LEARNING = ("actor", "critic", "q_net", "quantile_net")
"""Attributes under which policies hold a network that learns: actor and critics, DQN's, QR-DQN's."""
ACTING = ("actor", "q_net", "quantile_net")
"""Those of them that give the action; a policy has one."""
NETWORKS = tuple(name for online in LEARNING for name in (online, f"{online}_target"))
"""Those that learn, each followed by its target network."""


def learning_networks(policy: nn.Module) -> dict[str, nn.Module]:
    """The networks of a policy that learn, by name.

    :param policy: a policy of Stable-Baselines3 or sb3-contrib
    """
    return {name: network for name in LEARNING if (network := policy._modules.get(name)) is not None}


def acting_network(policy: nn.Module) -> str | None:
    """Name of the network that gives the action; None if it is not known.

    :param policy: a policy of Stable-Baselines3 or sb3-contrib
    """
    return next((name for name in ACTING if policy._modules.get(name) is not None), None)


def optimizer_of(policy: nn.Module, name: str) -> th.optim.Optimizer:
    """The optimizer of a network; a policy with one network that learns has the optimizer itself.

    :param policy: a policy of Stable-Baselines3 or sb3-contrib
    :param name: name of the network
    """
    network: Any = policy._modules[name]
    optimizer: th.optim.Optimizer | None = vars(network).get("optimizer")
    return vars(policy)["optimizer"] if optimizer is None else optimizer
