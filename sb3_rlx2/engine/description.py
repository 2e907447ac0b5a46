"""What one update of an algorithm consists of. Computing, schedules, FLOPs and reports read the same description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from numba.core.ccallback import CFunc

NEVER = 2**62
"""The period of a phase that takes part in no update."""


@dataclass(frozen=True)
class Phase:
    """A part of an update: one network's loss, gradients and optimizer step.

    :param network: the network that learns, which is also the name of its optimizer
    :param tile_function: computes losses and gradients of one tile of a batch; None: there is no compiled code for it
    :param losses: names of the first sums that the tile function makes; their means over the batch are results
    :param scalars: names of further results, which its step functions set
    :param period: takes part in every so many updates, counted over the whole training
    :param backward: networks through which gradients go back
    :param begin: runs before the tiles
    :param finish: runs after them, in each thread
    :param further_optimizers: names of optimizers whose steps these functions take
    :param target_passes: forward passes of a sample through each network for the TD target
    :param loss_passes: forward and backward passes for each transition through the network for its loss
    :param loss_critics: how many of the critics the loss reads; None: all
    """

    network: str
    tile_function: CFunc | None
    losses: tuple[str, ...]
    scalars: tuple[str, ...] = ()
    period: int = 1
    backward: tuple[str, ...] = ()
    begin: CFunc | None = None
    finish: CFunc | None = None
    further_optimizers: tuple[str, ...] = ()
    target_passes: Mapping[str, int] = field(default_factory=dict)
    loss_passes: int = 1
    loss_critics: int | None = None


@dataclass(frozen=True)
class TargetUpdates:
    """When target networks follow.

    :param networks: networks whose targets follow
    :param period: in updates
    :param counts: from where: updates of the whole training, from 1, or of the call to ``train``, from 0
    """

    networks: tuple[str, ...]
    period: int
    counts: Literal["training", "call"]


@dataclass(frozen=True)
class UpdateDescription:
    """An algorithm's update.

    :param phases: in their order
    :param targets: when target networks follow
    """

    phases: tuple[Phase, ...]
    targets: TargetUpdates

    @cached_property
    def results(self) -> tuple[str, ...]:
        """Names of the columns of the results."""
        return tuple(name for phase in self.phases for name in (*phase.losses, *phase.scalars))

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the results that are losses."""
        return tuple(name for name in self.results if name.endswith("loss"))

    def phase(self, network: str) -> Phase:
        """The phase in which a network learns."""
        return next(phase for phase in self.phases if phase.network == network)

    def without(self, network: str) -> UpdateDescription:
        """The same update in which a network does not learn.

        :param network: name of the network
        """
        phases = tuple(replace(phase, period=NEVER) if phase.network == network else phase for phase in self.phases)
        return replace(self, phases=phases)

    def steps(self, network: str, n_updates: int) -> int:
        """How many of the first updates of the whole training take a step of a network's optimizer.

        :param network: name of the network
        :param n_updates: number of updates
        """
        return n_updates // self.periods[network]

    @cached_property
    def periods(self) -> dict[str, int]:
        """Of how many updates each network takes part in one."""
        return {phase.network: phase.period for phase in self.phases}
