"""Sparse policies for DDPG: those of TD3, as in Stable-Baselines3."""

from sb3_rlx2.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SimBaPolicy"]
