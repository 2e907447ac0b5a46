"""How many floating-point operations an action and an update take. The formulas are in docs/flops.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sb3_rlx2.engine.description import Phase, UpdateDescription

Forward = Mapping[str, float]
"""FLOPs of one forward pass of one sample, by part (``"actor"``, ``"critic.qf0"``, ``"critic.features_extractor"``)."""


class UpdateRecipe(NamedTuple):
    """What one update of an algorithm consists of.

    :param description: its phases, as the compiled engine makes them
    :param batch_size: transitions in an update
    :param target_actions: forward passes for each transition of the network that gives the actions of the TD target
    :param evolution_intervals: ΔT in updates of that network, for networks of which a dense gradient is taken
    :param shares_extractor: whether the critics read the actor's features extractor, which their loss does not train;
        default False
    :param actor_share: share of the updates in which the actor is not at rest, as it is in offline phases, default 1
    """

    description: UpdateDescription
    batch_size: int
    target_actions: int
    evolution_intervals: Mapping[str, float]
    shares_extractor: bool = False
    actor_share: float = 1.0


class UpdateFlops(NamedTuple):
    """FLOPs of one update, on average over updates.

    :param target: of the TD target
    :param critic: of the loss of the critics, or of the one network that there is, forward and backward
    :param actor: of the actor's loss, forward and backward, divided by the policy delay; 0 where there is no actor
    :param evolution: of the dense gradients at evolution steps, divided by the interval
    """

    target: float
    critic: float
    actor: float
    evolution: float

    @property
    def total(self) -> float:
        """FLOPs of one update."""
        return sum(self)


def of_network(forward: Forward, name: str) -> float:
    """FLOPs of one forward pass of a network with all of its parts.

    :param forward: by part
    :param name: such as ``"actor"`` or ``"critic_target"``
    """
    return sum(flops for part, flops in forward.items() if part.split(".")[0] == name)


def update_flops(forward: Forward, dense: Forward, recipe: UpdateRecipe) -> UpdateFlops:
    """FLOPs of one update (docs/flops.md).

    :param forward: of the networks as they are
    :param dense: of the same networks with all connections
    :param recipe: what an update consists of
    """
    extractor = forward.get("critic.features_extractor", 0.0)
    learner = next(phase for phase in recipe.description.phases if phase.network != "actor")
    phases = {phase.network: phase for phase in recipe.description.phases}
    evolution = sum(
        (recipe.actor_share if name == "actor" else 1.0)
        * phases[name].loss_passes
        * (of_network(dense, name) - of_network(forward, name))
        / (interval * phases[name].period)
        for name, interval in recipe.evolution_intervals.items()
    )
    per_sample = UpdateFlops(
        target=sum(
            count * (recipe.target_actions if name.startswith("actor") else 1) * of_network(forward, name)
            for name, count in learner.target_passes.items()
        ),
        critic=learner.loss_passes
        * (3 * of_network(forward, learner.network) - (2 * extractor if recipe.shares_extractor else 0.0)),
        actor=recipe.actor_share
        * sum(_actor_loss(forward, phase) for phase in recipe.description.phases if phase.network == "actor"),
        evolution=evolution,
    )
    return UpdateFlops(*(recipe.batch_size * flops for flops in per_sample))


def _actor_loss(forward: Forward, phase: Phase) -> float:
    critics = [flops for part, flops in forward.items() if part.startswith("critic.qf")]
    extractor = forward.get("critic.features_extractor", 0.0)
    return (3 * of_network(forward, "actor") + 2 * sum(critics[: phase.loss_critics]) + extractor) / phase.period
