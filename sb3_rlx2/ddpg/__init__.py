"""RLx2-DDPG and its sparse policies."""

from sb3_rlx2.ddpg.ddpg import RLx2DDPG
from sb3_rlx2.ddpg.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2DDPG", "SimBaPolicy"]
