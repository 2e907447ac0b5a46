"""What a module of the user's does, found by tracing its forward pass symbolically with ``torch.fx``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch as th
from torch import fx, nn
from torch.nn import functional as F

IN_PLACE: tuple[Any, ...] = (operator.iadd, "add_")
"""Additions whose result takes the place of their first operand."""
ADDITIONS: tuple[Any, ...] = (operator.add, th.add, "add", *IN_PLACE)
FUNCTIONS: dict[Any, Callable[[], nn.Module]] = {
    th.relu: nn.ReLU,
    F.relu: nn.ReLU,
    "relu": nn.ReLU,
    th.tanh: nn.Tanh,
    F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    F.silu: nn.SiLU,
}


class _Proxy(fx.Proxy):
    """Tells ``y += x``, which changes y for all who read it, from ``y = y + x``."""

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):
    """Stops at modules that have a translation."""

    def __init__(self, is_translated: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self._is_translated = is_translated

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return self._is_translated(module)


def traced(module: nn.Module, is_translated: Callable[[nn.Module], bool]) -> fx.Graph | None:
    """The operations of a module's forward pass; None if they depend on data or on whether it is training.

    :param module: the module; its ``forward`` runs with stand-ins for tensors
    :param is_translated: which modules below it are an operation each
    """
    graphs = []
    was_training = module.training
    try:
        for mode in (not was_training, was_training):
            module.training = mode
            graphs.append(_Tracer(is_translated).trace(module))
    except Exception:  # user code may raise anything when it meets a stand-in
        return None
    finally:
        module.training = was_training
    first, second = ([(n.op, n.target, str(n.args), str(n.kwargs)) for n in graph.nodes] for graph in graphs)
    return graphs[0] if first == second else None
