"""Optuna's search space: what the zoo searches for TD3 and SAC, and what RLx2 adds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_sac_params, sample_td3_params

from sb3_rlx2 import RLx2SAC, RLx2TD3

DENSITIES = ("actor_density", "critic_density")


def sample_rlx2_td3_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Sample hyperparameters of RLx2TD3: those of the zoo's TD3, and RLx2's own.

    :param trial: the trial to sample for
    :param n_actions: dimension of the action space
    :param n_envs: number of environments
    :param additional_args: what the zoo tells about hindsight experience replay
    :return: arguments of RLx2TD3
    :raises ValueError: if the trial has no user attribute ``n_timesteps``, the length of its training in steps
    """
    zoo = sample_td3_params(trial, n_actions, n_envs, additional_args)
    # The zoo leaves it out for None, and RLx2TD3's default is noise
    zoo.setdefault("action_noise", None)
    return {**zoo, **_sample_rlx2_params(trial, RLx2TD3, zoo, n_envs)}


def sample_rlx2_sac_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Sample hyperparameters of RLx2SAC: those of the zoo's SAC, and RLx2's own.

    :param trial: the trial to sample for
    :param n_actions: dimension of the action space
    :param n_envs: number of environments
    :param additional_args: what the zoo tells about hindsight experience replay
    :return: arguments of RLx2SAC
    :raises ValueError: if the trial has no user attribute ``n_timesteps``, the length of its training in steps
    """
    zoo = sample_sac_params(trial, n_actions, n_envs, additional_args)
    return {**zoo, **_sample_rlx2_params(trial, RLx2SAC, zoo, n_envs)}


def convert_rlx2_params(sampled: dict[str, Any]) -> dict[str, Any]:
    """Turn the parameters of a finished trial into hyperparameters.

    :param sampled: the trial's parameters, as Optuna stores them
    :return: hyperparameters in the format of the zoo's YAML files
    """
    own = {name: value for name, value in sampled.items() if name in DENSITIES}
    hyperparams = convert_offpolicy_params({name: value for name, value in sampled.items() if name not in own})
    if hyperparams.get("noise_type", "") is None:
        hyperparams["action_noise"] = None
        del hyperparams["noise_type"], hyperparams["noise_std"]
    return {**hyperparams, **_sparsities(own)}


def knowing_the_length(original: Callable[..., float]) -> Callable[..., float]:
    """Tell a trial how long its training is: the zoo does not.

    :param original: ``ExperimentManager.objective``
    """

    @functools.wraps(original)
    def wrapper(manager: Any, trial: optuna.Trial) -> float:
        trial.set_user_attr("n_timesteps", manager.n_timesteps)
        return original(manager, trial)

    return wrapper


def _sample_rlx2_params(
    trial: optuna.Trial, algorithm: type[RLx2TD3] | type[RLx2SAC], zoo: dict[str, Any], n_envs: int
) -> dict[str, Any]:
    """Parts that the file of hyperparameters turns off (in a baseline) stay off, the others take effect in time."""
    if "n_timesteps" not in trial.user_attrs:
        raise ValueError("the trial has no user attribute n_timesteps, the length of its training in environment steps")
    length = int(trial.user_attrs["n_timesteps"])
    # The zoo notes the file's hyperparameters in the study, as text
    fixed: dict[str, str] = trial.study.user_attrs
    defaults = {name: parameter.default for name, parameter in inspect.signature(algorithm).parameters.items()}
    learning_starts, buffer_size, policy_delay = (
        int(float(fixed.get(name, defaults.get(name, 1))))
        for name in ("learning_starts", "buffer_size", "policy_delay")
    )
    params: dict[str, Any] = {}
    if learning_starts > length // 2:
        learning_starts = params["learning_starts"] = _suggest(trial, "learning_starts", length / 100, length / 10)
    updates_per_step = zoo["gradient_steps"] / (zoo["train_freq"] * n_envs)
    if fixed.get("topology") != "dense":
        params |= _sparsities({name: trial.suggest_float(name, 0.02, 0.5, log=True) for name in DENSITIES})
    if fixed.get("topology") not in ("dense", "static"):
        end = length if fixed.get("topology_end", "None") == "None" else min(length, int(fixed["topology_end"]))
        of_actor = (end - learning_starts) * updates_per_step / policy_delay
        params["topology_interval"] = _suggest(trial, "topology_interval", of_actor / 1000, of_actor / 10)
        params["drop_fraction"] = trial.suggest_float("drop_fraction", 0.1, 0.9)
    if fixed.get("n_steps") != "1":
        params["n_steps"] = trial.suggest_int("n_steps", 1, 5)
        updates = (length - learning_starts) * updates_per_step
        params["n_steps_delay"] = trial.suggest_int("n_steps_delay", 0, int(updates / 5))
    if fixed.get("dynamic_buffer") != "False":
        low, high = (min(share, buffer_size / 2) for share in (length / 100, length / 5))
        params["buffer_min_size"] = _suggest(trial, "buffer_min_size", low, high)
        params["buffer_check_interval"] = _suggest(trial, "buffer_check_interval", length / 1000, length / 50)
        params["buffer_distance_threshold"] = trial.suggest_float("buffer_distance_threshold", 0.01, 1.0, log=True)
    for name, value in params.items():
        trial.set_user_attr(name, value)
    return params


def _suggest(trial: optuna.Trial, name: str, low: float, high: float) -> int:
    return trial.suggest_int(name, max(int(low), 1), max(int(high), 1), log=True)


def _sparsities(densities: dict[str, float]) -> dict[str, float]:
    return {name.replace("density", "sparsity"): 1.0 - value for name, value in densities.items()}


SAMPLERS = {"rlx2_td3": sample_rlx2_td3_params, "rlx2_sac": sample_rlx2_sac_params}
CONVERTERS = dict.fromkeys(SAMPLERS, convert_rlx2_params)
