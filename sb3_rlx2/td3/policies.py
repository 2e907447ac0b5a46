"""Sparse policies for TD3. They work with Stable-Baselines3's own ``TD3`` too."""

from collections.abc import Sequence
from typing import ClassVar

from stable_baselines3.td3 import policies as sb3

from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.simba import SimBaMixin


class _SparseTD3Mixin(SparsePolicyMixin):
    default_net_arch: ClassVar[Sequence[int] | None] = (256, 256)


class SparseTD3Policy(_SparseTD3Mixin, sb3.TD3Policy):
    """Sparse TD3 policy for vector observations. Arguments: those of ``TD3Policy`` and of ``SparsePolicyMixin``.

    Defaults are the paper's (RLx2, appendix): two hidden layers of 256, sparsity 0.90 (actor) and 0.85 (critics).
    """


MlpPolicy = SparseTD3Policy


class CnnPolicy(_SparseTD3Mixin, sb3.CnnPolicy):
    """Sparse TD3 policy for images: the convolutions are dense, actor and critic heads are sparse."""


class MultiInputPolicy(_SparseTD3Mixin, sb3.MultiInputPolicy):
    """Sparse TD3 policy for Dict observations."""


class DenseSimBaPolicy(SimBaMixin, sb3.TD3Policy):
    """TD3 policy with SimBa's networks. Arguments: those of ``TD3Policy`` and of ``SimBaMixin``."""


class SimBaPolicy(_SparseTD3Mixin, DenseSimBaPolicy):
    """Sparse TD3 policy with SimBa's networks. Arguments: those of ``DenseSimBaPolicy`` and ``SparsePolicyMixin``."""

    default_net_arch: ClassVar[Sequence[int] | None] = None
