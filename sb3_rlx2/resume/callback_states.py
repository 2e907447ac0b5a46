"""The states of callbacks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_rlx2.files import replacing
from sb3_rlx2.resume.environments import (
    environment_state,
    set_environment_state,
    set_vectorized_state,
    vectorized_state,
)
from sb3_rlx2.resume.plain_data import (
    KNOWN_PACKAGES,
    attributes_of,
    named_with_class,
    other_attributes,
    set_attributes,
)

STRUCTURE = ("model", "parent", "locals", "globals")

PATHS = ("save_path", "log_path", "best_model_save_path")
"""Attributes of SB3's and the zoo's callbacks that say where they write, as a new one is told when it is made."""

WITHOUT_STATE = (CallbackList, ProgressBarCallback)
"""Callbacks that do the same whatever they did before."""


def callbacks_by_name(root: BaseCallback) -> dict[str, BaseCallback]:
    """A callback and those inside of it, by class and number among those of the class.

    :param root: the callback
    """
    named: dict[str, BaseCallback] = {}
    for callback in _flat(root):
        name = type(callback).__name__
        number = sum(key.rpartition(" ")[0] == name for key in named)
        named[f"{name} {number}"] = callback
    return named


def _flat(callback: BaseCallback) -> Iterator[BaseCallback]:
    if not isinstance(callback, WITHOUT_STATE):
        yield callback
    for name, value in vars(callback).items():
        if name not in STRUCTURE:
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, BaseCallback):
                    yield from _flat(inner)


def callback_states(root: BaseCallback, training_env: VecEnv) -> dict[str, Any]:
    """Read the states of a callback and those inside of it.

    What a callback returns from ``get_state()`` is its state; of others, it is the attributes that are plain data, and
    the states of their own environments.

    :param root: the callback
    :param training_env: the environments of the training, which are no callback's own
    :return: plain data for ``set_callback_states``
    """
    return {name: _state(callback, training_env) for name, callback in callbacks_by_name(root).items()}


def set_callback_states(root: BaseCallback, training_env: VecEnv, states: dict[str, Any]) -> None:
    """Put back what ``callback_states`` read. A callback that is new starts afresh, with a warning.

    :param root: the callback
    :param training_env: the environments of the training
    :param states: what ``callback_states`` returned
    """
    callbacks = callbacks_by_name(root)
    for name, callback in callbacks.items():
        if name in states:
            _set_state(callback, training_env, states[name])
    new, gone = sorted(callbacks.keys() - states.keys()), sorted(states.keys() - callbacks.keys())
    if new or gone:
        said = [f"{names} {what}" for names, what in ((", ".join(new), "new"), (", ".join(gone), "missing")) if names]
        warnings.warn(f"callbacks differ from those of the checkpoint: {'; '.join(said)}", stacklevel=2)


def refuse_callbacks_with_threads(root: BaseCallback) -> None:
    """Refuse the zoo's ``ParallelTrainCallback``: what its thread trains meanwhile is in no checkpoint.

    :param root: the callback, with all that is inside of it
    :raises ValueError: if it is among them
    """
    if any(type(callback).__name__ == "ParallelTrainCallback" for callback in _flat(root)):
        raise ValueError(
            "ParallelTrainCallback trains a copy of the model in another thread, which no checkpoint has: leave one "
            "of the two out"
        )


def unknown_attributes(root: BaseCallback, model: BaseAlgorithm) -> list[str]:
    """Attributes of callbacks of one's own that may hold a state, and of which nothing is kept.

    :param root: the callback, with all that is inside of it
    :param model: the one that is trained
    :return: such as ``"Counting.counter (a Counter)"``
    """
    return [
        named_with_class(callback, name)
        for callback in _flat(root)
        if not (type(callback).__module__.startswith(KNOWN_PACKAGES) or hasattr(callback, "get_state"))
        for name in other_attributes(callback, STRUCTURE)
        if vars(callback)[name] is not model and not _is_known(vars(callback)[name])
    ]


def _is_known(value: Any) -> bool:
    if isinstance(value, list) and value:
        return all(map(_is_known, value))
    return isinstance(value, (BaseCallback, VecEnv, gym.Env, PurePath))


def environments_of(callback: BaseCallback, training_env: VecEnv) -> dict[str, Any]:
    """The environments that are a callback's own, by attribute.

    :param callback: the callback
    :param training_env: the environments of the training
    """
    return {
        name: value
        for name, value in vars(callback).items()
        if isinstance(value, (VecEnv, gym.Env)) and value is not training_env
    }


def _state(callback: BaseCallback, training_env: VecEnv) -> dict[str, Any]:
    own = getattr(callback, "get_state", None)
    environments = environments_of(callback, training_env)
    return {
        "counts": [callback.n_calls, callback.num_timesteps],
        # A copy, since it is written while the callback goes on
        "state": attributes_of(callback, (*STRUCTURE, *PATHS)) if own is None else copy.deepcopy(own()),
        "environments": {
            name: vectorized_state(env) if isinstance(env, VecEnv) else environment_state(env)
            for name, env in environments.items()
        },
    }


def _set_state(callback: BaseCallback, training_env: VecEnv, saved: dict[str, Any]) -> None:
    callback.n_calls, callback.num_timesteps = saved["counts"]
    if hasattr(callback, "get_state"):
        callback.set_state(saved["state"])  # type: ignore[attr-defined]
    else:
        set_attributes(callback, {name: kept for name, kept in saved["state"].items() if name not in PATHS})
    for name, env in environments_of(callback, training_env).items():
        if name in saved["environments"]:
            if isinstance(env, VecEnv):
                set_vectorized_state(env, saved["environments"][name])
            else:
                set_environment_state(env, saved["environments"][name])
    if isinstance(callback, EvalCallback):
        _rewrite_evaluations(callback)


def _rewrite_evaluations(callback: EvalCallback) -> None:
    """The file as it was: that of the killed process may be damaged, or have later evaluations."""
    if callback.log_path is not None and callback.evaluations_timesteps:
        further = {"successes": callback.evaluations_successes} if callback.evaluations_successes else {}
        with replacing(f"{callback.log_path}.npz") as file:
            np.savez(
                file,
                timesteps=callback.evaluations_timesteps,
                results=callback.evaluations_results,
                ep_lengths=callback.evaluations_length,
                **further,  # type: ignore[arg-type]
            )
