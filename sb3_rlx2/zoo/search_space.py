"""Optuna's search space: what the zoo searches for TD3 and SAC, and what RLx2 adds."""

from __future__ import annotations

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_offpolicy_params, sample_sac_params, sample_td3_params

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
    """
    zoo = sample_td3_params(trial, n_actions, n_envs, additional_args)
    # The zoo leaves it out for None, and RLx2TD3's default is noise
    zoo.setdefault("action_noise", None)
    return {**zoo, **_sample_rlx2_params(trial)}


def sample_rlx2_sac_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Sample hyperparameters of RLx2SAC: those of the zoo's SAC, and RLx2's own.

    :param trial: the trial to sample for
    :param n_actions: dimension of the action space
    :param n_envs: number of environments
    :param additional_args: what the zoo tells about hindsight experience replay
    :return: arguments of RLx2SAC
    """
    return {**sample_sac_params(trial, n_actions, n_envs, additional_args), **_sample_rlx2_params(trial)}


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


def _sample_rlx2_params(trial: optuna.Trial) -> dict[str, Any]:
    """Parts that the file of hyperparameters turns off (in a baseline) stay off."""
    # The zoo notes the file's hyperparameters in the study, as text
    fixed: dict[str, Any] = trial.study.user_attrs
    topology = fixed.get("topology")
    params: dict[str, Any] = {}
    if topology != "dense":
        densities = {name: trial.suggest_float(name, 0.02, 0.5, log=True) for name in DENSITIES}
        params |= _sparsities(densities)
    if topology not in ("dense", "static"):
        params["topology_interval"] = trial.suggest_int("topology_interval", 500, 20_000, log=True)
        params["drop_fraction"] = trial.suggest_float("drop_fraction", 0.1, 0.9)
    if fixed.get("n_steps") != "1":
        params["n_steps"] = trial.suggest_int("n_steps", 1, 5)
        params["n_steps_delay"] = trial.suggest_categorical("n_steps_delay", [0, 10_000, 30_000, 100_000, 300_000])
    if fixed.get("dynamic_buffer") != "False":
        params["buffer_distance_threshold"] = trial.suggest_float("buffer_distance_threshold", 0.01, 1.0, log=True)
    for name, value in params.items():
        trial.set_user_attr(name, value)
    return params


def _sparsities(densities: dict[str, float]) -> dict[str, float]:
    return {name.replace("density", "sparsity"): 1.0 - value for name, value in densities.items()}


SAMPLERS = {"rlx2_td3": sample_rlx2_td3_params, "rlx2_sac": sample_rlx2_sac_params}
CONVERTERS = dict.fromkeys(SAMPLERS, convert_rlx2_params)
