"""Topology evolution of the networks of a Stable-Baselines3 model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn

from sb3_rlx2.common.clocks import TIMESTEPS, UPDATES, Interval, read_clock
from sb3_rlx2.common.stages import network_stages
from sb3_rlx2.common.topology_rules import Topology, check_topology, resolve_rules
from sb3_rlx2.engine.networks import learning_networks, optimizer_of
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.sparse import Evolution, TopologyEvolver, density, relocate, sparse_layers
from sb3_rlx2.sparse.checks import check_drop_fraction
from sb3_rlx2.sparse.layers import index_problem
from sb3_rlx2.sparse.schedules import budget_moves

EVOLVERS = "topology_evolvers"


def networks(model: OffPolicyAlgorithm) -> dict[str, nn.Module]:
    """The online networks of a model's policy, by name."""
    return learning_networks(uncompiled_policy(model))


def has_sparse_layers(model: OffPolicyAlgorithm) -> bool:
    """Whether any online network of a model has a sparse layer."""
    return any(map(sparse_layers, networks(model).values()))


def network_density(network: nn.Module) -> float:
    """Fraction of the weights of a network's linear layers that are present; a dense features extractor is left out.

    :param network: such as an actor or a critic
    """
    extractor = cast(nn.Module, network.features_extractor)
    return density(network, exclude=() if sparse_layers(extractor) else (extractor,))


class TopologySettings(NamedTuple):
    """How topology evolves.

    :param topology: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule``; or a dict with one of these
        for each network
    :param interval: ΔT, in gradient updates of each network, or ``(number, "timesteps")``
    :param end: environment steps at which evolution has annealed to nothing, or ``(number, "updates")``, in gradient
        updates of each network; None: the end of the current ``learn``
    :param drop_fraction: ζ0
    """

    topology: Topology
    interval: Interval
    end: Interval | None
    drop_fraction: float

    def check(self) -> None:
        """Raise a ValueError that names the first setting that is out of range."""
        check_topology(self.topology)
        read_clock(self.interval, "topology_interval")
        check_drop_fraction(self.drop_fraction)
        if self.end is not None:
            read_clock(self.end, "topology_end")


def evolve_topology(model: OffPolicyAlgorithm, settings: TopologySettings) -> dict[str, TopologyEvolver]:
    """Let the topology of a model's networks evolve from now on.

    A second call with the same settings changes nothing; with others, or after an optimizer was replaced, evolution
    goes on with those. The updates and evolutions so far stand in ``model.topology_counters``, which is saved with the
    model.

    :param model: an algorithm with a sparse policy
    :param settings: how
    :return: the evolver of each network by name
    :raises ValueError: if a setting is out of range, a sparse layer belongs to two networks, or a network and its
        target have different connections
    """
    policy = uncompiled_policy(model)
    attached: _Attached | None = policy.__dict__.get(EVOLVERS)
    optimizers = {name: optimizer_of(policy, name) for name in networks(model)}
    if attached is None or attached.settings != settings or attached.optimizers != optimizers:
        settings.check()
        detach_topology(model)
        evolvers: dict[str, TopologyEvolver] = {}
        try:
            for name in optimizers:
                evolvers[name] = _evolver(model, name, settings)
        except ValueError:
            for evolver in evolvers.values():
                evolver.close()
            raise
        attached = _Attached(settings, optimizers, evolvers)
        # On the policy, not the model: a new policy (load) needs new ones, and the model's attributes are pickled
        policy.__dict__[EVOLVERS] = attached
    for evolver in attached.evolvers.values():
        evolver.check_mirrors()
        evolver.prepare()
    return attached.evolvers


def watch_evolution(watch: Watch, model: OffPolicyAlgorithm) -> None:
    """Watch what ``evolve_topology`` goes by, beside networks and optimizers.

    :param watch: what is read through
    :param model: an RLx2 algorithm
    """
    attributes = vars(model)
    for name in ("topology", "topology_interval", "topology_end", "drop_fraction"):
        watch.item(attributes, name)
    if isinstance(attributes["topology"], dict):
        watch.items(attributes["topology"])
    watch.item(vars(uncompiled_policy(model)), EVOLVERS)


