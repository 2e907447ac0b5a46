"""RLx2-DQN and its sparse policies."""

from sb3_rlx2.dqn.dqn import RLx2DQN
from sb3_rlx2.dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2DQN"]
