"""Train sparse from scratch: RLx2 for Stable-Baselines3."""

from sb3_rlx2.analysis.history import TopologyHistoryCallback
from sb3_rlx2.analysis.topology_history import TopologyHistory
from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.callbacks import DynamicBufferCallback, TopologyEvolutionCallback
from sb3_rlx2.common.discounting import DiscountScheduleCallback
from sb3_rlx2.crossq import RLx2CrossQ
from sb3_rlx2.ddpg import RLx2DDPG
from sb3_rlx2.dqn import RLx2DQN
from sb3_rlx2.qrdqn import RLx2QRDQN
from sb3_rlx2.resume import TrainingCheckpointCallback
from sb3_rlx2.sac import RLx2SAC
from sb3_rlx2.td3 import RLx2TD3
from sb3_rlx2.tqc import RLx2TQC
from sb3_rlx2.version import __version__

__all__ = [
    "DiscountScheduleCallback",
    "DynamicBufferCallback",
    "DynamicReplayBuffer",
    "RLx2CrossQ",
    "RLx2DDPG",
    "RLx2DQN",
    "RLx2QRDQN",
    "RLx2SAC",
    "RLx2TD3",
    "RLx2TQC",
    "TopologyEvolutionCallback",
    "TopologyHistory",
    "TopologyHistoryCallback",
    "TrainingCheckpointCallback",
    "__version__",
]
