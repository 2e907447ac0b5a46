"""RLx2-TD3 and its sparse policies."""

from sb3_rlx2.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy
from sb3_rlx2.td3.td3 import RLx2TD3

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2TD3", "SimBaPolicy"]
