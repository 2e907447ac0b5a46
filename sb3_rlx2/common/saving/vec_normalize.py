"""Files of VecNormalize's running statistics."""

from __future__ import annotations

import math
import os
import pickle
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_rlx2.common.saving.model_files import check_kind
from sb3_rlx2.common.saving.opening import WITHOUT_PICKLE, is_without_pickle, naming, opened, path_to_write
from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, replacing, write_state

KIND = "VecNormalize"
FORMAT = 1
SUFFIX = ".pkl"

NUMBERS = ("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
SETTINGS = (*NUMBERS, "norm_obs_keys")
SPACES = ("observation_space", "action_space")


def save_vec_normalize(env: VecNormalize, path: str | os.PathLike[str]) -> None:
    """Save settings and running statistics, as ``VecNormalize.save`` does, but wholly or not at all.

    :param env: the environments
    :param path: path of the file; without pickle if it ends in ``.safetensors``, or else one that
        ``VecNormalize.load`` reads too; ``.pkl`` is added to a name without suffix
    :raises OSError: if the file cannot be written
    """
    target = path_to_write(path, SUFFIX)
    if target.suffix == WITHOUT_PICKLE:
        write_state(target, vec_normalize_state(env))
        return
    with replacing(target) as file:
        pickle.dump(env, file)


def load_vec_normalize(path: str | os.PathLike[str], venv: VecEnv, trusted: bool | None = None) -> VecNormalize:
    """Load what ``save_vec_normalize`` or ``VecNormalize.save`` wrote.

    :param path: path of the file
    :param venv: the environments to normalize
    :param trusted: whether the file may be a pickle, which can run any code; None (default): yes, unless the
        environment variable ``RLX2_TRUSTED`` is 0
    :raises ModelFileError: if it is no such file, is not trusted, or is for other spaces
    """
    env = _read(path, trusted, venv)
    if cast(Any, env).venv is None:  # it was unpickled
        with naming(os.fspath(path), "does not fit these environments"):
            env.set_venv(venv)
    return env


def read_vec_normalize(path: str | os.PathLike[str], trusted: bool | None = None) -> VecNormalize:
    """Read what was saved, to save it again: it has no environments.

    :param path: path of the file
    :param trusted: as for ``load_vec_normalize``
    :raises ModelFileError: if it is no such file, or is not trusted
    """
    return _read(path, trusted, None)


def _read(path: str | os.PathLike[str], trusted: bool | None, venv: VecEnv | None) -> VecNormalize:
    name = os.fspath(path)
    with naming(name, "holds no VecNormalize, or was cut short"), opened(name, SUFFIX) as file:
        if is_without_pickle(file):
            return _of_state(read_state(file), venv)
        check_trusted(trusted, name)
        env = pickle.load(file)
        if not isinstance(env, VecNormalize):
            raise ModelFileError(f"it holds a {type(env).__name__}, not a VecNormalize")
        return env


def vec_normalize_state(env: VecNormalize) -> dict[str, Any]:
    """What a file without pickle holds of a ``VecNormalize``.

    :param env: the environments
    """
    names = (*SETTINGS, *SPACES, "ret_rms", *(("obs_rms",) if env.norm_obs else ()))
    return {"kind": KIND, "format": FORMAT, **{name: vars(env)[name] for name in names}}


def _of_state(state: Any, venv: VecEnv | None) -> VecNormalize:
    check_kind(state, KIND, FORMAT)
    if not all(isinstance(state[name], spaces.Space) for name in SPACES):
        raise ModelFileError("it has no spaces")
    for name in NUMBERS:
        if not (isinstance(state[name], (int, float, np.number, np.bool_)) and math.isfinite(state[name])):
            raise ModelFileError(f"its {name} is {state[name]!r}, expected a finite number, or True or False")
    env = VecNormalize(
        DummyVecEnv([lambda: _Spaces(*(state[name] for name in SPACES))]) if venv is None else venv,
        **{name: state[name] for name in SETTINGS},
    )
    for name in ("ret_rms", *(("obs_rms",) if env.norm_obs else ())):
        given, own = state[name], vars(env)[name]
        if not isinstance(own, dict):
            _check_statistics(name, given, own)
        elif not isinstance(given, dict) or given.keys() != own.keys():
            raise ModelFileError(f"its {name} has not the keys {[*own]}")
        else:
            for key in own:
                _check_statistics(f"{name}[{key!r}]", given[key], own[key])
        vars(env)[name] = given
    return env


class _Spaces(gymnasium.Env[Any, Any]):
    """Stands for the environments where there are none."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def _check_statistics(name: str, given: Any, own: RunningMeanStd) -> None:
    if not isinstance(given, RunningMeanStd):
        raise ModelFileError(f"its {name} is a {type(given).__name__}")
    for part in ("mean", "var"):
        expected, found = vars(own)[part], np.asarray(vars(given)[part])
        if found.shape != expected.shape or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ModelFileError(f"its {name}.{part} is not {expected.shape} finite numbers")
    if not ((np.asarray(given.var) >= 0).all() and given.count > 0):
        raise ModelFileError(f"its {name} has a negative variance or no count")
