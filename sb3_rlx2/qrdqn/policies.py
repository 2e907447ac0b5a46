"""Sparse policies for QR-DQN. They work with sb3-contrib's own ``QRDQN`` too."""

from collections.abc import Sequence
from typing import ClassVar

from sb3_contrib.qrdqn import policies as contrib

from sb3_rlx2.common.policies import SparseValuePolicyMixin


class SparseQRDQNPolicy(SparseValuePolicyMixin, contrib.QRDQNPolicy):
    """Sparse QR-DQN policy for vector observations.

    Arguments: those of ``QRDQNPolicy`` and of ``SparseValuePolicyMixin``.

    Defaults are RLx2's for other algorithms: two hidden layers of 256, sparsity 0.90.
    """

    default_net_arch: ClassVar[Sequence[int] | None] = (256, 256)


MlpPolicy = SparseQRDQNPolicy


class CnnPolicy(SparseValuePolicyMixin, contrib.CnnPolicy):
    """Sparse QR-DQN policy for images: the convolutions are dense, the layers after them are sparse."""


class MultiInputPolicy(SparseValuePolicyMixin, contrib.MultiInputPolicy):
    """Sparse QR-DQN policy for Dict observations."""

    default_net_arch: ClassVar[Sequence[int] | None] = (256, 256)
