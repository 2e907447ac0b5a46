"""A model as it was before an update."""

from __future__ import annotations

from collections.abc import Iterable

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.sparse import SparseLinear


class UpdateState:
    """A copy of all that one update changes: networks, optimizer states, connections and what evolution counts.

    :param model: an off-policy algorithm
    :param optimizers: all of its optimizers
    """

    def __init__(self, model: OffPolicyAlgorithm, optimizers: Iterable[th.optim.Optimizer]) -> None:
        self._evolvers = attached_evolvers(model)
        self._layers = [module for module in model.policy.modules() if isinstance(module, SparseLinear)]
        states = [state for optimizer in optimizers for state in optimizer.state.values()]
        # An evolution replaces moments, so these very tensors go back, too
        self._entries = [(state, {k: v for k, v in state.items() if th.is_tensor(v)}) for state in states]
        parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        tensors = [*model.policy.parameters(), *model.policy.buffers(), *parameters]
        tensors += [tensor for _, entries in self._entries for tensor in entries.values()]
        self._copies = [
            (tensor, tensor.detach().clone()) for tensor in {id(tensor): tensor for tensor in tensors}.values()
        ]
        self._counts = {
            name: (evolver.counters.copy(), evolver.last_evolution) for name, evolver in self._evolvers.items()
        }

    @th.no_grad()
    def restore(self) -> None:
        """Put everything back. It does no harm to do that twice."""
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        for state, entries in self._entries:
            state.update(entries)
        for layer in self._layers:
            layer.topology_version += 1
        for name, evolver in self._evolvers.items():
            evolver.go_back(*self._counts[name])
