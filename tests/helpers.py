"""What several tests share."""

import torch as th

from sb3_rlx2 import RLx2SAC, RLx2TD3
from sb3_rlx2.sparse import sparse_layers

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


def targets_follow(model):
    """Whether target networks have the connections of their online networks."""
    for name in ("actor", "critic"):
        target = getattr(model, f"{name}_target", None)
        if target is not None:
            pairs = zip(sparse_layers(getattr(model, name)).values(), sparse_layers(target).values(), strict=True)
            if not all(th.equal(online.indices, layer.indices) for online, layer in pairs):
                return False
    return True
