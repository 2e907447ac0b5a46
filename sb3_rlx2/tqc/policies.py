"""Sparse policies for TQC. They work with sb3-contrib's own ``TQC`` too."""

from typing import ClassVar

from sb3_contrib.tqc import policies as contrib

from sb3_rlx2.common.policies import SparsePolicyMixin
from sb3_rlx2.common.simba import SimBaMixin


class _SparseTQCMixin(SparsePolicyMixin):
    default_critic_sparsity: ClassVar[float] = 0.80


class SparseTQCPolicy(_SparseTQCMixin, contrib.TQCPolicy):
    """Sparse TQC policy for vector observations. Arguments: those of ``TQCPolicy`` and of ``SparsePolicyMixin``.

    Defaults are those of RLx2's SAC: two hidden layers of 256, sparsity 0.90 (actor) and 0.80 (critics).
    """


MlpPolicy = SparseTQCPolicy


class CnnPolicy(_SparseTQCMixin, contrib.CnnPolicy):
    """Sparse TQC policy for images: the convolutions are dense, actor and critic heads are sparse."""


class MultiInputPolicy(_SparseTQCMixin, contrib.MultiInputPolicy):
    """Sparse TQC policy for Dict observations."""


class DenseSimBaPolicy(SimBaMixin, contrib.TQCPolicy):
    """TQC policy with SimBa's networks. Arguments: those of ``TQCPolicy`` and of ``SimBaMixin``."""


class SimBaPolicy(_SparseTQCMixin, DenseSimBaPolicy):
    """Sparse TQC policy with SimBa's networks. Arguments: those of ``DenseSimBaPolicy`` and ``SparsePolicyMixin``."""
