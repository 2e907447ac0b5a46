"""Pytest plugin: our algorithms in the place of Stable-Baselines3's and sb3-contrib's before tests are imported."""

import inspect
import sys

from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, SAC, TD3

from sb3_rlx2 import RLx2CrossQ, RLx2DQN, RLx2QRDQN, RLx2SAC, RLx2TD3, RLx2TQC

PACKAGES = ("stable_baselines3", "sb3_contrib")
SWAPPED = {TD3: RLx2TD3, SAC: RLx2SAC, DQN: RLx2DQN, TQC: RLx2TQC, CrossQ: RLx2CrossQ, QRDQN: RLx2QRDQN}


def _with_defaults_of(theirs, ours):
    """``ours`` under the other's name and with its defaults, 1-step targets and a fixed buffer."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(theirs.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty and not name.startswith("_")
    }
    # Half of the weights: some of those tests have networks of a handful of weights
    defaults |= {"n_steps": 1, "dynamic_buffer": False, **dict.fromkeys(ours.network_sparsities.values(), 0.5)}
    names = list(inspect.signature(theirs.__init__).parameters)[1:]

    def init(self, *args, **kwargs):
        ours.__init__(self, **{**defaults, **dict(zip(names, args, strict=False)), **kwargs})

    def learn(self, *args, tb_log_name=theirs.__name__, **kwargs):
        return ours.learn(self, *args, tb_log_name=tb_log_name, **kwargs)

    return type(theirs.__name__, (ours,), {"__init__": init, "learn": learn, "__module__": theirs.__module__})


for theirs, ours in SWAPPED.items():
    swapped = _with_defaults_of(theirs, ours)
    for module in list(sys.modules.values()):
        if module.__name__.partition(".")[0] in PACKAGES and getattr(module, theirs.__name__, None) is theirs:
            setattr(module, theirs.__name__, swapped)
