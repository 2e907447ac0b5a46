"""What the tile functions of value-based algorithms (DQN, QR-DQN) share: stored discrete actions, compiled."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba.core.ccallback import CFunc

from sb3_rlx2.engine.description import Phase, TargetUpdates, UpdateDescription
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.records import INTEGER, Record
from sb3_rlx2.kernels.vectors import load_int64

Block = Any

VALUES = Record(n_actions=INTEGER, n_quantiles=INTEGER)  # n_quantiles: of each action, 1 if they are values
values_at = VALUES.at


@compiled
def stored_action(task: Block, n_actions: int, sample: int) -> int:
    """The action of a sample; -1 if there is no such action.

    :param task: the task's block
    :param n_actions: number of actions
    :param sample: number of the sample in this call
    """
    env = load_int64(task.sampled_envs, sample)
    action = load_int64(task.actions, load_int64(task.sampled_rows, sample) * task.n_envs + env)
    return int(action) if 0 <= action < n_actions else -1


def value_description(network: str, tile_function: CFunc) -> UpdateDescription:
    """An update of a value-based algorithm. Its target network follows in environment steps, outside of updates.

    :param network: name of the network that learns
    :param tile_function: its loss and gradients
    """
    phase = Phase(
        network=network,
        tile_function=tile_function,
        losses=("loss",),
        backward=(network,),
        target_passes={f"{network}_target": 1},
    )
    return UpdateDescription(phases=(phase,), targets=TargetUpdates((), 1, "training"))


class ValueUpdates(Updates):
    """Compiled updates of a value-based algorithm."""

    algorithm: ClassVar[Record] = VALUES

    def __init__(self, policy: Any, *args: Any, **kwargs: Any) -> None:
        self.n_quantiles: int = getattr(policy, "n_quantiles", 1)
        super().__init__(policy, *args, **kwargs)
        self.settings["n_actions"], self.settings["n_quantiles"] = int(policy.action_space.n), self.n_quantiles

    def prepare(self, samples: Samples, max_gradient_norm: float | None) -> None:
        """Bind what the next run learns from.

        :param samples: how the transitions that were drawn are read
        :param max_gradient_norm: gradients of a larger norm are scaled down to it; None: they are not
        """
        self.bind(samples, 1.0)
        self.limit_gradients(np.inf if max_gradient_norm is None else max_gradient_norm)
