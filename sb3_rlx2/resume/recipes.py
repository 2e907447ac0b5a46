"""How environments and callbacks were made, so that another process can make them again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_rlx2.analysis.history import TopologyHistoryCallback
from sb3_rlx2.common.callbacks import DynamicBufferCallback, TopologyEvolutionCallback
from sb3_rlx2.common.discounting import DiscountScheduleCallback
from sb3_rlx2.resume.callback_states import PATHS
from sb3_rlx2.resume.environments import call_in_environments, vector_layers
from sb3_rlx2.resume.log_files import log_file

GYMNASIUM_WRAPPERS = "gymnasium.wrappers."

VEC_NORMALIZE = (
    *("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys"),
)

Recipe = dict[str, Any]

# --- environments ---


def recipe_of_environments(venv: VecEnv) -> Recipe:
    """Describe how environments were made.

    :param venv: the vectorized environment
    :return: plain data for ``make_environments``; with a ``problem`` if they cannot be made again
    """
    *wrappers, base = vector_layers(venv)
    if not isinstance(base, (DummyVecEnv, SubprocVecEnv)):
        return {"problem": f"it is a {type(base).__name__}"}
    described: list[Any] = []
    for wrapper in wrappers:
        if isinstance(wrapper, VecTransposeImage):  # SB3's algorithms add it
            continue
        if type(wrapper) is VecNormalize:
            arguments = {name: vars(wrapper)[name] for name in VEC_NORMALIZE}
        elif type(wrapper) is VecMonitor:
            arguments = {"filename": log_file(wrapper), "info_keywords": wrapper.info_keywords}
        else:
            return {"problem": f"it has the wrapper {type(wrapper).__name__}"}
        described.append({"class": type(wrapper).__name__, "arguments": arguments})
    try:
        environments = call_in_environments(base, _recipe_of_environment)
    except ValueError as error:
        return {"problem": str(error)}
    problem = next((env["problem"] for env in environments if "problem" in env), None)
    if problem is not None:
        return {"problem": problem}
    start_method = type(base.processes[0])._start_method if isinstance(base, SubprocVecEnv) else None
    return {"wrappers": described, "environments": environments, "start_method": start_method}


def make_environments(recipe: Recipe, what: str = "env") -> VecEnv:
    """Make environments as others were made.

    :param recipe: what ``recipe_of_environments`` returned for those
    :param what: the argument by which they can be given instead, for the error
    :raises ValueError: if they cannot be made by it
    """
    if "problem" in recipe:
        raise ValueError(f"the environment cannot be made again, since {recipe['problem']}: pass {what}=")
    for env in recipe["environments"]:
        _check(EnvSpec.from_json(env["spec"]), what)
    functions: list[Callable[[], Any]] = [partial(_make_environment, env) for env in recipe["environments"]]
    start_method = recipe["start_method"]
    venv: VecEnv = DummyVecEnv(functions) if start_method is None else SubprocVecEnv(functions, start_method)
    for wrapper in reversed(recipe["wrappers"]):
        cls: Any = {"VecNormalize": VecNormalize, "VecMonitor": VecMonitor}[wrapper["class"]]
        venv = cls(venv, **wrapper["arguments"])
    return venv


def _recipe_of_environment(env: gym.Env[Any, Any]) -> Recipe:
    monitor = None
    if type(env) is Monitor:
        monitor = {
            "filename": log_file(env),
            "allow_early_resets": env.allow_early_resets,
            "reset_keywords": env.reset_keywords,
            "info_keywords": env.info_keywords,
        }
        env = env.env
    spec = env.spec
    if spec is None:
        return {"problem": f"its {type(env).__name__} was not made by gymnasium.make"}
    try:
        text = spec.to_json()
        EnvSpec.from_json(text)
    except Exception as error:  # whatever its arguments raise when they are turned into text
        return {"problem": f"arguments of {spec.id} are no plain data ({error})"}
    return {"spec": text, "monitor": monitor}


def _check(spec: EnvSpec, what: str) -> None:
    """A file must not say which code is run: environments come from Gymnasium's registry, wrappers from Gymnasium."""
    own = gym.registry.get(spec.id)
    if own is None or own.entry_point != spec.entry_point:
        raise ValueError(f"{spec.id} is not registered: import the package that does it before, or pass {what}=")
    for wrapper in spec.additional_wrappers:
        if not wrapper.entry_point.startswith(GYMNASIUM_WRAPPERS):
            raise ValueError(f"the wrapper {wrapper.name} is none of Gymnasium: pass {what}=")


def _make_environment(recipe: Recipe) -> gym.Env[Any, Any]:
    env = gym.make(EnvSpec.from_json(recipe["spec"]))
    return env if recipe["monitor"] is None else Monitor(env, **recipe["monitor"])


