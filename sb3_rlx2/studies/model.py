"""An environment and a model from an entry of a YAML file, in the format of RL Baselines3 Zoo."""

from __future__ import annotations

import ast
import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch import nn

from sb3_rlx2.common.arguments import did_you_mean
from sb3_rlx2.common.saving.vec_normalize import save_vec_normalize
from sb3_rlx2.studies.algorithms import ALGORITHMS

OF_THE_ENVIRONMENT = ("env_kwargs", "env_wrapper", "n_envs", "normalize")
OF_THE_NOISE = ("noise_type", "noise_std")
OF_THE_STUDY = ("n_timesteps",)
OF_THE_TRAINING = ("callback",)
TAKEN = ("self", "env", "seed", "device", "tensorboard_log", "verbose", "_init_setup_model")
NOISES: Mapping[str, type[Any]] = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}


def allowed_names(algorithm: str) -> list[str]:
    """The hyperparameters that an entry may have.

    :param algorithm: a key of ``ALGORITHMS``
    """
    arguments = [name for name in inspect.signature(ALGORITHMS[algorithm]).parameters if name not in TAKEN]
    of_the_noise = OF_THE_NOISE if "action_noise" in arguments else ()
    return [*arguments, *OF_THE_ENVIRONMENT, *of_the_noise, *OF_THE_STUDY, *OF_THE_TRAINING]


def check_entry(algorithm: str, entry: Mapping[str, Any], source: str) -> None:
    """Check the names of hyperparameters; their values are checked by what they are passed to.

    :param algorithm: a key of ``ALGORITHMS``
    :param entry: hyperparameters
    :param source: what messages say of where they come from
    :raises ValueError: for the first name that is unknown
    """
    allowed = allowed_names(algorithm)
    for name in entry:
        if name not in allowed:
            raise ValueError(f"{source}: {name!r} is unknown to {algorithm}{did_you_mean(str(name), allowed)}")


class WholeEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports an episode that a wrapper ends as ``Monitor`` reports one that the environment ends, by its own rewards.

    :param env: the environment in a ``Monitor`` and further wrappers
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment, with ``info["episode"]`` where an episode ends.

        :param action: the action
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and "episode" not in info:
            monitor = cast(Monitor[Any, Any], unwrap_wrapper(self.env, Monitor))
            seconds = round(time.time() - monitor.t_start, 6)
            info["episode"] = {"r": round(sum(monitor.rewards), 6), "l": len(monitor.rewards), "t": seconds}
        return observation, reward, bool(terminated), bool(truncated), info


def make_environment(environment: str, entry: Mapping[str, Any], *, evaluation: bool = False) -> VecEnv:
    """The vectorized environment that an entry describes, with its wrappers.

    :param environment: id of the environment
    :param entry: hyperparameters; what is not about the environment is not looked at
    :param evaluation: one environment, whose rewards are not normalized and which leaves the statistics of
        ``VecNormalize`` as they are; default False
    :raises ValueError: if ``normalize`` is no bool and no mapping, or a wrapper cannot be imported
    """
    wrappers = _classes(entry, "env_wrapper")

    def make() -> gymnasium.Env[Any, Any]:
        env: gymnasium.Env[Any, Any] = Monitor(gymnasium.make(environment, **entry.get("env_kwargs", {})))
        for wrapper, arguments in wrappers:
            env = wrapper(env, **arguments)
        return WholeEpisodes(env) if wrappers else env

    env: VecEnv = DummyVecEnv([make] * (1 if evaluation else entry.get("n_envs", 1)))
    normalize = entry.get("normalize", False)
    if not isinstance(normalize, (bool, Mapping)):
        raise ValueError(
            f"normalize: {normalize!r} is not allowed: true, false, or a mapping such as {{norm_reward: false}}"
        )
    if normalize is not False:
        arguments = {} if normalize is True else dict(normalize)
        if "gamma" in entry:
            arguments["gamma"] = entry["gamma"]
        env = VecNormalize(env, **arguments | ({"training": False, "norm_reward": False} if evaluation else {}))
    return env


def make_model(algorithm: str, entry: Mapping[str, Any], env: VecEnv, seed: int, **changes: Any) -> OffPolicyAlgorithm:
    """The model that an entry describes, on the CPU.

    :param algorithm: a key of ``ALGORITHMS``
    :param entry: hyperparameters in the format of the zoo's YAML files
    :param env: made by ``make_environment``
    :param seed: of all random generators
    :param changes: arguments of the algorithm that come instead of those of the entry
    :raises ValueError: if a hyperparameter is out of range
    """
    others = (*OF_THE_ENVIRONMENT, *OF_THE_NOISE, *OF_THE_STUDY, *OF_THE_TRAINING)
    arguments = {name: value for name, value in entry.items() if name not in others}
    arguments.setdefault("policy", "MlpPolicy")
    if "noise_type" in entry:
        arguments["action_noise"] = _noise(entry, env)
    if isinstance(arguments.get("learning_rate"), str):
        arguments["learning_rate"] = _schedule(arguments["learning_rate"])
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    if "policy_kwargs" in arguments:
        arguments["policy_kwargs"] = _policy_arguments(arguments["policy_kwargs"])
    make: Callable[..., OffPolicyAlgorithm] = ALGORITHMS[algorithm]
    return make(env=env, seed=seed, device="cpu", **(arguments | changes))


