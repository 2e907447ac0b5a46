"""The algorithms of this package, by the zoo's names."""

from __future__ import annotations

from collections.abc import Mapping

from sb3_rlx2 import RLx2CrossQ, RLx2DDPG, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm

PREFIX = "rlx2_"

ALGORITHMS: Mapping[str, type[RLx2OffPolicyAlgorithm]] = {
    "rlx2_td3": RLx2TD3,
    "rlx2_sac": RLx2SAC,
    "rlx2_ddpg": RLx2DDPG,
    "rlx2_tqc": RLx2TQC,
    "rlx2_crossq": RLx2CrossQ,
    "rlx2_dqn": RLx2DQN,
    "rlx2_qrdqn": RLx2QRDQN,
}
"""Everything in ``sb3_rlx2.zoo`` goes by this.

A name is the prefix and the zoo's name of the algorithm that ours extends, and so is its search space. Each has a file
``hyperparams/<name>.yml``.
"""
