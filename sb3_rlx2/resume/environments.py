"""The states of environments: read from wherever they run, and put back there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper

from sb3_rlx2.resume.log_files import log_file, rewrite_log_file
from sb3_rlx2.resume.plain_data import attributes_of, other_attributes, set_attributes
from sb3_rlx2.resume.random_states import random_states, set_random_states

ACCESS = "rlx2_checkpoint"
"""Attribute by which an environment in another process is reached."""

STRUCTURE = (
    *("env", "venv", "envs", "spec", "_cached_spec", "_saved_kwargs", "metadata"),
    *("class_attributes", "results_writer", ACCESS),
)
"""Attributes that say what an environment is made of; the state is in the others."""

OF_STEP = ("buf_obs", "buf_infos", "buf_rews", "buf_dones", "actions")
"""Attributes of a DummyVecEnv that each step fills anew."""

OF_PROCESSES = ("remotes", "work_remotes", "processes", "waiting", "closed")

WITHOUT_STATE = ("EnvSpec", "MjModel", "MujocoRenderer", "Surface", "Clock")
"""Classes whose objects do not change what an environment does next."""

KNOWN_MODULES = (
    "gymnasium.envs.classic_control.",
    "gymnasium.envs.mujoco.",
    "gymnasium.envs.toy_text.",
    "gymnasium.wrappers.",
    "stable_baselines3.common.",
)
"""Where environments and wrappers are whose state is in their attributes, by tests."""

N_TRIED = 20
"""Steps for which an unknown environment must do the same with a state that was put back."""


class EnvironmentState(NamedTuple):
    """How the state of a class of environments is read and put back.

    :param get: given the environment, returns its state as plain data: None, numbers, text, arrays, lists, tuples and
        dicts of them
    :param set: given the environment and such a state, puts it back
    """

    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]


_registered: dict[type, EnvironmentState] = {}


def register_environment(
    environment_class: type, get_state: Callable[[Any], Any], set_state: Callable[[Any, Any], None]
) -> None:
    """Say how the state of an environment or wrapper is read and put back, if it is not in its plain attributes.

    Subclasses are included. Functions must be importable where environments run in processes of their own.

    :param environment_class: the class of the environment, or of a wrapper (without what it wraps)
    :param get_state: given the environment, returns its state as plain data: None, numbers, text, arrays, lists, tuples
        and dicts of them; random generators included (``env.np_random.bit_generator.state``)
    :param set_state: given another environment of that class and such a state, puts it back
    """
    _registered[environment_class] = EnvironmentState(get_state, set_state)


# --- one environment ---


def environment_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Read the state of an environment and its wrappers.

    :param env: the environment
    :return: plain data for ``set_environment_state``
    """
    return {"layers": [_layer_state(layer) for layer in _layers(env)]}


