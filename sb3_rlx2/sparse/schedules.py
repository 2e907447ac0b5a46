"""How much of a topology changes at an evolution step, and how many connections each layer has after it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sb3_rlx2.sparse.layers import SparseLinear


def cosine_drop_fraction(initial: float, progress: float) -> float:
    """Annealed fraction of connections to drop, ``ζ0 / 2 (1 + cos(π progress))`` (RigL, section 3).

    :param initial: ζ0
    :param progress: how far the training is, from 0 to 1
    """
    return initial / 2.0 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


class Schedule:
    """Which fraction of its connections a layer drops and regrows. As it stands, annealed by a cosine (RigL)."""

    def drop_fraction(self, initial: float, progress: float) -> float:
        """The fraction at an evolution step, in [0, 1].

        :param initial: ζ0
        :param progress: how far the training is, from 0 to 1
        """
        return cosine_drop_fraction(initial, progress)


class Budget:
    """How many connections each layer has after an evolution step. As it stands, as many as before (RigL, SET)."""

    def connections(self, layers: Mapping[str, SparseLinear], progress: float) -> Mapping[str, int]:
        """The number of connections of each layer, from 1 to its number of weights.

        Fewer than a layer has: those of lowest drop score go, and nothing grows for them. More: those of highest growth
        score come, and nothing goes for them.

        :param layers: the network's sparse layers by name, as they are
        :param progress: how far the training is, from 0 to 1
        """
        return {name: layer.nnz for name, layer in layers.items()}


def budget_moves(budget: Budget) -> bool:
    """Whether a layer may have another number of connections after an evolution step.

    :param budget: of a rule
    """
    return type(budget) is not Budget
