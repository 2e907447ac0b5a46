"""What files without pickle may hold by name: classes of Stable-Baselines3 and Gymnasium, and this package's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.crossq import policies as crossq
from sb3_contrib.qrdqn import policies as qrdqn
from sb3_contrib.tqc import policies as tqc
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common import buffers, noise, torch_layers
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.observation_norm import ObservationNorm
from sb3_rlx2.files.named_objects import register
from sb3_rlx2.sparse.rules import RULES

# By names of their own choice: those that modules have may change
NAMES_ONLY: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("stable_baselines3.common.buffers", (buffers.ReplayBuffer, buffers.DictReplayBuffer, buffers.NStepReplayBuffer)),
    ("stable_baselines3", (HerReplayBuffer,)),
    (
        "stable_baselines3.common.torch_layers",
        (torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor),
    ),
    ("stable_baselines3.common.sb2_compat", (RMSpropTFLike,)),
    ("stable_baselines3.td3", (td3.TD3Policy, td3.CnnPolicy, td3.MultiInputPolicy)),
    ("stable_baselines3.dqn", (dqn.DQNPolicy, dqn.CnnPolicy, dqn.MultiInputPolicy)),
    ("stable_baselines3.sac", (sac.SACPolicy, sac.CnnPolicy, sac.MultiInputPolicy)),
    ("sb3_contrib.crossq", (crossq.CrossQPolicy,)),
    ("sb3_contrib.qrdqn", (qrdqn.QRDQNPolicy, qrdqn.CnnPolicy, qrdqn.MultiInputPolicy)),
    ("sb3_contrib.tqc", (tqc.TQCPolicy, tqc.CnnPolicy, tqc.MultiInputPolicy)),
    ("sb3_rlx2", (DynamicReplayBuffer,)),
    ("sb3_rlx2.common", (ObservationNorm,)),
)
WITH_OBJECTS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("stable_baselines3.common.utils", (FloatSchedule, ConstantSchedule, LinearSchedule)),
    ("stable_baselines3.common.type_aliases", (TrainFreq, TrainFrequencyUnit)),
    ("stable_baselines3.her", (GoalSelectionStrategy,)),
    (
        "stable_baselines3.common.noise",
        (noise.NormalActionNoise, noise.OrnsteinUhlenbeckActionNoise, noise.VectorizedActionNoise),
    ),
    ("stable_baselines3.common.running_mean_std", (RunningMeanStd,)),
    ("sb3_rlx2.sparse", tuple(RULES.values())),
)

RANDOM_STATE = ("_np_random", "_np_random_seed")
"""Attributes of a space that are no arguments of its class."""


def _register_space(cls: type[spaces.Space[Any]], arguments: Callable[[Any], Mapping[str, Any]]) -> None:
    """Files hold a space by the arguments that make it, which other versions of Gymnasium understand too."""

    def to_state(space: spaces.Space[Any]) -> dict[str, Any]:
        random_state = {name: vars(space)[name] for name in RANDOM_STATE if name in vars(space)}
        return {"arguments": dict(arguments(space)), **random_state}

    def from_state(state: dict[str, Any]) -> spaces.Space[Any]:
        space = cls(**state["arguments"])
        generator = state["_np_random"]
        if not (generator is None or isinstance(generator, np.random.Generator)):
            raise ValueError(f"its random generator is {generator!r}")
        vars(space).update({name: state[name] for name in RANDOM_STATE if name in state and name in vars(space)})
        return space

    register(cls, f"gymnasium.spaces.{cls.__name__}", to_state=to_state, from_state=from_state)


def _discrete(space: spaces.Discrete) -> dict[str, Any]:
    return {"n": int(space.n), "start": int(space.start), **({} if space.dtype == np.int64 else {"dtype": space.dtype})}


def _multi_discrete(space: spaces.MultiDiscrete) -> dict[str, Any]:
    start = {"start": space.start} if np.any(getattr(space, "start", 0)) else {}  # not known before Gymnasium 1.0
    return {"nvec": space.nvec, "dtype": space.dtype, **start}


_register_space(spaces.Box, lambda box: {"low": box.low, "high": box.high, "shape": box.shape, "dtype": box.dtype})
_register_space(spaces.Discrete, _discrete)
_register_space(spaces.MultiDiscrete, _multi_discrete)
_register_space(spaces.MultiBinary, lambda space: {"n": space.n if isinstance(space.n, int) else [*space.n]})
_register_space(spaces.Dict, lambda space: {"spaces": dict(space.spaces)})
_register_space(spaces.Tuple, lambda space: {"spaces": tuple(space.spaces)})

for _groups, _objects in ((NAMES_ONLY, False), (WITH_OBJECTS, True)):
    for _module, _classes in _groups:
        for _class in _classes:
            register(_class, f"{_module}.{_class.__name__}", objects=_objects)
