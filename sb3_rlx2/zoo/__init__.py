"""RL Baselines3 Zoo with this package's algorithms, and the command line."""

from sb3_rlx2.zoo.algorithms import ALGORITHMS
from sb3_rlx2.zoo.registration import register

__all__ = ["ALGORITHMS", "register"]
