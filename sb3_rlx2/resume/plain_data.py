"""What objects hold as plain data: read into a tree that a file can keep, and put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_rlx2.errors import ModelFileError

KIND = "__kind__"
"""Marks an entry of a tree that stands for an object."""

SCALARS = (bool, int, float, str, bytes)

KNOWN_PACKAGES = ("stable_baselines3.", "sb3_contrib.", "rl_zoo3.", "sb3_rlx2.")
"""Where callbacks and replay buffers are whose state is in their plain attributes, or that have ``get_state``."""

OBJECTS = (ActionNoise, StackedObservations)
"""Classes whose objects are what their attributes are; besides, all that are called RunningMeanStd."""


class _Nothing:
    """Stands for what is no plain data."""


NOTHING = _Nothing()


def attributes_of(owner: object, without: Collection[str] = ()) -> dict[str, Any]:
    """Copy the attributes of an object that are plain data.

    Plain are None, numbers, text, bytes, NumPy arrays, tensors, and lists, tuples, sets, dicts and deques of them;
    besides, random generators, the random states of spaces, action noise and running statistics.

    :param owner: the object
    :param without: names to leave out
    :return: a tree for ``set_attributes``
    """
    kept = {name: _kept(value) for name, value in vars(owner).items() if name not in without}
    return {name: value for name, value in kept.items() if value is not NOTHING}


def other_attributes(owner: object, without: Collection[str] = ()) -> list[str]:
    """Names of the attributes of an object that ``attributes_of`` leaves out and that may hold a state.

    :param owner: the object
    :param without: names to leave out
    """
    return [
        name
        for name, value in vars(owner).items()
        if name not in without and not callable(value) and _kept(value) is NOTHING
    ]


def named_with_class(owner: object, name: str) -> str:
    """What a warning calls an attribute: ``"Counting.counter (a Counter)"``.

    :param owner: the object
    :param name: of the attribute
    """
    return f"{type(owner).__name__}.{name} (a {type(vars(owner)[name]).__name__})"


def set_attributes(owner: object, tree: Mapping[str, Any]) -> None:
    """Put back what ``attributes_of`` read. Random generators and objects are changed in place.

    :param owner: an object of the same class
    :param tree: what ``attributes_of`` returned
    :raises ModelFileError: if it has a name that is no attribute, or a kind of object that is not known
    """
    for name, kept in tree.items():
        # A method of this name would be hidden
        if name.startswith("__") or callable(getattr(type(owner), name, None)):
            raise ModelFileError(f"it has a value for {name} of a {type(owner).__name__}, which is no attribute")
        vars(owner)[name] = _restored(kept, vars(owner).get(name))


def _kept(value: Any) -> Any:
    if value is None or type(value) in SCALARS or isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray):
        return value.copy() if type(value) is np.ndarray and value.dtype.kind in "biufSU" else NOTHING
    if isinstance(value, th.Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple, set):
        return _kept_items(value, type(value))
    if isinstance(value, dict):
        return _kept_dict(value)
    for kind, (is_one, keep, _) in KINDS.items():
        if is_one(value):
            state = keep(value)
            return NOTHING if state is NOTHING else {KIND: kind, "state": state}
    return NOTHING


def _kept_items(values: Any, container: Callable[[Any], Any] = list) -> Any:
    if len(values) > 32 and type(values) is list and set(map(type, values)) in ({float}, {int}):
        packed = np.array(values)
        if packed.dtype.kind in "fi":  # not so if a whole number has more than 64 bits
            return {KIND: "numbers", "state": packed}
    kept = [_kept(value) for value in values]
    return NOTHING if any(value is NOTHING for value in kept) else container(kept)


def _kept_dict(value: dict[Any, Any]) -> Any:
    kept = {key: _kept(entry) for key, entry in value.items()}
    if any(entry is NOTHING for entry in kept.values()):
        return NOTHING
    if all(type(key) is str for key in kept) and KIND not in kept:
        return kept
    keys = _kept_items(list(kept))
    return NOTHING if keys is NOTHING else {KIND: "dict", "state": [keys, list(kept.values())]}


def _restored(kept: Any, current: Any) -> Any:
    """The value that a tree stands for; an object that is there already takes it on and is returned."""
    if isinstance(kept, (np.ndarray, th.Tensor)):
        return kept.copy() if isinstance(kept, np.ndarray) else kept.clone()
    if type(kept) in (list, tuple, set):
        there = current if type(current) in (list, tuple) and len(current) == len(kept) else [None] * len(kept)
        return type(kept)(_restored(entry, own) for entry, own in zip(kept, there, strict=True))
    if not isinstance(kept, dict):
        return kept
    if KIND not in kept:
        there = current if isinstance(current, dict) else {}
        restored = {key: _restored(entry, there.get(key)) for key, entry in kept.items()}
        return _refilled(current, restored)
    kind, state = kept[KIND], kept["state"]
    if kind == "numbers":
        return state.tolist()
    if kind == "dict":
        return _refilled(current, dict(zip(_restored(state[0], None), _restored(state[1], None), strict=True)))
    if kind not in KINDS:
        raise ModelFileError(f"it has something of the kind {kind!r}, which is not known here")
    return KINDS[kind][2](state, current)


def _refilled(current: Any, restored: dict[Any, Any]) -> dict[Any, Any]:
    """A dict of another class (``defaultdict``, ``OrderedDict``) stays what it is."""
    if isinstance(current, dict) and type(current) is not dict:
        current.clear()
        current.update(restored)
        return current
    return restored


# --- objects ---


def _keep_deque(value: deque[Any]) -> Any:
    items = _kept_items(list(value))
    return NOTHING if items is NOTHING else {"items": items, "maxlen": value.maxlen}


def _restore_deque(state: Any, current: Any) -> deque[Any]:
    return deque(_restored(state["items"], None), state["maxlen"])


def _keep_generator(generator: np.random.Generator) -> Any:
    return _kept(generator.bit_generator.state)


def _restore_generator(state: Any, current: Any) -> Any:
    state = _restored(state, None)
    kind, generator = state["bit_generator"], current
    if not isinstance(generator, np.random.Generator) or type(generator.bit_generator).__name__ != kind:
        cls = getattr(np.random, kind, None)
        if not (isinstance(cls, type) and issubclass(cls, np.random.BitGenerator)):
            raise ModelFileError(f"it has a random generator {kind!r}, which is not known here")
        generator = np.random.Generator(cls())
    generator.bit_generator.state = state
    return generator


def _keep_random_state(generator: np.random.RandomState) -> Any:
    return _kept(generator.get_state(legacy=False))


def _restore_random_state(state: Any, current: Any) -> np.random.RandomState:
    generator = current if isinstance(current, np.random.RandomState) else np.random.RandomState()
    generator.set_state(_restored(state, None))
    return generator


def _keep_space(space: spaces.Space[Any]) -> Any:
    return {"own": _kept(space._np_random), "parts": [_kept(part) for part in _parts(space)]}


def _restore_space(state: Any, current: Any) -> Any:
    if isinstance(current, spaces.Space):
        current._np_random = _restored(state["own"], current._np_random)
        for part, own in zip(_parts(current), state["parts"], strict=False):
            _restored(own, part)
    return current


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    inner = getattr(space, "spaces", ())
    return list(inner.values()) if isinstance(inner, dict) else list(inner)


def _is_object(value: Any) -> bool:
    return isinstance(value, OBJECTS) or type(value).__name__ == "RunningMeanStd"


def _restore_object(state: Any, current: Any) -> Any:
    if current is not None:
        set_attributes(current, state)
    return current


def _is_mujoco_data(value: Any) -> bool:
    return type(value).__name__ == "MjData" and type(value).__module__.startswith("mujoco")


def _keep_mujoco_data(data: Any) -> dict[str, Any]:
    """All numbers of a simulation: beside the physics state, what the last step computed, which tasks read."""
    numbers: dict[str, Any] = {}
    for name in dir(data):
        # Constraints and contacts are found anew in each step, before they are used
        if not name.startswith(("_", "efc_", "iefc_", "plugin")):
            value = getattr(data, name, None)
            if isinstance(value, np.ndarray):
                numbers[name] = value.copy()
            elif type(value) in (int, float, bool):
                numbers[name] = value
    return numbers


def _restore_mujoco_data(state: dict[str, Any], data: Any) -> Any:
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            own = getattr(data, name, None)
            if isinstance(own, np.ndarray) and own.shape == value.shape:
                own[...] = value
        else:
            with suppress(AttributeError):  # what cannot be set follows from the rest
                setattr(data, name, value)
    return data


KINDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "deque": (lambda value: type(value) is deque, _keep_deque, _restore_deque),
    "generator": (lambda value: isinstance(value, np.random.Generator), _keep_generator, _restore_generator),
    "random state": (
        lambda value: isinstance(value, np.random.RandomState),
        _keep_random_state,
        _restore_random_state,
    ),
    "space": (lambda value: isinstance(value, spaces.Space), _keep_space, _restore_space),
    "object": (_is_object, attributes_of, _restore_object),
    "mujoco": (_is_mujoco_data, _keep_mujoco_data, _restore_mujoco_data),
}
"""Of each kind of object: whether a value is one, how its state is read, and how it is put back into what is there."""
