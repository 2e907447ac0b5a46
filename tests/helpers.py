"""What several tests share."""

from sb3_rlx2 import RLx2SAC, RLx2TD3

ALGORITHMS = [RLx2TD3, RLx2SAC]


def quick(**kwargs):
    """Hyperparameters with which everything that RLx2 does happens within a few hundred steps."""
    return {
        "learning_starts": 50,
        "batch_size": 32,
        "buffer_size": 2000,
        "policy_kwargs": {"net_arch": [32, 32]},
        "topology_interval": 20,
        "n_steps_delay": 60,
        "buffer_min_size": 40,
        "buffer_check_interval": 50,
        "buffer_distance_threshold": 0.0,
        "seed": 0,
        "device": "cpu",
        **kwargs,
    }