def set_environment_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Put back what ``environment_state`` read.

    :param env: an environment with the same wrappers
    :param state: what ``environment_state`` returned
    :raises ValueError: if it is made of other classes
    """
    layers, names = list(_layers(env)), [layer["class"] for layer in state["layers"]]
    if [_name(layer) for layer in layers] != names:
        own = [_name(layer) for layer in layers]
        raise ValueError(f"the environment is {' of '.join(own)}, and that of the checkpoint is {' of '.join(names)}")
    for layer, saved in zip(layers, state["layers"], strict=True):
        _set_layer_state(layer, saved)


def exactness_problem(env: gym.Env[Any, Any]) -> str | None:
    """Say why the state of an environment cannot be put back so that it does the same; None if it can.

    Environments that are not Gymnasium's own are tried: of two copies one is moved on, gets the state back, and both
    must then do the same.

    :param env: the environment, which stays as it is
    """
    for layer in _layers(env):
        if _registration(layer) is not None:
            continue
        is_known = type(layer).__module__.startswith(KNOWN_MODULES)
        if isinstance(layer, gym.Wrapper) or is_known:
            unknown = [
                name
                for name in other_attributes(layer, STRUCTURE)
                if type(vars(layer)[name]).__name__ not in WITHOUT_STATE
            ]
            if unknown:
                value = vars(layer)[unknown[0]]
                return f"its {type(layer).__name__}.{unknown[0]} is a {type(value).__name__}"
        elif not _is_exact_by_trial(layer):
            return f"its {type(layer).__name__} does not do the same after its attributes were put back"
    return None


def _layers(env: Any) -> Iterator[Any]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _name(layer: Any) -> str:
    # RL Baselines3 Zoo puts a class of its own in the place of Gymnasium's, which is the same where it is not imported
    return type(layer).__name__.removeprefix("Patched")


def _registration(layer: Any) -> EnvironmentState | None:
    return next((_registered[cls] for cls in type(layer).__mro__ if cls in _registered), None)


def _layer_state(layer: Any, without: tuple[str, ...] = STRUCTURE) -> dict[str, Any]:
    own = _registration(layer)
    # A copy, since it is written while the environment goes on
    state = attributes_of(layer, without) if own is None else copy.deepcopy(own.get(layer))
    saved = {"class": _name(layer), "state": state}
    path = log_file(layer)
    return saved if path is None else {**saved, "log": {"path": path}}


def _set_layer_state(layer: Any, saved: dict[str, Any]) -> None:
    own = _registration(layer)
    if own is None:
        set_attributes(layer, saved["state"])
    else:
        own.set(layer, saved["state"])
    if "log" in saved and "content" in saved["log"]:
        rewrite_log_file(layer, saved["log"]["content"])


def _is_exact_by_trial(env: gym.Env[Any, Any]) -> bool:
    before = random_states()
    try:
        with np.errstate(all="ignore"):
            one, other = copy.deepcopy(env), copy.deepcopy(env)
            state, actions = _layer_state(env), copy.deepcopy(env.action_space)
            other.reset(seed=1)
            for _ in range(3):
                other.step(actions.sample())
            _set_layer_state(other, state)
            return all(_do_the_same(one, other, actions.sample()) for _ in range(N_TRIED))
    except Exception:  # whatever an environment raises that cannot be copied
        return False
    finally:
        set_random_states(before)


def _do_the_same(one: gym.Env[Any, Any], other: gym.Env[Any, Any], action: Any) -> bool:
    state = random_states()
    result = one.step(action)
    set_random_states(state)
    same = _equal(result[:4], other.step(action)[:4])
    if result[2] or result[3]:
        state = random_states()
        first = one.reset()[0]
        set_random_states(state)
        same = same and _equal(first, other.reset()[0])
    return same


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return bool(np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f"))


# --- in whatever process ---


class Access:
    """Calls functions with an environment in the process in which it runs.

    :param env: the environment
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function.

        :param function: a function of a module, which takes the environment first
        :param arguments: its further arguments
        """
        return function(self.env, *arguments)


class _Installer:
    """Gives an environment in another process its ``Access``.

    The only message to such a process that hands out the environment itself asks whether it has a wrapper of a class.
    """

    def __instancecheck__(self, env: Any) -> bool:
        setattr(env, ACCESS, Access(env))
        return True  # only the outermost wrapper is asked


def call_in_environments(base: VecEnv, function: Callable[..., Any], arguments: list[Any] | None = None) -> list[Any]:
    """Call a function with each environment, in the process in which that runs.

    :param base: a ``DummyVecEnv`` or ``SubprocVecEnv``
    :param function: a function of a module, which takes an environment first
    :param arguments: a further argument for each environment; None: none
    :return: what it returned for each
    :raises ValueError: if environments in processes of their own cannot be reached
    """
    if isinstance(base, SubprocVecEnv):
        if not base.has_attr(ACCESS):
            base.env_is_wrapped(cast(Any, _Installer()))
            if not base.has_attr(ACCESS):
                raise ValueError("environments in processes of their own need a wrapper, such as Monitor")
        if arguments is None:
            return base.env_method(ACCESS, function)
        return [base.env_method(ACCESS, function, arguments[i], indices=[i])[0] for i in range(base.num_envs)]
    envs = cast(DummyVecEnv, base).envs
    if arguments is None:
        return [function(env) for env in envs]
    return [function(env, argument) for env, argument in zip(envs, arguments, strict=True)]


def _state_in_process(env: gym.Env[Any, Any]) -> dict[str, Any]:
    return {**environment_state(env), "random": random_states()}


def _set_state_in_process(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    set_environment_state(env, state)
    if "random" in state:
        set_random_states(state["random"])


# --- vectorized ---


def vectorized_problem(venv: VecEnv) -> str | None:
    """Say why the states of environments cannot be put back so that they do the same; None if they can.

    :param venv: the vectorized environment with its wrappers; its first environment is looked at
    """
    *wrappers, base = vector_layers(venv)
    for wrapper in wrappers:
        unknown = other_attributes(wrapper, STRUCTURE)
        if unknown:
            value = vars(wrapper)[unknown[0]]
            return f"its {_name(wrapper)}.{unknown[0]} is a {type(value).__name__}"
    if not isinstance(base, (DummyVecEnv, SubprocVecEnv)):
        return f"it is a {_name(base)}, not a DummyVecEnv or SubprocVecEnv"
    try:
        return cast("str | None", call_in_environments(base, exactness_problem)[0])
    except ValueError as error:
        return str(error)


def vectorized_state(venv: VecEnv) -> dict[str, Any]:
    """Read the states of environments, of the wrappers of all of them, and of each.

    :param venv: the vectorized environment, for which ``vectorized_problem`` found none
    :return: plain data for ``set_vectorized_state``
    """
    *wrappers, base = vector_layers(venv)
    environments = None
    if isinstance(base, (DummyVecEnv, SubprocVecEnv)):
        in_processes = isinstance(base, SubprocVecEnv)
        environments = call_in_environments(base, _state_in_process if in_processes else environment_state)
    return {
        "wrappers": [_layer_state(wrapper) for wrapper in wrappers],
        "base": _layer_state(base, STRUCTURE + OF_STEP + OF_PROCESSES),
        "environments": environments,
    }


def set_vectorized_state(venv: VecEnv, state: dict[str, Any]) -> None:
    """Put back what ``vectorized_state`` read.

    :param venv: a vectorized environment with the same wrappers, and as many environments with the same wrappers
    :param state: what ``vectorized_state`` returned
    :raises ValueError: if it is made of other classes
    """
    *wrappers, base = vector_layers(venv)
    own, names = [_name(wrapper) for wrapper in wrappers], [wrapper["class"] for wrapper in state["wrappers"]]
    if own != names:
        raise ValueError(f"the environments have the wrappers {own}, and those of the checkpoint {names}")
    if state["environments"] is not None and base.num_envs != len(state["environments"]):
        raise ValueError(f"there are {base.num_envs} environments, and {len(state['environments'])} in the checkpoint")
    for wrapper, saved in zip(wrappers, state["wrappers"], strict=True):
        _set_layer_state(wrapper, saved)
    set_attributes(base, state["base"]["state"])
    if state["environments"] is not None and isinstance(base, (DummyVecEnv, SubprocVecEnv)):
        in_processes = isinstance(base, SubprocVecEnv)
        call_in_environments(
            base, _set_state_in_process if in_processes else set_environment_state, state["environments"]
        )


def logs_of(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of log files (``monitor.csv``) in what ``vectorized_state`` returned.

    :param state: what it returned
    """
    layers = [*state["wrappers"], *(layer for env in state["environments"] or () for layer in env["layers"])]
    for layer in layers:
        if "log" in layer:
            yield layer["log"]


def vector_layers(venv: VecEnv) -> Iterator[Any]:
    """A vectorized environment's wrappers, the outermost first, then what they wrap.

    :param venv: the vectorized environment
    """
    while isinstance(venv, VecEnvWrapper):
        yield venv
        venv = venv.venv
    yield venv
