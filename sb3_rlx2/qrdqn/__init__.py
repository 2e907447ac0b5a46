"""RLx2-QR-DQN and its sparse policies."""

from sb3_rlx2.qrdqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_rlx2.qrdqn.qrdqn import RLx2QRDQN

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "RLx2QRDQN"]
