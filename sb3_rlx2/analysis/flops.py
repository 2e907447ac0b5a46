"""How many floating-point operations an action and an update take. The formulas are in docs/flops.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Forward = Mapping[str, float]
"""FLOPs of one forward pass of one sample, by part (``"actor"``, ``"critic.qf0"``, ``"critic.features_extractor"``)."""


class UpdateRecipe(NamedTuple):
    """What one update of an algorithm consists of.

    :param batch_size: transitions in an update
    :param policy_delay: the actor is updated every so many updates of the critics
    :param target_actor: the network that gives the actions of the TD target
    :param target_actions: forward passes of that network for each transition
    :param critics_in_actor_loss: how many critics the actor's loss reads
    :param evolution_intervals: ΔT in updates of that network, for networks of which a dense gradient is taken
    """

    batch_size: int
    policy_delay: int
    target_actor: str
    target_actions: int
    critics_in_actor_loss: int
    evolution_intervals: Mapping[str, int]


class UpdateFlops(NamedTuple):
    """FLOPs of one update, on average over updates.

    :param target: of the TD target
    :param critic: of the critics' loss, forward and backward
    :param actor: of the actor's loss, forward and backward, divided by the policy delay
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
    :param name: ``"actor"``, ``"critic"``, ``"actor_target"`` or ``"critic_target"``
    """
    return sum(flops for part, flops in forward.items() if part.split(".")[0] == name)


def update_flops(forward: Forward, dense: Forward, recipe: UpdateRecipe) -> UpdateFlops:
    """FLOPs of one update (docs/flops.md).

    :param forward: of the networks as they are
    :param dense: of the same networks with all connections
    :param recipe: what an update consists of
    """
    critics = [flops for part, flops in forward.items() if part.startswith("critic.qf")]
    extractor = forward.get("critic.features_extractor", 0.0)
    actor_loss = 3 * of_network(forward, "actor") + 2 * sum(critics[: recipe.critics_in_actor_loss]) + extractor
    evolution = sum(
        (of_network(dense, name) - of_network(forward, name))
        / (interval * (recipe.policy_delay if name == "actor" else 1))
        for name, interval in recipe.evolution_intervals.items()
    )
    per_sample = UpdateFlops(
        target=recipe.target_actions * of_network(forward, recipe.target_actor) + of_network(forward, "critic_target"),
        critic=3 * of_network(forward, "critic"),
        actor=actor_loss / recipe.policy_delay,
        evolution=evolution,
    )
    return UpdateFlops(*(recipe.batch_size * flops for flops in per_sample))
