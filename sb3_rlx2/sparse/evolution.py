"""Prune and grow while an optimizer trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, cast

import torch as th
from typing_extensions import NotRequired

from sb3_rlx2.sparse.checks import check_callable, check_count, check_drop_fraction
from sb3_rlx2.sparse.connections import Relocation, relocate
from sb3_rlx2.sparse.layers import SparseLinear
from sb3_rlx2.sparse.reachability import keep_paths, stages_problem, unreachable_outputs
from sb3_rlx2.sparse.rules import (
    Exchange,
    TopologyName,
    TopologyRule,
    next_connections,
    resolve_rule,
)
from sb3_rlx2.sparse.schedules import Schedule, budget_moves
from sb3_rlx2.sparse.unit_norm import unit_norms
from sb3_rlx2.sparse.units import Stages


class EvolutionCounters(TypedDict):
    """What has to survive in a checkpoint.

    :param updates: optimizer steps of the network so far, those skipped at an evolution included
    :param evolutions: how many times its topology has evolved
    :param clock: what the evolver's clock said at the last of these steps, if it has one
    """

    updates: int
    evolutions: int
    clock: NotRequired[int]


class Evolution(NamedTuple):
    """What one evolution step did.

    :param update: number of the update of this network at which it happened, counted from 1
    :param drop_fraction: ζ_t, the fraction of connections that were dropped and regrown
    :param layers: connections dropped and grown by layer name
    """

    update: int
    drop_fraction: float
    layers: Mapping[str, Relocation]

    @property
    def dropped(self) -> int:
        """Connections dropped in the whole network."""
        return sum(layer.dropped for layer in self.layers.values())

    @property
    def grown(self) -> int:
        """Connections grown in the whole network."""
        return sum(layer.grown for layer in self.layers.values())


class TopologyEvolver:
    """Evolves the topology of one network every ``interval`` steps of its optimizer.

    It listens to the optimizer: just before every ``interval``-th step it prunes and grows every layer and clears all
    gradients of that optimizer, so that this step changes nothing more (RLx2, algorithm 1; RigL, algorithm 1). At the
    first step a warning names layers that have so few connections that none is ever dropped. Gradients are those of
    this process: replicas that are trained in parallel would grow different connections.

    :param layers: the network's sparse layers by name (``sparse_layers``)
    :param optimizer: the optimizer of the network, which holds each layer's ``values`` unless they are frozen
        (``requires_grad`` False); its moments follow the connections
    :param rule: which connections go and come: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule``
    :param interval: ΔT, in optimizer steps of this network, or in what ``clock`` counts, default 10,000
    :param drop_fraction: ζ0, the fraction of each layer's connections that is dropped and regrown at first,
        annealed to nothing by a cosine; default 0.5
    :param progress: maps the number of updates so far to the progress of training; evolution ends when it reaches 1
    :param clock: counts what else ``interval`` is in, such as environment steps: the topology then evolves at the first
        optimizer step after each multiple of it, but never at the very first. Call ``prepare`` when it has moved on,
        before the forward pass.
        Default: none
    :param mirrors: by layer name, further layers that keep the same connections (target networks,
        ``torch.optim.swa_utils.AveragedModel``), default none
    :param chains: networks whose outputs are never to lose their last path, each as its layers in the order in which
        data pass them (``stages_of``); default: none
    :param counters: where to go on counting; the dict is updated in place, so that its owner can save it; None
        (default): from 0
    :param on_evolution: called after each evolution with what it did; None (default): nothing is
    :raises ValueError: if an argument is of the wrong type or out of range, the optimizer does not hold the ``values``
        of a layer or has an evolver already, or the connections of a mirror differ from its layer's; and by
        ``optimizer.step``, if it is given a closure
    """

    def __init__(
        self,
        layers: Mapping[str, SparseLinear],
        optimizer: th.optim.Optimizer,
        rule: TopologyName | TopologyRule,
        *,
        interval: int = 10_000,
        drop_fraction: float = 0.5,
        progress: Callable[[int], float],
        clock: Callable[[], int] | None = None,
        mirrors: Mapping[str, Sequence[SparseLinear]] | None = None,
        chains: Sequence[Stages] = (),
        counters: EvolutionCounters | None = None,
        on_evolution: Callable[[Evolution], None] | None = None,
    ) -> None:
        self.layers = _checked_layers(layers)
        self.optimizer = _checked_optimizer(optimizer, self.layers)
        self.rule = resolve_rule(rule, "rule")
        self.interval = check_count(interval, "interval", 1)
        self.drop_fraction = check_drop_fraction(drop_fraction)
        self.progress = check_callable(progress, "progress")
        self.clock = None if clock is None else check_callable(clock, "clock")
        self.mirrors = _checked_mirrors({} if mirrors is None else mirrors, self.layers)
        self.chains = _checked_chains(chains)
        self.counters = _checked_counters({"updates": 0, "evolutions": 0} if counters is None else counters)
        self.on_evolution = None if on_evolution is None else check_callable(on_evolution, "on_evolution")
        self.last_evolution: Evolution | None = None
        self._checked_versions = self._counted_version = -1
        self._unreachable_outputs = 0
        self._has_warned = False
        self._holders = [*self.layers.values(), *(mirror for mirrors in self.mirrors.values() for mirror in mirrors)]
        self.check_mirrors()
        if self.clock is None:
            self.counters.pop("clock", None)
        self.prepare()
        self._handle = optimizer.register_step_pre_hook(self._before_step)

    def close(self) -> None:
        """Stop listening to the optimizer."""
        self._handle.remove()
        for layer in self.layers.values():
            layer.release_dense_grad()

    @property
    def steps_until_due(self) -> int | None:
        """Optimizer steps up to and including the next one at which the topology may evolve; None: it never does."""
        if not (self.layers and self.rule.evolves):
            return None
        if self.clock is not None:  # until it moves on
            return 1 if self._is_due(self.counters["updates"] + 1) else None
        return self.interval - self.counters["updates"] % self.interval

    @property
    def evolves_next(self) -> bool:
        """Whether the topology evolves at the next step of the optimizer."""
        update = self.counters["updates"] + 1
        return self._is_due(update) and self.progress(update) < 1.0

    @property
    def unreachable_outputs(self) -> int:
        """How many outputs of the chains no path leads to from any input."""
        version = sum([layer.topology_version for layer in self.layers.values()])
        if version != self._counted_version:
            outputs = [outputs for stages in self.chains for outputs in unreachable_outputs(stages)]
            self._unreachable_outputs = sum(int(unreachable.sum()) for unreachable in outputs)
            self._counted_version = version
        return self._unreachable_outputs

    def count(self, updates: int) -> None:
        """Count optimizer steps that were made without ``optimizer.step``, none of them one that evolves.

        :param updates: how many
        """
        if not self._has_warned:
            self.warn_of_layers_that_stay()
        due, after = self.steps_until_due, self.counters["updates"] + updates
        if due is not None and due <= updates:  # a due step after evolution's end
            for layer in self.layers.values():
                layer.release_dense_grad()
        if self.clock is not None:
            self.counters["clock"] = self.clock()
        self._prepare_for(after + 1)
        self.counters["updates"] = after  # last: after Ctrl-C on the way here it can be called again

    def evolve_with(self, gradients: Mapping[SparseLinear, th.Tensor]) -> None:
        """Evolve at this step, for which the gradients were computed without autograd. It counts as a step.

        :param gradients: the gradient [out_features, in_features] of each layer, present and absent connections alike
        """
        for layer in self.layers.values():
            layer.set_dense_grad(gradients[layer])
        self._before_step(self.optimizer, (), {})
        for norm in unit_norms(self.optimizer):
            norm.normalize()

    def go_back(self, counters: EvolutionCounters, last_evolution: Evolution | None) -> None:
        """Count from where it was before, for code that takes an update back and puts back all tensors itself.

        :param counters: the counters as they were
        :param last_evolution: the last evolution that then was
        """
        for layer in self.layers.values():
            layer.release_dense_grad()
            layer.values.grad = None
        self.counters.pop("clock", None)
        self.counters.update(counters)
        self.last_evolution = last_evolution
        self.prepare()

    def prepare(self) -> None:
        """Collect dense gradients from the next forward pass on if the topology evolves at the next step by them.

        The evolver does this by itself after each step; a clock may have moved on since then.
        """
        self._prepare_for(self.counters["updates"] + 1)

    def _is_due(self, update: int) -> bool:
        if not (self.layers and self.rule.evolves):
            return False
        if self.clock is None:
            return update % self.interval == 0
        now, last = self.clock(), self.counters.get("clock")
        # Never at the first step of all; and the clock may have begun anew
        return last is not None and last <= now and last // self.interval < now // self.interval

    def _prepare_for(self, update: int) -> None:
        if self.rule.needs_dense_grad and self._is_due(update):
            for layer in self.layers.values():
                layer.request_dense_grad()

    def _before_step(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.rule.evolves and (kwargs.get("closure") or any(args[1:])):
            raise ValueError(
                "optimizer.step(closure) is not allowed while a topology evolves, which it does before the closure has "
                "computed gradients: call backward() first, and step() without one"
            )
        if not self._has_warned:
            self.warn_of_layers_that_stay()
        self.counters["updates"] += 1
        update = self.counters["updates"]
        is_due = self._is_due(update)
        if self.clock is not None:
            self.counters["clock"] = self.clock()
        if is_due:
            if self.progress(update) < 1.0:
                self._evolve(update)
                _clear_gradients(optimizer)
            for layer in self.layers.values():
                layer.release_dense_grad()
        self.prepare()

    def _evolve(self, update: int) -> None:
        progress = self.progress(update)
        fraction = self.rule.schedule.drop_fraction(self.drop_fraction, progress)
        budget = _checked_budget(self.rule.budget.connections(self.layers, progress), self.layers)
        exchanges: dict[SparseLinear, Exchange] = {}
        for name, layer in self.layers.items():
            # As for an optimizer, a layer that took no part in the loss is left alone
            if layer.values.grad is None:
                continue
            if self.rule.needs_dense_grad and layer.dense_grad is None:
                raise RuntimeError(
                    f"layer {name!r} has a gradient but no dense gradient at update {update}: "
                    "its forward pass must come after the optimizer's previous step, and not be scripted"
                )
            try:
                exchanges[layer] = next_connections(layer, self.rule, fraction, budget[name])
            except ValueError as error:
                raise ValueError(f"layer {name!r}, update {update}: {error}") from error
        indices = {layer: exchange.indices for layer, exchange in exchanges.items()}
        for stages in self.chains:
            indices |= keep_paths(stages, exchanges)
        done = {
            name: relocate(layer, indices[layer], mirrors=self.mirrors.get(name, ()), optimizers=[self.optimizer])
            for name, layer in self.layers.items()
            if layer in indices
        }
        self.counters["evolutions"] += 1
        self.last_evolution = Evolution(update, fraction, done)
        if self.on_evolution is not None:
            self.on_evolution(self.last_evolution)

    def warn_of_layers_that_stay(self) -> None:
        """Warn once of layers that never evolve, since ``floor(drop_fraction * connections)`` is 0.

        Of rules with a schedule or a budget of their own nothing is known beforehand.
        """
        is_annealed = type(self.rule.schedule) is Schedule and not budget_moves(self.rule.budget)
        few = [
            f"{name!r} ({layer.nnz})"
            for name, layer in self.layers.items()
            if self.rule.evolves and is_annealed and math.floor(self.drop_fraction * layer.nnz) == 0
        ]
        if few and not self._has_warned:
            warnings.warn(
                f"layers with too few connections never evolve, since floor(drop_fraction * connections) is 0: "
                f"{', '.join(few)} with drop_fraction={self.drop_fraction}",
                stacklevel=3,
            )
        self._has_warned = True

    def check_mirrors(self) -> None:
        """Raise a ValueError that names the first layer whose mirrors have other connections than itself.

        Loading parameters into one network alone does that; averaging the two would mix up their connections.
        """
        versions = sum([layer.topology_version for layer in self._holders])
        if versions == self._checked_versions:
            return
        for name, layer in self.layers.items():
            for mirror in self.mirrors.get(name, ()):
                if not th.equal(layer.indices, mirror.indices):
                    raise ValueError(
                        f"layer {name!r} and its mirror (target network, average) have different connections: "
                        "parameters were loaded into one of them only, or it is no copy; load the same into both"
                    )
        self._checked_versions = versions


def _clear_gradients(optimizer: th.optim.Optimizer) -> None:
    parameters: Iterable[th.Tensor] = (p for group in optimizer.param_groups for p in group["params"])
    for parameter in parameters:
        parameter.grad = None


def _checked_budget(budget: Any, layers: Mapping[str, SparseLinear]) -> Mapping[str, int]:
    if not isinstance(budget, Mapping) or set(budget) != set(layers):
        raise ValueError(f"the rule's budget is {budget!r}: it must have a number for each of {list(layers)}")
    for name, layer in layers.items():
        most = layer.in_features * layer.out_features
        if check_count(budget[name], f"budget[{name!r}]", 1) > most:
            raise ValueError(f"budget[{name!r}]={budget[name]!r} is not allowed: the layer has {most} weights")
    return budget


def _checked_layers(layers: Any) -> dict[str, SparseLinear]:
    if not isinstance(layers, Mapping):
        raise ValueError(
            f"layers is a {type(layers).__name__}: it must be a mapping of names to SparseLinear, such as "
            "sparse_layers(network)"
        )
    for name, layer in layers.items():
        if not isinstance(layer, SparseLinear):
            raise ValueError(f"layers[{name!r}] is a {type(layer).__name__}, not a SparseLinear")
    return dict(layers)


def _checked_optimizer(optimizer: Any, layers: Mapping[str, SparseLinear]) -> th.optim.Optimizer:
    if not isinstance(optimizer, th.optim.Optimizer):
        raise ValueError(f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    hooks = optimizer._optimizer_step_pre_hooks.values()
    if layers and any(isinstance(getattr(hook, "__self__", None), TopologyEvolver) for hook in hooks):
        raise ValueError(
            "optimizer has a TopologyEvolver already, which clears all of its gradients: close() that one, or give one "
            "evolver all layers"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, layer in layers.items():
        if layer.values.requires_grad and id(layer.values) not in held:
            raise ValueError(
                f"optimizer does not hold the values of layer {name!r}: make the optimizer after `sparsify`, from the "
                "network's parameters, or pass the one that holds them"
            )
    return optimizer


def _checked_mirrors(mirrors: Any, layers: Mapping[str, SparseLinear]) -> dict[str, list[SparseLinear]]:
    shape = "a mapping of names in `layers` to lists of SparseLinear"
    if not isinstance(mirrors, Mapping):
        raise ValueError(f"mirrors is a {type(mirrors).__name__}: it must be {shape}")
    for name, copies in mirrors.items():
        if name not in layers:
            raise ValueError(f"mirrors: {name!r} is none of the layers {list(layers)}")
        if not isinstance(copies, (list, tuple)) or not all(isinstance(layer, SparseLinear) for layer in copies):
            raise ValueError(f"mirrors[{name!r}] is {copies!r}: mirrors must be {shape}")
    holders = [*layers.values(), *(layer for copies in mirrors.values() for layer in copies)]
    if len({id(layer) for layer in holders}) < len(holders):
        raise ValueError("layers, mirrors: a layer is there twice, and would be changed twice")
    return {name: list(copies) for name, copies in mirrors.items()}


def _checked_chains(chains: Any) -> list[Stages]:
    if not isinstance(chains, (list, tuple)):
        raise ValueError(f"chains is a {type(chains).__name__}: it must be a list of networks, each as from stages_of")
    for number, stages in enumerate(chains):
        problem = stages_problem(stages)
        if problem is not None:
            raise ValueError(f"chains[{number}]: {problem}")
    return list(chains)


def _checked_counters(counters: Any) -> EvolutionCounters:
    if not isinstance(counters, dict) or counters.keys() - {"clock"} != {"updates", "evolutions"}:
        raise ValueError(f"counters={counters!r} is not allowed: it must be a dict of 'updates' and 'evolutions'")
    for name, count in counters.items():
        check_count(count, f"counters[{name!r}]", 0)
    return cast(EvolutionCounters, counters)
