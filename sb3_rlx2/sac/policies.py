"""Sparse policies for SAC. They work with Stable-Baselines3's own ``SAC`` too."""

from typing import ClassVar

from stable_baselines3.sac import policies as sb3

from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.simba import SimBaMixin


class _SparseSACMixin(SparsePolicyMixin):
    default_critic_sparsity: ClassVar[float] = 0.80


class SparseSACPolicy(_SparseSACMixin, sb3.SACPolicy):
    """Sparse SAC policy for vector observations. Arguments: those of ``SACPolicy`` and of ``SparsePolicyMixin``.

    Defaults are the paper's (RLx2, appendix): two hidden layers of 256, sparsity 0.90 (actor) and 0.80 (critics).
    """


MlpPolicy = SparseSACPolicy


class CnnPolicy(_SparseSACMixin, sb3.CnnPolicy):
    """Sparse SAC policy for images: the convolutions are dense, actor and critic heads are sparse."""


class MultiInputPolicy(_SparseSACMixin, sb3.MultiInputPolicy):
    """Sparse SAC policy for Dict observations."""


class DenseSimBaPolicy(SimBaMixin, sb3.SACPolicy):
    """SAC policy with SimBa's networks. Arguments: those of ``SACPolicy`` and of ``SimBaMixin``."""


class SimBaPolicy(_SparseSACMixin, DenseSimBaPolicy):
    """Sparse SAC policy with SimBa's networks. Arguments: those of ``DenseSimBaPolicy`` and ``SparsePolicyMixin``."""
