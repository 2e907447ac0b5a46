"""Sparse policies for DQN. They work with Stable-Baselines3's own ``DQN`` too."""

from collections.abc import Sequence
from typing import ClassVar

from stable_baselines3.dqn import policies as sb3

from sb3_rlx2.common.policies import SparseValuePolicyMixin


class SparseDQNPolicy(SparseValuePolicyMixin, sb3.DQNPolicy):
    """Sparse DQN policy for vector observations. Arguments: those of ``DQNPolicy`` and of ``SparseValuePolicyMixin``.

    Defaults are RLx2's for other algorithms: two hidden layers of 256, sparsity 0.90.
    """

    default_net_arch: ClassVar[Sequence[int] | None] = (256, 256)


MlpPolicy = SparseDQNPolicy


class CnnPolicy(SparseValuePolicyMixin, sb3.CnnPolicy):
    """Sparse DQN policy for images: the convolutions are dense, the layers after them are sparse."""


class MultiInputPolicy(SparseValuePolicyMixin, sb3.MultiInputPolicy):
    """Sparse DQN policy for Dict observations."""

    default_net_arch: ClassVar[Sequence[int] | None] = (256, 256)
