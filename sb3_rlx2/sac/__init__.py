"""RLx2-SAC and its sparse policies."""

from sb3_rlx2.sac.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy
from sb3_rlx2.sac.sac import RLx2SAC

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2SAC", "SimBaPolicy"]