# --- callbacks ---

# By argument the attribute that holds it; None: one of the same name
KNOWN: dict[type[BaseCallback], Mapping[str, str | None]] = {
    CheckpointCallback: dict.fromkeys(
        ("save_freq", "save_path", "name_prefix", "save_replay_buffer", "save_vecnormalize", "verbose")
    ),
    EvalCallback: {
        **dict.fromkeys(("eval_env", "callback_on_new_best", "n_eval_episodes", "eval_freq", "log_path")),
        **dict.fromkeys(("best_model_save_path", "deterministic", "render", "verbose", "warn")),
        "callback_after_eval": "callback",
    },
    EveryNTimesteps: dict.fromkeys(("n_steps", "callback")),
    LogEveryNTimesteps: dict.fromkeys(("n_steps",)),
    DiscountScheduleCallback: dict.fromkeys(("initial_gamma", "final_gamma", "start", "end", "verbose")),
    StopTrainingOnMaxEpisodes: dict.fromkeys(("max_episodes", "verbose")),
    StopTrainingOnNoModelImprovement: dict.fromkeys(("max_no_improvement_evals", "min_evals", "verbose")),
    StopTrainingOnRewardThreshold: dict.fromkeys(("reward_threshold", "verbose")),
    TopologyHistoryCallback: {
        **dict.fromkeys(("record_freq", "buffer_freq", "save_freq", "max_records", "verbose")),
        "path": "given_path",
    },
}
"""Callbacks that can be made again, with their arguments and the attributes that hold them."""


def register_callback(callback_class: type[BaseCallback], arguments: Mapping[str, str | None]) -> None:
    """Let a class of callbacks be made again.

    :param callback_class: the class
    :param arguments: those of its constructor, each with the attribute that holds it; None: one of the same name.
        Of an attribute that is a ``Path``, the absolute path is kept, and passed as a str
    """
    KNOWN[callback_class] = arguments


def recipe_of_callbacks(root: BaseCallback) -> list[Recipe]:
    """Describe how the callbacks of a ``learn`` were made, in order.

    :param root: the callback of that ``learn``
    :return: plain data for ``make_callbacks``
    """
    brings_its_own = hasattr(root.model, "_topology_settings")
    left_out: tuple[type, ...] = (ProgressBarCallback,)
    if brings_its_own:
        left_out += (TopologyEvolutionCallback, DynamicBufferCallback)
    return [_recipe_of_callback(callback) for callback in _leaves(root) if not isinstance(callback, left_out)]


def _leaves(callback: BaseCallback) -> list[BaseCallback]:
    if isinstance(callback, CallbackList):
        return [leaf for inner in callback.callbacks for leaf in _leaves(inner)]
    return [callback]


def _recipe_of_callback(callback: BaseCallback) -> Recipe:
    cls = type(callback)
    if cls not in KNOWN:
        return {"class": cls.__name__, "problem": f"{cls.__name__} is not known"}
    arguments = {}
    for name, attribute in KNOWN[cls].items():
        value = getattr(callback, attribute or name)
        if isinstance(value, VecEnv):
            value = {"environments": recipe_of_environments(value)}
        elif isinstance(value, BaseCallback):
            value = {"callback": _recipe_of_callback(value)}
        elif isinstance(value, Path) or (name in PATHS and value is not None):
            is_file_in_it = cls is EvalCallback and name == "log_path"
            # The process that goes on may have another current directory
            value = os.path.realpath(os.path.dirname(value) if is_file_in_it else value)
        arguments[name] = value
    return {"class": cls.__name__, "arguments": arguments}


def make_callbacks(recipes: list[Recipe]) -> list[BaseCallback]:
    """Make callbacks as others were made.

    :param recipes: what ``recipe_of_callbacks`` returned for those
    :raises ValueError: if one of them cannot be made by it
    """
    problems = [recipe["problem"] for recipe in recipes if "problem" in recipe]
    if problems:
        raise ValueError(f"callbacks cannot be made again, since {', '.join(problems)}: pass callback=[...]")
    return [_make_callback(recipe) for recipe in recipes]


def _make_callback(recipe: Recipe) -> BaseCallback:
    if "problem" in recipe:
        raise ValueError(f"callbacks cannot be made again, since {recipe['problem']}: pass callback=[...]")
    cls = next(cls for cls in KNOWN if cls.__name__ == recipe["class"])
    arguments = {}
    for name, value in recipe["arguments"].items():
        if isinstance(value, dict) and "environments" in value:
            value = make_environments(value["environments"], "callback")
        elif isinstance(value, dict) and "callback" in value:
            value = _make_callback(value["callback"])
        arguments[name] = value
    callback: BaseCallback = cast(Any, cls)(**arguments)
    return callback
