"""RLx2-DDPG."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from stable_baselines3 import DDPG
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.td3.policies import TD3Policy

from sb3_rlx2.common.argument_ranges import check_type
from sb3_rlx2.td3.td3 import RLx2TD3


class RLx2DDPG(RLx2TD3):
    """DDPG on networks that are sparse from the first step to the last (RLx2).

    DDPG (Lillicrap et al., 2016, https://arxiv.org/abs/1509.02971) is TD3 with one critic, no delay of the policy and
    no noise on target actions. RLx2's paper has no experiments with it; defaults are those of its TD3. With
    ``topology="dense", n_steps=1, dynamic_buffer=False`` it is Stable-Baselines3's ``DDPG``.

    :param policy: as for ``RLx2TD3``
    :param env: as for ``RLx2TD3``
    :param args: as for ``RLx2TD3``, up to ``n_steps``
    :param policy_kwargs: arguments of the policy; ``n_critics`` is 1 by default
    :param kwargs: as for ``RLx2TD3``, without ``policy_delay``, ``target_policy_noise`` and ``target_noise_clip``
    :raises ValueError: if an argument is out of range, or one that DDPG does not have; the message names it
    """

    dense_class: ClassVar[type[OffPolicyAlgorithm]] = DDPG
    # As in Stable-Baselines3: noise of target actions is drawn, and clipped to nothing
    fixed_arguments: ClassVar[Mapping[str, Any]] = {
        "policy_delay": 1,
        "target_policy_noise": 0.1,
        "target_noise_clip": 0.0,
    }

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str | None,
        *args: Any,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in self.fixed_arguments:
            if name in kwargs:
                raise ValueError(_problem(name, kwargs[name]))
        if policy_kwargs is not None:
            check_type(policy_kwargs, "policy_kwargs")
        own = {"policy_kwargs": {"n_critics": 1, **(policy_kwargs or {})}, **self.fixed_arguments}
        cast(Any, super()).__init__(policy, env, *args, **own, **kwargs)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        for name, value in self.fixed_arguments.items():  # a file, or what is given to ``load``, may have another
            if getattr(self, name) != value:
                raise ValueError(_problem(name, getattr(self, name)))


def _problem(name: str, value: Any) -> str:
    return f"{name}={value!r} is not allowed: DDPG does not have it, RLx2TD3 does"


def _signature() -> inspect.Signature:
    parameters = inspect.signature(RLx2TD3).parameters.values()
    return inspect.Signature([parameter for parameter in parameters if parameter.name not in RLx2DDPG.fixed_arguments])


RLx2DDPG.__signature__ = _signature()  # type: ignore[attr-defined]