def follow_budgets(model: OffPolicyAlgorithm, topology: Topology, saved: Mapping[str, th.Tensor]) -> None:
    """Give layers the connections that a saved policy has, if their number may differ: where a rule's budget moves.

    :param model: an algorithm with a sparse policy
    :param topology: its rules
    :param saved: the policy's state dict; layers to which it does not fit stay as they are
    """
    online = networks(model)
    for name, rule in resolve_rules(topology, online).items():
        if not budget_moves(rule.budget):
            continue
        target = sparse_layers(getattr(model.policy, f"{name}_target", nn.Module()))
        for key, layer in sparse_layers(online[name]).items():
            indices = saved.get(f"{name}.{key}.indices")
            size = layer.in_features * layer.out_features
            if indices is not None and len(indices) and index_problem(indices, len(indices), size) is None:
                mirrors = [target[key]] if key in target else []
                optimizer = optimizer_of(uncompiled_policy(model), name)
                relocate(layer, indices, mirrors=mirrors, optimizers=[optimizer])


def detach_topology(model: OffPolicyAlgorithm) -> None:
    """Let the topology of a model stay as it is from now on.

    :param model: an off-policy model, whose evolvers are closed
    """
    attached: _Attached | None = uncompiled_policy(model).__dict__.pop(EVOLVERS, None)
    for evolver in () if attached is None else attached.evolvers.values():
        evolver.close()


def attached_evolvers(model: OffPolicyAlgorithm) -> dict[str, TopologyEvolver]:
    """The evolvers that now listen to a model's optimizers, by network; empty if there are none."""
    attached: _Attached | None = uncompiled_policy(model).__dict__.get(EVOLVERS)
    return {} if attached is None else attached.evolvers


def uncompiled_policy(model: OffPolicyAlgorithm) -> nn.Module:
    """A model's policy, not what ``torch.compile`` made of it.

    :param model: an off-policy algorithm
    """
    # Asking a module for an attribute that it lacks takes long
    return cast(nn.Module, model.policy._modules.get("_orig_mod", model.policy))


class _Attached(NamedTuple):
    settings: TopologySettings
    optimizers: dict[str, Any]
    evolvers: dict[str, TopologyEvolver]


def _evolver(model: OffPolicyAlgorithm, name: str, settings: TopologySettings) -> TopologyEvolver:
    network = networks(model)[name]
    optimizer = optimizer_of(uncompiled_policy(model), name)
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

    interval = read_clock(settings.interval, "topology_interval")
    end_clock = None if settings.end is None else read_clock(settings.end, "topology_end")
    owner = weakref.ref(model)  # no cycle: the model owns the policy, which owns its evolvers

    def progress(updates: int) -> float:
        model = owner()
        if model is None:  # the policy outlived its model: its topology stays
            return 1.0
        # In environment steps after the random first ones: for the updates of either network the same fraction
        if end_clock is not None and end_clock.unit == UPDATES:
            return updates / end_clock.number
        end = model._total_timesteps if end_clock is None else end_clock.number
        if end == 0:  # train() before any learn(): the end is not known yet
            return 0.0
        start = model.learning_starts
        return max(model.num_timesteps - start, 0) / (end - start) if end > start else 1.0

    def timesteps() -> int:
        model = owner()
        return 0 if model is None else model.num_timesteps

    def log(evolution: Evolution) -> None:
        model = owner()
        if model is not None and hasattr(model, "_logger"):
            for key in ("dropped", "grown", "drop_fraction"):
                model.logger.record(f"rlx2/{name}_{key}", getattr(evolution, key))

    return TopologyEvolver(
        layers,
        optimizer,
        resolve_rules(settings.topology, networks(model))[name],
        interval=interval.number,
        clock=timesteps if interval.unit == TIMESTEPS else None,
        drop_fraction=settings.drop_fraction,
        progress=progress,
        mirrors={} if target is None else {key: [layer] for key, layer in sparse_layers(target).items()},
        chains=[stages for stages in network_stages(network) if stages],
        counters=model.__dict__.setdefault("topology_counters", {}).setdefault(name, {"updates": 0, "evolutions": 0}),
        on_evolution=log,
    )
