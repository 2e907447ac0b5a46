"""RLx2-TQC and its sparse policies."""

from sb3_rlx2.tqc.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy
from sb3_rlx2.tqc.tqc import RLx2TQC

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2TQC", "SimBaPolicy"]
