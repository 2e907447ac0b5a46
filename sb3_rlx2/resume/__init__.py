"""Whole trainings: saved at an interval, brought back after a kill, and going on as if nothing had happened."""

from sb3_rlx2.resume.checkpoint_callback import TrainingCheckpointCallback
from sb3_rlx2.resume.environments import register_environment
from sb3_rlx2.resume.recipes import register_callback
from sb3_rlx2.resume.resuming import has_checkpoint, resume

__all__ = ["TrainingCheckpointCallback", "has_checkpoint", "register_callback", "register_environment", "resume"]
