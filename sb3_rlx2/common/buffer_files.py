"""Whether a replay buffer, from a file or from the user, fits a model and is sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.engine.watch import Watch

KNOWN = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer, HerReplayBuffer)
"""Classes whose arrays are known; one derived from them may store its transitions in another way."""


def layout_problem(watch: Watch, model: OffPolicyAlgorithm) -> str | None:
    """Say why a model cannot learn from the spaces and arrays of its replay buffer.

    :param watch: what is read through
    :param model: the model
    :return: the problem in words that follow "the replay buffer"; None if there is none
    """
    return next(_layout_problems(watch, model), None)


def counter_problem(buffer: ReplayBuffer) -> str | None:
    """Say what is wrong with the counters that tell where transitions are stored. It takes about a microsecond.

    :param buffer: the replay buffer
    :return: the problem in words that follow "the replay buffer"; None if there is none
    """
    held = vars(buffer)
    rows, pos, full = held.get("buffer_size"), held.get("pos"), held.get("full")
    if not _is_count(rows) or rows < 1:
        return f"has buffer_size={rows!r}: it must be a whole number >= 1"
    if not isinstance(full, (bool, np.bool_)):
        return f"has full={full!r}: it must be True or False"
    if not _is_count(pos) or pos >= rows:
        return f"has pos={pos!r}: it must be in 0 <= pos < {rows}, its rows"
    forgotten, stored = held.get("_forgotten_rows", 0), rows if full else pos
    if not _is_count(forgotten) or forgotten > stored:
        return f"has {forgotten!r} forgotten rows: they must be among the {stored} that it has stored"
    return None


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def _layout_problems(watch: Watch, model: OffPolicyAlgorithm) -> Iterator[str]:
    buffer = watch.item(vars(model), "replay_buffer")
    if buffer is None:
        return
    held, own = vars(buffer), vars(model)
    rows, n_envs = watch.item(held, "buffer_size"), watch.item(held, "n_envs")
    if n_envs != watch.item(own, "n_envs"):
        yield f"is for n_envs={n_envs}, and the model has n_envs={model.n_envs}: they must be the same"
    for name in ("observation_space", "action_space"):
        given, expected = watch.item(held, name), watch.item(own, name)
        difference = _difference(given, expected)
        if difference is not None:
            yield f"has the {name} {given}, and the model's is {expected}: they differ in {difference}"
    if watch.type_of(buffer) in KNOWN or isinstance(buffer, DynamicReplayBuffer):
        yield from _array_problems(watch, held, own["observation_space"], own["action_space"], (rows, n_envs))


def _difference(given: Any, own: Any) -> str | None:
    """In what two spaces differ, as far as it matters to what is stored."""
    if isinstance(own, spaces.Dict):
        if not isinstance(given, spaces.Dict) or given.spaces.keys() != own.spaces.keys():
            return "their keys"
        problems = (_difference(given.spaces[key], space) for key, space in own.spaces.items())
        return next((problem for problem in problems if problem is not None), None)
    if getattr(given, "shape", None) != own.shape:
        return "shape"
    if getattr(given, "dtype", None) != own.dtype:
        return "type"
    # The bounds of a Box are not looked at: wrappers change them, and stored actions are scaled to [-1, 1]
    return None if isinstance(own, spaces.Box) or given == own else "size"


def _array_problems(
    watch: Watch,
    held: dict[str, Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    rows: tuple[int, int],
) -> Iterator[str]:
    shape, n_act = cast(Any, get_obs_shape(observation_space)), get_action_dim(action_space)
    sizes = watch.item(held, "obs_shape"), watch.item(held, "action_dim")
    if sizes != (shape, n_act):
        yield f"has obs_shape={sizes[0]}, action_dim={sizes[1]}, expected {shape}, {n_act}"
    expected: dict[str, Any] = {}
    for name in ("observations", "next_observations"):
        if name == "observations" or not watch.item(held, "optimize_memory_usage"):
            expected[name] = _layouts(observation_space, shape)
    expected["actions"] = _layouts(action_space, (n_act,))
    if "noise_free_actions" in held:
        expected["noise_free_actions"] = expected["actions"]
    expected |= dict.fromkeys(("rewards", "dones", "timeouts"), ((), "f"))
    expected |= dict.fromkeys({"ep_start", "ep_length"} & held.keys(), ((), "i"))  # of a HerReplayBuffer
    for name, layout in expected.items():
        stored = watch.item(held, name)
        if not isinstance(layout, dict):
            yield from _array_problem(watch, name, stored, rows, *layout)
        elif not isinstance(stored, dict) or stored.keys() != layout.keys():
            yield f"has other {name} than {[*layout]}"
        else:
            for key, array in watch.items(stored).items():
                yield from _array_problem(watch, f"{name}[{key!r}]", array, rows, *layout[key])


def _layouts(space: spaces.Space[Any], shape: Any) -> Any:
    """Shape and kind of type of what is stored of a space, for a Dict by key."""
    if isinstance(space, spaces.Dict):
        return {key: _layouts(part, shape[key]) for key, part in space.spaces.items()}
    return shape, np.dtype(space.dtype).kind


def _array_problem(
    watch: Watch, name: str, array: Any, rows: tuple[int, int], shape: tuple[int, ...], kind: str
) -> Iterator[str]:
    if not isinstance(array, np.ndarray):
        yield f"has {name} of type {type(array).__name__}"
        return
    watch.array(array)
    if array.shape != (*rows, *shape):
        yield f"has {name} of shape {array.shape}, expected {(*rows, *shape)}"
    elif array.dtype.kind != kind:
        yield f"has {name} of type {array.dtype}"
