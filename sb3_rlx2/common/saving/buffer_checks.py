"""Whether a replay buffer, from a file or from the user, fits a model and is sound."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, TypeGuard, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.engine.watch import Watch

NUMBERS = ("_observation_max", "last_check", "last_distance")
"""What a ``DynamicReplayBuffer`` remembers beside its counters."""

CHUNK = 2**16
"""Rows that are looked at at once; it bounds the memory that this takes."""

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


def content_problem(buffer: ReplayBuffer, own: ReplayBuffer | None) -> str | None:
    """Say why no training could have left this in a replay buffer; None if one could.

    It looks at each number that is stored, and is for a buffer whose counters and layout have no problem.

    :param buffer: the replay buffer
    :param own: one that the model made itself; None: there is none
    :return: the problem in words that follow "the replay buffer"
    """
    if type(own) is type(buffer):
        missing = sorted(vars(own).keys() - vars(buffer).keys())
        if missing:
            return f"has no {missing[0]}"
        for name in (name for name in NUMBERS if name in vars(own)):
            if not isinstance(vars(buffer)[name], Real):
                return f"has {name}={vars(buffer)[name]!r}: it must be a number"
    if not (isinstance(buffer, DynamicReplayBuffer) or type(buffer) in KNOWN):
        return None
    space = buffer.action_space
    # Forgotten rows too: n-step returns multiply them by zero
    stored = buffer.buffer_size if buffer.full else buffer.pos
    for name, array in _stored_arrays(buffer):
        for first in range(0, stored, CHUNK):
            rows = array[first : min(first + CHUNK, stored)]
            if array.dtype.kind == "f" and not np.isfinite(rows).all():
                return f"has {name} that are NaN or infinite"
            if name == "actions" and isinstance(space, spaces.Discrete) and not ((rows >= 0) & (rows < space.n)).all():
                return f"has actions that are not in {space}"
            if name in ("dones", "timeouts") and not ((rows == 0.0) | (rows == 1.0)).all():
                return f"has {name} that are neither 0 nor 1"
    return None


def _stored_arrays(buffer: ReplayBuffer) -> Iterator[tuple[str, Any]]:
    for name in ("observations", "next_observations", "actions", "noise_free_actions", "rewards", "dones", "timeouts"):
        stored = vars(buffer).get(name, {})
        if isinstance(stored, dict):
            yield from ((f"{name}[{key!r}]", array) for key, array in stored.items())
        else:
            yield name, stored


def _is_count(value: Any) -> TypeGuard[int]:
    if type(value) is int:  # nearly always
        return value >= 0
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 0)


def _layout_problems(watch: Watch, model: OffPolicyAlgorithm) -> Iterator[str]:
    buffer = watch.item(vars(model), "replay_buffer")
    if buffer is None:
        return
    held, own = vars(buffer), vars(model)
    if not (watch.type_of(buffer) in KNOWN or isinstance(buffer, DynamicReplayBuffer)):
        return  # a class of one's own may store what it likes
    rows, n_envs = watch.item(held, "buffer_size"), watch.item(held, "n_envs")
    if n_envs != watch.item(own, "n_envs"):
        yield f"is for n_envs={n_envs}, and the model has n_envs={model.n_envs}: they must be the same"
    for name in ("observation_space", "action_space"):
        given, expected = watch.item(held, name), watch.item(own, name)
        difference = _difference(given, expected)
        if difference is not None:
            yield f"has the {name} {given}, and the model's is {expected}: they differ in {difference}"
    if not _is_count(n_envs):
        yield f"has n_envs={n_envs!r}: it must be a whole number"
    further = ("noise_free_actions",) if isinstance(buffer, DynamicReplayBuffer) else ()
    yield from _array_problems(watch, held, own["observation_space"], own["action_space"], (rows, n_envs), further)


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
    further_actions: tuple[str, ...],
) -> Iterator[str]:
    shape, n_act = cast(Any, get_obs_shape(observation_space)), get_action_dim(action_space)
    sizes = watch.item(held, "obs_shape"), watch.item(held, "action_dim")
    if sizes != (shape, n_act) or not _is_count(sizes[1]):
        yield f"has obs_shape={sizes[0]}, action_dim={sizes[1]}, expected {shape}, {n_act}"
    is_shared, has_next = watch.item(held, "optimize_memory_usage"), "next_observations" in held
    if not isinstance(is_shared, (bool, np.bool_)) or is_shared == has_next:
        with_or_without = "with" if has_next else "without"
        yield f"has optimize_memory_usage={is_shared!r}, {with_or_without} next_observations"
    expected: dict[str, Any] = {}
    for name in ("observations", "next_observations") if has_next else ("observations",):
        expected[name] = _layouts(observation_space, shape)
    stored_type = ReplayBuffer._maybe_cast_dtype(cast(Any, action_space.dtype))
    expected |= dict.fromkeys(("actions", *further_actions), ((n_act,), np.dtype(stored_type).name))
    expected |= dict.fromkeys(("rewards", "dones", "timeouts"), ((), "float32"))
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
    watch: Watch, name: str, array: Any, rows: tuple[int, int], shape: tuple[int, ...], type_or_kind: str
) -> Iterator[str]:
    if not isinstance(array, np.ndarray):
        yield f"has {name} of type {type(array).__name__}"
        return
    watch.array(array)
    dtype = array.dtype
    if array.shape != (*rows, *shape):
        yield f"has {name} of shape {array.shape}, expected {(*rows, *shape)}"
    elif type_or_kind not in (dtype.name, dtype.kind) or not dtype.isnative:
        yield f"has {name} of type {dtype.name if dtype.isnative else dtype}"
