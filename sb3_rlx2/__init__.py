"""Train sparse from scratch: RLx2 for Stable-Baselines3."""

from sb3_rlx2.version import __version__

__all__ = ["__version__"]
