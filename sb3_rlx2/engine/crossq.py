"""What an update of CrossQ (Bhatt et al., 2024) consists of. No compiled code makes it."""

from __future__ import annotations

from functools import cache

from sb3_rlx2.engine.description import Phase, TargetUpdates, UpdateDescription


@cache
def crossq_description(policy_delay: int) -> UpdateDescription:
    """An update of CrossQ: current and next states pass the critics together, and there are no target networks.

    :param policy_delay: updates of the critics for one of actor and entropy coefficient
    """
    return UpdateDescription(
        phases=(
            Phase(
                network="critic",
                tile_function=None,
                losses=("critic_loss",),
                backward=("critic",),
                target_passes={"actor": 1},
                loss_passes=2,
            ),
            Phase(
                network="actor",
                tile_function=None,
                losses=("actor_loss",),
                period=policy_delay,
                backward=("critic", "actor"),
            ),
        ),
        targets=TargetUpdates((), 1, "training"),
    )
