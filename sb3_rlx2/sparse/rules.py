"""Which connections go and which come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch as th

from sb3_rlx2.sparse.checks import check_number
from sb3_rlx2.sparse.layers import SparseLinear
from sb3_rlx2.sparse.schedules import Budget, Schedule

TopologyName = Literal["rigl", "set", "static", "dense"]


class TopologyRule:
    """Drop the connections of lowest score, grow the absent ones of highest score.

    A new rule is a subclass that overrides one of the two scores, or has another schedule or budget. As it
    stands this is SET: drop by magnitude, grow at random.
    """

    sparse: ClassVar[bool] = True
    """Whether networks are sparse under this rule at all."""
    evolves: ClassVar[bool] = True
    """Whether connections ever move."""
    needs_dense_grad: ClassVar[bool] = False
    """Whether ``growth_score`` reads ``layer.dense_grad``, the gradient of the current batch at all positions."""

    schedule: Schedule = Schedule()
    """Which fraction of its connections a layer drops and regrows."""
    budget: Budget = Budget()
    """How many connections each layer has afterwards."""

    def drop_score(self, layer: SparseLinear) -> th.Tensor:
        """How much each present connection is worth; the lowest go. Default: the magnitude of its value.

        :param layer: the layer as it is
        :return: [nnz]
        """
        return layer.values.detach().abs()

    def growth_score(self, layer: SparseLinear) -> th.Tensor:
        """A score of each position; of those absent the highest come. Default: random.

        :param layer: the layer as it is; ``layer.dense_grad`` is there if the rule ``needs_dense_grad``
        :return: [out_features, in_features]
        """
        return th.rand(layer.out_features, layer.in_features, dtype=th.float32, device=layer.values.device)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SET(TopologyRule):
    """Sparse Evolutionary Training: drop by magnitude, grow at random (Mocanu et al., 2018)."""


class RigL(SET):
    """Rigged Lottery: drop by magnitude, grow where the dense gradient is largest (Evci et al., 2020)."""

    needs_dense_grad = True

    def growth_score(self, layer: SparseLinear) -> th.Tensor:
        """Magnitude of the dense gradient of the current batch.

        :param layer: the layer as it is, with its ``dense_grad``
        :return: [out_features, in_features]
        """
        assert layer.dense_grad is not None
        return layer.dense_grad.abs()


class StaticTopology(TopologyRule):
    """Sparse, and the connections stay where they were at first (the paper's "SS")."""

    evolves = False


class DenseTopology(StaticTopology):
    """Nothing is sparse: the dense network."""

    sparse = False


RULES: Mapping[str, type[TopologyRule]] = {
    "rigl": RigL,
    "set": SET,
    "static": StaticTopology,
    "dense": DenseTopology,
}


def resolve_rule(topology: TopologyName | str | TopologyRule, argument: str = "topology") -> TopologyRule:
    """The rule that a name stands for; a rule object stands for itself.

    :param topology: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule``
    :param argument: what the error calls it, default ``"topology"``
    :raises ValueError: for anything else
    """
    if isinstance(topology, TopologyRule):
        return topology
    if not isinstance(topology, str) or topology not in RULES:
        raise ValueError(f"{argument}={topology!r} is unknown: allowed are {sorted(RULES)} or a TopologyRule object")
    return RULES[topology]()


class Exchange(NamedTuple):
    """What one step of prune and grow changes in a layer; flat positions, int64.

    :param indices: the connections after it, sorted
    :param dropped: those that go, from the lowest drop score to the highest
    :param grown: those that come, from the highest growth score to the lowest; as many unless the budget moves
    """

    indices: th.Tensor
    dropped: th.Tensor
    grown: th.Tensor


@th.no_grad()
def next_connections(
    layer: SparseLinear, rule: TopologyName | TopologyRule, drop_fraction: float, connections: int | None = None
) -> Exchange:
    """The connections that a layer is to have after one step of prune and grow.

    With n the number that there is to be, or the number that there is if that is smaller, all but
    n - floor(drop_fraction * n) connections go, those of lowest drop score; then the positions of highest growth score
    among all that are then absent come, so that one just dropped may return. Ties go to the lower position. Where
    the growth score is -infinity nothing grows; if that leaves too few places, fewer connections go.

    :param layer: the layer, which stays as it is
    :param rule: gives the scores; its name or a ``TopologyRule``
    :param drop_fraction: ζ_t in [0, 1]
    :param connections: how many there are to be; None (default): as many as there are
    :return: the connections, and what of them is new; one that was dropped and came back counts as never dropped
    :raises ValueError: if the rule is unknown, the drop fraction is out of range, or a score has another shape, is NaN
        or infinity (a diverged network); -infinity is allowed
    """
    rule = resolve_rule(rule, "rule")
    check_number(drop_fraction, "drop_fraction", 0.0, 1.0)
    wanted = layer.nnz if connections is None else connections
    staying = min(layer.nnz, wanted)
    staying -= math.floor(drop_fraction * staying)
    worth = _checked(rule.drop_score(layer), rule, "drop_score", (layer.nnz,))
    from_worst = layer.indices.long()[th.argsort(worth, stable=True)]
    dropped, kept = from_worst.tensor_split([layer.nnz - staying])
    shape = (layer.out_features, layer.in_features)
    score = _checked(rule.growth_score(layer), rule, "growth_score", shape).reshape(-1).clone()
    score[kept] = -th.inf
    grown = th.argsort(score, descending=True, stable=True)[: min(wanted - staying, int((score > -th.inf).sum()))]
    gone = dropped[~th.isin(dropped, grown)]
    gone, spared = gone.tensor_split([max(len(gone) - (wanted - staying - len(grown)), 0)])
    new = grown[~th.isin(grown, dropped)]
    return Exchange(th.cat([kept, grown, spared]).sort().values, gone, new)


def _checked(score: th.Tensor, rule: TopologyRule, name: str, shape: tuple[int, ...]) -> th.Tensor:
    if not isinstance(score, th.Tensor) or tuple(score.shape) not in (shape, (math.prod(shape),)):
        found = tuple(score.shape) if isinstance(score, th.Tensor) else type(score).__name__
        raise ValueError(f"{type(rule).__name__}.{name} is {found}: it must be a tensor of shape {shape}")
    score = score if score.is_floating_point() else score.float()
    if not bool((score < th.inf).all()):
        raise ValueError(
            f"the {name.replace('_', ' ')} of a layer is not finite: its weights or gradients hold NaN or infinity"
        )
    return score
