"""Whether a damaged file could be right: its own idea of what training may leave behind, independent of the package's.

Everything is compared with the file before it was damaged. What cannot be right must be an error or change nothing;
what could be right may change the training.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

VARIABLES = "pytorch_variables.pth"

Predicate = Callable[[Any], bool]


def whole(least: int) -> Predicate:
    return lambda x: isinstance(x, Integral) and not isinstance(x, bool) and least <= x <= 2**53


def number(least: float, most: float = math.inf, infinite: bool = False) -> Predicate:
    return lambda x: (
        isinstance(x, Real) and not isinstance(x, bool) and least <= x <= most and (infinite or abs(x) < 1e300)
    )


def switch(x: Any) -> bool:
    return isinstance(x, (bool, int)) and x in (0, 1)


def optional(predicate: Predicate) -> Predicate:
    return lambda x: x is None or predicate(x)


def text_or_none(x: Any) -> bool:
    return x is None or isinstance(x, str)


def anything(x: Any) -> bool:
    return True


def clock(least: int) -> Predicate:
    def is_clock(x: Any) -> bool:
        count, unit = x if isinstance(x, (tuple, list)) and len(x) == 2 else (x, "updates")
        return whole(least)(count) and unit in ("updates", "timesteps")

    return is_clock


def topology(x: Any) -> bool:
    rules = x.values() if isinstance(x, dict) and set(x) == {"actor", "critic"} else [x]
    return all(rule in ("rigl", "set", "static", "dense") for rule in rules)


def counters(x: Any) -> bool:
    return (
        isinstance(x, dict)
        and set(x) == {"actor", "critic"}
        and all(isinstance(c, dict) and set(c) == {"updates", "evolutions"} for c in x.values())
        and all(whole(0)(n) for c in x.values() for n in c.values())
        and all(c["evolutions"] <= c["updates"] for c in x.values())
    )


def entropy(x: Any) -> bool:
    if isinstance(x, str):
        return x == "auto" or (x.startswith("auto_") and float(x[5:]) > 0)
    return number(0.0)(x)


def unpickled(x: Any) -> Any:
    """What is pickled in the JSON data; anything else as it is."""
    return cloudpickle.loads(base64.b64decode(x[":serialized:"])) if isinstance(x, dict) and ":serialized:" in x else x


def frequency(x: Any) -> bool:
    count, unit = x if isinstance(x, tuple) and len(x) == 2 else (x, "step")
    return whole(1)(count) and unit in ("step", "episode", *TrainFrequencyUnit)


def noise(x: Any) -> bool:
    """Noise for one action."""
    return (
        isinstance(x, NormalActionNoise)
        and x._mu.shape == x._sigma.shape == (1,)
        and bool(np.isfinite(x._mu).all() and np.isfinite(x._sigma).all() and (x._sigma >= 0).all())
    )


SETTINGS: dict[str, Predicate] = {
    **dict.fromkeys(("buffer_size", "batch_size", "policy_delay", "target_update_interval", "n_steps"), whole(1)),
    **dict.fromkeys(("topology_interval", "buffer_check_interval"), clock(1)),
    "n_steps_delay": clock(0),
    **dict.fromkeys(("learning_starts", "buffer_min_size", "_n_updates", "_episode_num"), whole(0)),
    **dict.fromkeys(("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_stats_window_size"), whole(0)),
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), whole(-1)),
    **dict.fromkeys(("tau", "gamma"), number(0.0, 1.0)),
    **dict.fromkeys(("optimize_memory_usage", "use_sde", "use_sde_at_warmup", "dynamic_buffer"), switch),
    "learning_rate": number(0.0),
    "target_policy_noise": number(0.0),
    "target_noise_clip": number(0.0, infinite=True),
    "start_time": number(0.0),
    "_current_progress_remaining": number(-math.inf, 1.0),
    "target_entropy": lambda x: x == "auto" or number(-math.inf)(x),
    "ent_coef": entropy,
    "seed": optional(lambda x: whole(0)(x) and x < 2**32),
    "verbose": lambda x: isinstance(x, int) and x >= 0,
    "tensorboard_log": text_or_none,
    "topology": topology,
    **dict.fromkeys(("offline_interval",), optional(whole(1))),
    **dict.fromkeys(("_last_trained",), optional(whole(0))),
    "offline_updates": whole(0),
    "topology_end": optional(clock(1)),
    "topology_counters": counters,
    "drop_fraction": lambda x: number(0.0, 1.0)(x) and x > 0,
    "actor_sparsity": lambda x: number(0.0, 1.0)(x) and x < 1,
    "critic_sparsity": lambda x: number(0.0, 1.0)(x) and x < 1,
    "buffer_distance_threshold": optional(number(0.0, infinite=True)),
    "engine": lambda x: x in ("auto", "compiled", "torch"),
    "action_noise": lambda x: x is None or noise(unpickled(x)),
    "train_freq": lambda x: frequency(unpickled(x)),
    "policy_kwargs": lambda x: isinstance(x, dict),
    "replay_buffer_kwargs": lambda x: isinstance(x, dict),
    "replay_buffer_class": lambda x: x is None,
    "checkpoint_format": lambda x: x == 1,
    "algorithm_name": lambda x: x in ("RLx2TD3", "RLx2SAC"),
    "observations_were_normalized": anything,
}
"""What each setting in the JSON data may be; one that is not listed is made anew when a model is loaded."""

COSMETIC = (
    "algorithm_name", "observations_were_normalized", "verbose", "tensorboard_log", "start_time", "_stats_window_size",
    "engine",
)  # fmt: skip
"""Settings that may be missing, since they decide nothing about what is learned."""

FLAGS = ("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay")
OPTIONS: dict[str, Predicate] = {
    "lr": number(-math.inf),  # the next update sets it
    "eps": number(0.0),
    "weight_decay": number(0.0),
    "betas": lambda x: isinstance(x, (tuple, list)) and len(x) == 2 and all(number(0.0, 1.0)(b) and b < 1 for b in x),
}


def finite_tensor(given: Any, own: th.Tensor) -> bool:
    """A tensor of the same shape and kind of numbers, all of them finite in the precision of the other."""
    return (
        isinstance(given, th.Tensor)
        and given.layout == th.strided
        and given.device.type == "cpu"
        and given.shape == own.shape
        and given.is_floating_point() == own.is_floating_point()
        and not given.is_complex()
        and (given.dtype != th.bool)
        and (not given.is_floating_point() or bool(given.to(own.dtype).isfinite().all()))
    )


def possible_data(original: dict[str, Any], data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    for name, value in original.items():
        if name not in data:
            if name in SETTINGS and name not in COSMETIC:
                return False
        elif (data[name] != value or type(data[name]) is not type(value)) and not SETTINGS.get(name, anything)(
            data[name]
        ):
            return False
    return True


def possible_policy(original: dict[str, Any], policy: Any, sizes: dict[str, int]) -> bool:
    if not isinstance(policy, dict) or set(policy) != set(original):
        return False
    for name, own in original.items():
        given = policy[name]
        if not finite_tensor(given, own):
            return False
        if name.endswith("indices"):
            flat = given.long()
            if int(flat[0]) < 0 or int(flat[-1]) >= sizes[name] or not bool((flat[1:] > flat[:-1]).all()):
                return False
            network, _, rest = name.partition(".")
            target = policy.get(f"{network}_target.{rest}", given)
            if not isinstance(target, th.Tensor) or target.shape != given.shape or not th.equal(target.long(), flat):
                return False
    return True


def possible_optimizer(original: dict[str, Any], given: Any) -> bool:
    if not isinstance(given, dict) or not {"state", "param_groups"} <= set(given):
        return False
    groups, state = given["param_groups"], given["state"]
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        return False
    own = original["param_groups"][0]
    if groups[0].get("params") != own["params"] or not isinstance(state, dict):
        return False
    for name, predicate in OPTIONS.items():
        if name not in groups[0] or not predicate(groups[0][name]):
            return False
    if any(name in groups[0] and groups[0][name] is not own[name] for name in FLAGS):
        return False
    if state and set(state) != set(original["state"]):
        return False
    return all(possible_moments(original["state"][number], state[number]) for number in state)


def possible_moments(original: dict[str, th.Tensor], given: Any) -> bool:
    if not isinstance(given, dict) or set(given) != set(original):
        return False
    is_number = isinstance(given["step"], Real) and not isinstance(given["step"], bool)
    step = th.tensor(float(given["step"])) if is_number else given["step"]
    given = {**given, "step": step}
    if not all(finite_tensor(given[name], own) for name, own in original.items()):
        return False
    return bool((given["exp_avg_sq"] >= 0).all()) and float(step) >= 0 and float(step) % 1 == 0


def possible_variables(original: dict[str, th.Tensor], given: Any) -> bool:
    return (
        isinstance(given, dict)
        and set(given) == set(original)
        and all(finite_tensor(given[name], own) for name, own in original.items())
    )


def possible_members(original: dict[str, Any], given: dict[str, Any], sizes: dict[str, int]) -> bool:
    """Whether what a model file holds could be right.

    :param original: what the whole file holds: ``data`` as parsed JSON, and each ``….pth`` as loaded
    :param given: what the damaged file holds
    :param sizes: in_features * out_features of the layer that a name of indices belongs to
    """
    pth, given_pth = ({name for name in members if name.endswith(".pth")} for members in (original, given))
    # TD3 has no variables, and its file need not say so
    needed = pth if original[VARIABLES] else pth - {VARIABLES}
    if not needed <= given_pth <= pth:
        return False
    return (
        possible_data(original["data"], given.get("data"))
        and possible_policy(original["policy.pth"], given["policy.pth"], sizes)
        and possible_variables(original[VARIABLES], given.get(VARIABLES, {}))
        and all(possible_optimizer(original[name], given[name]) for name in pth if name.endswith("optimizer.pth"))
    )


ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", "noise_free_actions")


def possible_buffer(original: Any, given: Any) -> bool:
    """Whether a replay buffer could be right.

    :param original: the buffer before it was damaged
    :param given: the buffer
    """
    if type(given) is not type(original):
        return False
    own, new = vars(original), vars(given)
    for name in (name for name in ARRAYS if name in own):
        array = new.get(name)
        if not isinstance(array, np.ndarray) or array.shape != own[name].shape:
            return False
        # Observations may be stored in another precision
        if array.dtype != own[name].dtype and ("observations" not in name or array.dtype.kind != own[name].dtype.kind):
            return False
    size, pos, full = own["buffer_size"], new["pos"], new["full"]
    forgotten = new.get("_forgotten_rows", 0)
    if (
        new["buffer_size"] != size
        or new["optimize_memory_usage"] not in (False,)
        or not isinstance(full, (bool, np.bool_))
        or not (whole(0)(pos) and pos < size)
    ):
        return False
    rows = size if full else pos
    if not (whole(0)(forgotten) and forgotten <= rows):
        return False
    held = (np.arange(rows - forgotten) + (pos if full else 0) + forgotten) % size
    if not all(np.isfinite(new[name][held]).all() for name in ARRAYS if name in own):
        return False
    return all(np.isin(new[name][held], (0.0, 1.0)).all() for name in ("dones", "timeouts"))
