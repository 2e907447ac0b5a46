"""What the arguments and counters of an algorithm may be, whether the user gives them or a model file."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule

from sb3_rlx2.common.clocks import UNITS, read_clock
from sb3_rlx2.sparse.checks import check_count, check_number

COUNTS = {
    "buffer_size": 1,
    "batch_size": 1,
    "learning_starts": 0,
    "gradient_steps": -1,
    "policy_delay": 1,
    "target_update_interval": 1,
    "top_quantiles_to_drop_per_net": 0,
    "sde_sample_freq": -1,
    "stats_window_size": 0,
    "verbose": 0,
    "n_envs": 1,
    "n_steps": 1,
    "buffer_min_size": 0,
    "offline_updates": 0,
    "num_timesteps": 0,
    "_num_timesteps_at_start": 0,
    "_episode_num": 0,
    "_n_updates": 0,
    "_n_calls": 0,
}
"""The smallest value of each whole number."""

NUMBERS = {
    "tau": (0.0, 1.0),
    "gamma": (0.0, 1.0),
    "target_policy_noise": (0.0, math.inf),
    "exploration_fraction": (0.0, 1.0),
    "exploration_initial_eps": (0.0, 1.0),
    "exploration_final_eps": (0.0, 1.0),
    "exploration_rate": (0.0, 1.0),
    "start_time": (0.0, math.inf),
    "_total_timesteps": (0.0, math.inf),  # which SB3's own learn leaves as it was given
    "_current_progress_remaining": (-math.inf, 1.0),
}
"""The smallest and the largest value of each number."""

MOST_SEED = 2**32 - 1

SWITCHES = ("optimize_memory_usage", "use_sde", "use_sde_at_warmup", "dynamic_buffer")

TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "policy_kwargs": ("a dict", (dict,)),
    "replay_buffer_kwargs": ("a dict", (dict,)),
    "tensorboard_log": ("the path of a folder or None", (str, os.PathLike, type(None))),
    "replay_buffer": ("a ReplayBuffer", (ReplayBuffer, type(None))),
    "ep_info_buffer": ("a deque or None", (deque, type(None))),
    "ep_success_buffer": ("a deque or None", (deque, type(None))),
}

ARGUMENT_NAMES = {"_stats_window_size": "stats_window_size"}
"""Attributes that are called otherwise than the argument that sets them."""


def check_learning_arguments(attributes: Mapping[str, Any]) -> None:
    """Check those arguments and counters of an off-policy algorithm that are numbers, switches or plain objects.

    :param attributes: the algorithm's attributes; those that it lacks are not checked
    :raises ValueError: naming the first that is out of range or of another type
    """
    given = {ARGUMENT_NAMES.get(name, name): value for name, value in attributes.items()}
    for name, least in COUNTS.items():
        # True and False have always been levels of verbosity
        if name in given and not (name == "verbose" and isinstance(given[name], bool)):
            check_count(given[name], name, least)
    for name in UNITS:
        if name in given and not (name == "topology_end" and given[name] is None):
            read_clock(given[name], name)
    for name, bounds in NUMBERS.items():
        if name in given:
            check_number(given[name], name, *bounds)
    for name in SWITCHES:
        if name in given and not (isinstance(given[name], (int, np.bool_)) and given[name] in (0, 1)):
            raise ValueError(f"{name}={given[name]!r} is not allowed: it must be True or False")
    for name in TYPES:
        if name in given:
            check_type(given[name], name)
    if (given.get("ep_info_buffer") is None) != (given.get("ep_success_buffer") is None):
        raise ValueError("ep_info_buffer and ep_success_buffer are not allowed one without the other")
    if given.get("target_noise_clip", math.inf) != math.inf:  # infinity: not clipped
        check_number(given["target_noise_clip"], "target_noise_clip", 0.0)
    if given.get("max_grad_norm") is not None and given["max_grad_norm"] != math.inf:  # infinity: not clipped
        check_number(given["max_grad_norm"], "max_grad_norm", 0.0)
    if given.get("seed") is not None:
        check_count(given["seed"], "seed", 0)
        if given["seed"] > MOST_SEED:
            raise ValueError(f"seed={given['seed']!r} is not allowed: NumPy's generator takes seeds up to 2**32 - 1")
    for name in ("n_critics", "n_quantiles"):
        if name in given.get("policy_kwargs", {}):
            check_count(given["policy_kwargs"][name], f"policy_kwargs[{name!r}]", 1)
    check_learning_rate(given["learning_rate"])
    check_train_freq(given["train_freq"])
    check_replay_buffer_class(given["replay_buffer_class"])


def check_type(value: Any, name: str) -> None:
    """An object of one of the classes that an argument may have.

    :param value: the argument's value
    :param name: the argument's name, one of ``TYPES``
    :raises ValueError: if it is none
    """
    kind, classes = TYPES[name]
    if not isinstance(value, classes):
        raise ValueError(f"{name}={value!r} is not allowed: it must be {kind}")


def check_learning_rate(value: Any) -> None:
    """A finite number >= 0, or a schedule that begins with one.

    :param value: the argument's value
    :raises ValueError: if it is none
    """
    if not callable(value):
        check_number(value, "learning_rate", 0.0)
        return
    first = FloatSchedule(value)(1.0)
    if not (math.isfinite(first) and first >= 0.0):
        raise ValueError(
            f"learning_rate={value!r} is not allowed: the schedule begins with {first}, and it must be finite and >= 0"
        )


def check_train_freq(value: Any) -> None:
    """A whole number of steps, or a number and its unit, ``"step"`` or ``"episode"``.

    :param value: the argument's value
    :raises ValueError: if it is none
    """
    count, unit = value if isinstance(value, tuple) and len(value) == 2 else (value, "step")
    if isinstance(value, TrainFreq):
        unit = unit.value if isinstance(unit, TrainFrequencyUnit) else unit
    if unit not in ("step", "episode"):
        raise ValueError(f"train_freq={value!r} is not allowed: its unit must be 'step' or 'episode'")
    check_count(count, "train_freq", 1)


def check_replay_buffer_class(value: Any) -> None:
    """None or a class of replay buffers.

    :param value: the argument's value
    :raises ValueError: if it is neither
    """
    if value is not None and not (isinstance(value, type) and issubclass(value, ReplayBuffer)):
        raise ValueError(f"replay_buffer_class={value!r} is not allowed: it must be a ReplayBuffer class or None")


def check_action_space(space: Any) -> None:
    """A box with finite bounds, since actions are scaled to [-1, 1].

    :param space: the action space
    :raises ValueError: if it is none
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(f"the action space is {space}: it must be a Box")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise ValueError(f"the action space is {space}: its bounds must be finite, with low < high")


