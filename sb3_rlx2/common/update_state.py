"""A model as it was before an update."""

from __future__ import annotations

from collections.abc import Iterable

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.sparse import SparseLinear
from sb3_rlx2.sparse.connections import overwrite


class UpdateState:
    """A copy of all that one update changes: networks, optimizer states, connections and what evolution counts."""

    def __init__(self) -> None:
        self._tensors: list[th.Tensor] = []
        self._copies: list[th.Tensor] = []
        self._kinds: list[tuple[th.Size, th.dtype, th.device]] = []

    @th.no_grad()
    def save(self, model: OffPolicyAlgorithm, optimizers: Iterable[th.optim.Optimizer]) -> None:
        """Copy a model as it is now.

        :param model: an off-policy algorithm
        :param optimizers: all of its optimizers
        """
        modules = list(model.policy.modules())
        self._layers = [module for module in modules if isinstance(module, SparseLinear)]
        self._optimizers = list(optimizers)
        # An evolution replaces moments, so these very tensors go back, too
        self._entries = [
            {
                parameter: {name: entry for name, entry in state.items() if th.is_tensor(entry)}
                for parameter, state in optimizer.state.items()
            }
            for optimizer in self._optimizers
        ]
        # Faster than parameters() and buffers(), which walk through all modules once more, each with its name
        held = [tensor for module in modules for tensor in (*module._parameters.values(), *module._buffers.values())]
        tensors = [tensor for tensor in held if tensor is not None]
        tensors += [p for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]]
        tensors += [entry for states in self._entries for state in states.values() for entry in state.values()]
        tensors = list({id(tensor): tensor for tensor in tensors}.values())
        kinds = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        if kinds == self._kinds:
            th._foreach_copy_(self._copies, tensors)
        else:
            self._copies = [tensor.detach().clone() for tensor in tensors]
        self._tensors, self._kinds = tensors, kinds
        self._counts = [
            (evolver, evolver.counters.copy(), evolver.last_evolution) for evolver in attached_evolvers(model).values()
        ]

    @th.no_grad()
    def restore(self) -> None:
        """Put everything back. It does no harm to do that twice."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            overwrite(tensor, copy)
        for optimizer, states in zip(self._optimizers, self._entries, strict=True):
            for parameter in optimizer.state.keys() - states.keys():
                del optimizer.state[parameter]
            for parameter, entries in states.items():
                optimizer.state[parameter].update(entries)
        for layer in self._layers:
            layer.topology_version += 1
        for evolver, counters, last_evolution in self._counts:
            evolver.go_back(counters, last_evolution)
