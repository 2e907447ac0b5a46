"""What RLx2's maximum-entropy algorithms (SAC, TQC) share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch as th

from sb3_rlx2.common.argument_ranges import check_ent_coef, check_target_entropy
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm


class RLx2EntropyAlgorithm(RLx2OffPolicyAlgorithm):
    """Sparse training on top of an algorithm with an entropy coefficient, which may be learned.

    The n-step target has an entropy term at each of its n states.

    :param args: as for ``RLx2OffPolicyAlgorithm``
    :param policy_delay: actor and entropy coefficient are updated every so many critic updates
    :param kwargs: as for ``RLx2OffPolicyAlgorithm``
    """

    later_arguments: ClassVar[frozenset[str]] = frozenset({"policy_delay", "offline_interval", "offline_updates"})

    variable_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {"log_ent_coef": (1,), "ent_coef_tensor": ()}
    actor: Any
    ent_coef: str | float
    target_entropy: str | float
    log_ent_coef: th.Tensor | None
    ent_coef_optimizer: th.optim.Adam | None
    ent_coef_tensor: th.Tensor

    def __init__(self, *args: Any, policy_delay: int, _init_setup_model: bool, **kwargs: Any) -> None:
        super().__init__(*args, _init_setup_model=False, **kwargs)
        self.policy_delay = policy_delay
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_ent_coef(self.ent_coef)
        check_target_entropy(self.target_entropy)

    def _optimizers_of_losses(self) -> dict[str, th.optim.Optimizer]:
        coefficient = {} if self.ent_coef_optimizer is None else {"ent_coef_loss": self.ent_coef_optimizer}
        return {**coefficient, **super()._optimizers_of_losses()}

    def _periods_of_losses(self) -> dict[str, int]:
        return dict.fromkeys(("ent_coef_loss", "actor_loss"), self.policy_delay) if self.policy_delay > 1 else {}

    @property
    def _learns_ent_coef(self) -> bool:
        return self.ent_coef_optimizer is not None and self.log_ent_coef is not None

    @property
    def _entropy_settings(self) -> tuple[float, float]:
        """Target entropy, and the entropy coefficient where it is fixed."""
        fixed = 0.0 if self._learns_ent_coef else float(self.ent_coef_tensor)
        return float(self.target_entropy), fixed

    def _state_bonus(self) -> Callable[[th.Tensor], th.Tensor]:
        return self._entropy_bonus

    def _entropy_bonus(self, observations: th.Tensor) -> th.Tensor:
        """-α log π(a|s) with a sampled from the current policy; SB3's update has it at the last state only.

        :param observations: [n, ...]
        :return: [n]
        """
        with th.no_grad():
            _, log_prob = self.actor.action_log_prob(observations)
            ent_coef = cast(th.Tensor, self.log_ent_coef).exp() if self._learns_ent_coef else self.ent_coef_tensor
            return cast(th.Tensor, -ent_coef * log_prob)
