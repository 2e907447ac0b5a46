"""Algorithms by the names that RL Baselines3 Zoo gives them: this package's, and those that they stand on."""

from __future__ import annotations

from collections.abc import Mapping

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import sb3_rlx2
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm

PREFIX = "RLx2"


def _algorithms() -> dict[str, type[OffPolicyAlgorithm]]:
    public = [getattr(sb3_rlx2, name) for name in sb3_rlx2.__all__]
    own = [cls for cls in public if isinstance(cls, type) and issubclass(cls, RLx2OffPolicyAlgorithm)]
    names = {cls: cls.__name__.removeprefix(PREFIX).lower() for cls in own}
    return {
        **{f"{PREFIX.lower()}_{name}": cls for cls, name in names.items()},
        **{name: cls.dense_class for cls, name in names.items()},
    }


ALGORITHMS: Mapping[str, type[OffPolicyAlgorithm]] = _algorithms()
"""``rlx2_td3`` is ``RLx2TD3``, ``td3`` the ``TD3`` of Stable-Baselines3, and so on for every public algorithm."""
