"""Topology evolution of a Stable-Baselines3 model's actor and critic."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_rlx2.common.buffers import check_count
from sb3_rlx2.sparse import Evolution, TopologyEvolver, TopologyRule, resolve_rule, sparse_layers
from sb3_rlx2.sparse.evolution import check_drop_fraction, check_interval

NETWORKS = ("actor", "critic")


def networks(model: OffPolicyAlgorithm) -> dict[str, nn.Module]:
    """The online networks of a model's policy, by name."""
    return {name: getattr(model.policy, name) for name in NETWORKS if hasattr(model.policy, name)}


class TopologySettings(NamedTuple):
    """How topology evolves.

    :param topology: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule``
    :param interval: ΔT, in gradient updates of each network
    :param end: environment steps at which evolution has annealed to nothing; None: the end of the current ``learn``
    :param drop_fraction: ζ0
    """

    topology: str | TopologyRule
    interval: int
    end: int | None
    drop_fraction: float

    def check(self) -> None:
        """Raise a ValueError that names the first setting that is out of range."""
        resolve_rule(self.topology)
        check_interval(self.interval, "topology_interval")
        check_drop_fraction(self.drop_fraction)
        if self.end is not None:
            check_count(self.end, "topology_end", 1)


def evolve_topology(model: OffPolicyAlgorithm, settings: TopologySettings) -> dict[str, TopologyEvolver]:
    """Let the topology of a model's actor and critic evolve from now on. A second call changes nothing.

    The updates and evolutions so far stand in ``model.topology_counters``, which is saved with the model.

    :param model: an algorithm with a sparse policy that has ``actor`` and ``critic``, each with its ``optimizer``
    :param settings: how
    :return: the evolver of each network by name
    :raises ValueError: if a setting is out of range, or a sparse layer belongs to two networks
    """
    settings.check()
    policy = model.policy
    if "topology_evolvers" not in policy.__dict__:
        # On the policy, not the model: a new policy (load) needs new ones, and the model's attributes are pickled
        policy.__dict__["topology_evolvers"] = {name: _evolver(model, name, settings) for name in networks(model)}
    return cast(dict[str, TopologyEvolver], policy.__dict__["topology_evolvers"])


def _evolver(model: OffPolicyAlgorithm, name: str, settings: TopologySettings) -> TopologyEvolver:
    network = networks(model)[name]
    optimizer = cast(th.optim.Optimizer, network.optimizer)
    layers = sparse_layers(network)
    target = getattr(model.policy, f"{name}_target", None)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    elsewhere = {
        id(layer)
        for other, module in networks(model).items()
        if other != name
        for layer in sparse_layers(module).values()
    }
    for layer_name, layer in layers.items():
        if id(layer.values) not in held or id(layer) in elsewhere:
            raise ValueError(
                f"sparse layer {layer_name!r} of the {name} is shared between actor and critic "
                "(share_features_extractor=True): it cannot evolve; keep shared layers dense"
            )

    def progress(updates: int) -> float:
        # In environment steps after the random first ones: for the updates of either network the same fraction
        end = model._total_timesteps if settings.end is None else settings.end
        if end == 0:  # train() before any learn(): the end is not known yet
            return 0.0
        start = model.learning_starts
        return (model.num_timesteps - start) / (end - start) if end > start else 1.0

    def log(evolution: Evolution) -> None:
        if hasattr(model, "_logger"):
            for key in ("dropped", "grown", "drop_fraction"):
                model.logger.record(f"rlx2/{name}_{key}", getattr(evolution, key))

    return TopologyEvolver(
        layers,
        optimizer,
        resolve_rule(settings.topology),
        interval=settings.interval,
        drop_fraction=settings.drop_fraction,
        progress=progress,
        mirrors={} if target is None else {key: [layer] for key, layer in sparse_layers(target).items()},
        counters=model.__dict__.setdefault("topology_counters", {}).setdefault(name, {"updates": 0, "evolutions": 0}),
        on_evolution=log,
    )
