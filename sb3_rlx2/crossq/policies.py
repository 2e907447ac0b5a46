"""Sparse policy for CrossQ. It works with sb3-contrib's own ``CrossQ`` too."""

from typing import ClassVar

from sb3_contrib.crossq import policies as contrib

from sb3_rlx2.common.policies import SparsePolicyMixin


class SparseCrossQPolicy(SparsePolicyMixin, contrib.CrossQPolicy):
    """Sparse CrossQ policy. Arguments: those of ``CrossQPolicy`` and of ``SparsePolicyMixin``.

    Hidden layers are sb3-contrib's, two of 256 (actor) and two of 1024 (critics), unless ``net_arch`` says otherwise;
    sparsities are those of RLx2's SAC, 0.90 (actor) and 0.80 (critics). Batch renormalization is dense, as biases are.
    """

    default_critic_sparsity: ClassVar[float] = 0.80


MlpPolicy = SparseCrossQPolicy