def check_discrete_actions(space: Any) -> None:
    """Whole numbers from 0 on, which number the outputs of a network.

    :param space: the action space
    :raises ValueError: if it is none
    """
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise ValueError(f"the action space is {space}: it must be Discrete, and begin with 0")


def check_topology_counters(counters: Any, networks: tuple[str, ...], n_updates: int) -> None:
    """Updates and evolutions of each network so far.

    :param counters: ``{network: {"updates": …, "evolutions": …}}``
    :param networks: the networks whose topology evolves
    :param n_updates: number of gradient updates so far; counters may be missing while there is none
    :raises ValueError: if a number is missing or impossible
    """
    if not isinstance(counters, dict) or not set(counters) <= set(networks):
        raise ValueError(f"topology_counters={counters!r} is not allowed: it must be a dict of {list(networks)}")
    missing = [name for name in networks if name not in counters]
    if missing and (counters or n_updates > 0):
        raise ValueError(f"topology_counters={counters!r} is not allowed: {missing[0]!r} is missing")
    for name, counts in counters.items():
        if not isinstance(counts, dict) or set(counts) - {"clock"} != {"updates", "evolutions"}:
            raise ValueError(
                f"topology_counters[{name!r}]={counts!r} is not allowed: it must have updates and evolutions"
            )
        for key, count in counts.items():
            check_count(count, f"topology_counters[{name!r}][{key!r}]", 0)
        if counts["evolutions"] > counts["updates"]:
            raise ValueError(
                f"topology_counters[{name!r}]={counts!r} is not allowed: an evolution is one of the updates"
            )


def check_ent_coef(value: Any) -> None:
    """A number >= 0, ``"auto"``, or ``"auto_0.1"`` with a number > 0 to start from.

    :param value: the argument's value
    :raises ValueError: if it is none
    """
    learned = isinstance(value, str) and value.startswith("auto")
    text = value.removeprefix("auto_") if isinstance(value, str) else ""
    # SB3 takes what stands between the first two underscores
    start = value if not isinstance(value, str) else math.nan if learned and "_" in text else _parsed(text)
    is_number = not isinstance(start, bool) and isinstance(start, Real) and 0.0 <= float(start) < math.inf
    if value != "auto" and not (is_number and (start > 0.0 or not learned)):
        raise ValueError(
            f"ent_coef={value!r} is not allowed: it must be a finite number >= 0, 'auto', or 'auto_x' with x > 0"
        )


def check_target_entropy(value: Any) -> None:
    """A finite number, or ``"auto"``.

    :param value: the argument's value
    :raises ValueError: if it is none
    """
    if not isinstance(value, str):
        check_number(value, "target_entropy")
    elif value != "auto" and not math.isfinite(_parsed(value)):
        raise ValueError(f"target_entropy={value!r} is not allowed: it must be a finite number or 'auto'")


def _parsed(text: str) -> float:
    """The number that a text stands for, as SB3 reads it; NaN if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
