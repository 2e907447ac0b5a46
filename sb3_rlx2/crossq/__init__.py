"""RLx2-CrossQ and its sparse policy."""

from sb3_rlx2.crossq.crossq import RLx2CrossQ
from sb3_rlx2.crossq.policies import MlpPolicy

__all__ = ["MlpPolicy", "RLx2CrossQ"]