def make_callbacks(entry: Mapping[str, Any]) -> list[BaseCallback]:
    """The callbacks that an entry names.

    :param entry: hyperparameters in the format of the zoo's YAML files
    :raises ValueError: if one cannot be imported, or is no callback
    """
    callbacks = []
    for cls, arguments in _classes(entry, "callback"):
        if not (isinstance(cls, type) and issubclass(cls, BaseCallback)):
            raise ValueError(f"callback: {cls!r} is not allowed: it must be a callback of Stable-Baselines3's kind")
        callbacks.append(cast(Callable[..., BaseCallback], cls)(**arguments))
    return callbacks


def import_object(name: str, purpose: str) -> Any:
    """What a dotted name, or ``module:name``, stands for.

    :param name: such as ``"sb3_rlx2.studies.cloning:train"``
    :param purpose: what an error calls it
    :raises ValueError: if there is no such module, or nothing of that name in it
    """
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{purpose}: {name!r} cannot be imported ({error})") from error


def save_agent(model: Any, folder: Path) -> None:
    """Save a model as ``model.zip``, and statistics that normalize its environment as ``vecnormalize.pkl``.

    :param model: an algorithm of Stable-Baselines3's kind
    :param folder: where; it is made
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    normalization = model.get_vec_normalize_env()
    if isinstance(normalization, VecNormalize):
        save_vec_normalize(normalization, folder / "vecnormalize.pkl")


def _classes(entry: Mapping[str, Any], key: str) -> list[tuple[Any, dict[str, Any]]]:
    """The classes that an entry names, one or a list of them, each with its arguments."""
    given = entry.get(key) or []
    found = []
    for one in given if isinstance(given, list) else [given]:
        named = {one: None} if isinstance(one, str) else one
        arguments = next(iter(named.values())) if isinstance(named, Mapping) and len(named) == 1 else 0
        if not (arguments is None or isinstance(arguments, Mapping)):
            raise ValueError(
                f"{key}: {one!r} is not allowed: the name of a class, or one such name with a mapping of its arguments"
            )
        found.append((import_object(next(iter(named)), key), dict(arguments or {})))
    return found


def _noise(entry: Mapping[str, Any], env: VecEnv) -> ActionNoise | None:
    kind, size = entry["noise_type"], entry.get("noise_std")
    if kind not in NOISES or size is None:
        raise ValueError(
            f"noise_type: {kind!r}, noise_std: {size!r}: allowed are {' and '.join(NOISES)}, with a noise_std"
        )
    shape = cast(spaces.Box, env.action_space).shape
    return cast(ActionNoise, NOISES[kind](np.zeros(shape), np.full(shape, size)))


def _schedule(given: str) -> LinearSchedule:
    kind, _, start = given.partition("_")
    try:
        rate = float(start)
    except ValueError:
        rate = 0.0
    if kind != "lin" or rate <= 0.0:
        raise ValueError(f"learning_rate: {given!r} is not allowed: a number above 0, or lin_ and such a number")
    return LinearSchedule(rate, 0.0, 1.0)


def _policy_arguments(given: Any) -> dict[str, Any]:
    try:
        read = _read_expression(ast.parse(given, mode="eval").body) if isinstance(given, str) else given
        if not isinstance(read, Mapping):
            raise ValueError("no mapping")
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"policy_kwargs: {given!r} is not allowed: it must be a mapping, or a string such as "
            "'dict(net_arch=[256, 256], activation_fn=nn.ReLU)'"
        ) from error
    arguments = dict(read)
    name = arguments.get("activation_fn")
    if isinstance(name, str):
        activation = getattr(nn, name.removeprefix("nn."), None)
        if activation is None:
            raise ValueError(f"policy_kwargs, activation_fn: {name!r} is no module of torch.nn")
        arguments["activation_fn"] = activation
    return arguments


def _read_expression(expression: ast.expr) -> Any:
    """What the zoo would evaluate, of literals, ``dict(…)`` and names in ``nn``; nothing is run."""
    if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == "dict":
        names = [keyword.arg for keyword in expression.keywords]
        if expression.args or None in names:
            raise ValueError("dict() with other arguments than keywords")
        values = [_read_expression(keyword.value) for keyword in expression.keywords]
        return dict(zip(names, values, strict=True))
    if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name) and expression.value.id == "nn":
        return f"nn.{expression.attr}"
    return ast.literal_eval(expression)
