"""Optuna's search space: what the zoo searches for an algorithm, and what RLx2 adds."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER, convert_offpolicy_params

from sb3_rlx2.common.clocks import TIMESTEPS, read_clock
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm
from sb3_rlx2.common.simba import block_widths
from sb3_rlx2.zoo.algorithms import ALGORITHMS, PREFIX

DENSITIES = ("actor_density", "critic_density", "density")
"""What is drawn in place of sparsities, whose interesting values lie close to 1."""

_FIXED: ContextVar[Mapping[str, str]] = ContextVar("hyperparameters that are not drawn", default=MappingProxyType({}))


@contextmanager
def searching(hyperparameters: Mapping[str, Any]) -> Iterator[None]:
    """Tell the sampler what the file of hyperparameters and the command line say: what they turn off stays off.

    The study has those of the command that began it, which may be another.

    :param hyperparameters: all of them
    """
    token = _FIXED.set({name: str(value) for name, value in hyperparameters.items()})
    try:
        yield
    finally:
        _FIXED.reset(token)


def sample_crossq_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Sample hyperparameters of CrossQ, for which the zoo has no sampler: those of its SAC, and the policy delay.

    Batches are no smaller than 32, since batch renormalization takes its statistics from them.

    :param trial: the trial to sample for
    :param n_actions: dimension of the action space
    :param n_envs: number of environments
    :param additional_args: what the zoo tells about hindsight experience replay, which RLx2 does without
    :return: arguments of the algorithm
    """
    one_minus_gamma = trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
    batch_size_pow = trial.suggest_int("batch_size_pow", 5, 11)
    trial.set_user_attr("gamma", 1 - one_minus_gamma)
    trial.set_user_attr("batch_size", 2**batch_size_pow)
    sampled = {
        "one_minus_gamma": one_minus_gamma,
        "batch_size_pow": batch_size_pow,
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 0.002, log=True),
        "train_freq": trial.suggest_int("train_freq", 1, 10),
        "policy_delay": trial.suggest_int("policy_delay", 1, 4),
        "net_arch": trial.suggest_categorical("net_arch", ["small", "medium", "big"]),
    }
    return convert_offpolicy_params(sampled)


ZOO_SAMPLERS = {"crossq": sample_crossq_params, **HYPERPARAMS_SAMPLER}
"""The zoo's own sampler goes before ours."""


def sample_rlx2_params(
    algorithm: type[RLx2OffPolicyAlgorithm],
    zoo_sampler: Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]],
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],
) -> dict[str, Any]:
    """Sample hyperparameters of one of our algorithms: those of the zoo's algorithm that it stands on, and RLx2's own.

    :param algorithm: the algorithm
    :param zoo_sampler: the zoo's sampler
    :param trial: the trial to sample for
    :param n_actions: dimension of the action space
    :param n_envs: number of environments
    :param additional_args: what the zoo tells about hindsight experience replay
    :return: arguments of the algorithm
    :raises ValueError: if the trial has no user attribute ``n_timesteps``, the length of its training in steps
    :raises TrialPruned: if the file's policy is SimBaPolicy, and it does not allow the widths drawn
    """
    zoo = zoo_sampler(trial, n_actions, n_envs, {**additional_args})  # the zoo's sampler of TQC adds to them
    if _FIXED.get().get("policy") == "SimBaPolicy":
        try:
            block_widths(zoo["policy_kwargs"]["net_arch"])
        except ValueError as error:
            raise optuna.TrialPruned(str(error)) from error
    if "noise_type" in trial.params:
        # The zoo leaves it out for None, and RLx2TD3's default is noise
        zoo.setdefault("action_noise", None)
    return {**zoo, **_sample_own_params(trial, algorithm, zoo, n_envs)}


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


def _sample_own_params(
    trial: optuna.Trial, algorithm: type[RLx2OffPolicyAlgorithm], zoo: dict[str, Any], n_envs: int
) -> dict[str, Any]:
    """Parts that the file of hyperparameters turns off (in a baseline) stay off, the others take effect in time."""
    if "n_timesteps" not in trial.user_attrs:
        raise ValueError("the trial has no user attribute n_timesteps, the length of its training in environment steps")
    length = int(trial.user_attrs["n_timesteps"])
    fixed = _FIXED.get()
    defaults = {name: parameter.default for name, parameter in inspect.signature(algorithm).parameters.items()}
    learning_starts, buffer_size, policy_delay = (
        int(float(zoo.get(name, fixed.get(name, defaults.get(name, 1)))))
        for name in ("learning_starts", "buffer_size", "policy_delay")
    )
    params: dict[str, Any] = {}
    if learning_starts > length // 2:
        learning_starts = params["learning_starts"] = _suggest(trial, "learning_starts", length / 100, length / 10)
    updates_per_step = zoo["gradient_steps"] / (zoo["train_freq"] * n_envs)
    interval = ast.literal_eval(fixed.get("offline_interval", "None"))
    of_learner = updates_per_step if interval is None else updates_per_step + int(fixed["offline_updates"]) / interval
    rules = _rules(fixed.get("topology", "rigl"))
    if rules != {"dense"}:
        names = [name.replace("sparsity", "density") for name in algorithm.network_sparsities.values()]
        params |= _sparsities({name: trial.suggest_float(name, 0.02, 0.5, log=True) for name in names})
    if not rules <= {"dense", "static"}:
        rate = updates_per_step / policy_delay
        end = min(length, _end_of_evolution(fixed.get("topology_end", "None"), length, learning_starts, rate))
        of_network = (end - learning_starts) * rate
        params["topology_interval"] = _suggest(trial, "topology_interval", of_network / 1000, of_network / 10)
        params["drop_fraction"] = trial.suggest_float("drop_fraction", 0.1, 0.9)
    if fixed.get("n_steps") != "1":
        params["n_steps"] = trial.suggest_int("n_steps", 1, 5)
        updates = (length - learning_starts) * of_learner
        params["n_steps_delay"] = trial.suggest_int("n_steps_delay", 0, int(updates / 5))
    if fixed.get("dynamic_buffer") != "False":
        low, high = (min(share, buffer_size / 2) for share in (length / 100, length / 5))
        params["buffer_min_size"] = _suggest(trial, "buffer_min_size", low, high)
        params["buffer_check_interval"] = _suggest(trial, "buffer_check_interval", length / 1000, length / 50)
        params["buffer_distance_threshold"] = trial.suggest_float("buffer_distance_threshold", 0.01, 1.0, log=True)
    for name, value in params.items():
        trial.set_user_attr(name, value)
    return params


def _rules(topology: str) -> set[str]:
    """The rules that the file of hyperparameters gives to networks, as text."""
    try:
        value = ast.literal_eval(topology)
    except (ValueError, SyntaxError):
        value = topology
    return {str(rule) for rule in (value.values() if isinstance(value, dict) else [value])}


def _end_of_evolution(topology_end: str, length: int, learning_starts: int, rate: float) -> float:
    """Environment step at which evolution ends, as the file of hyperparameters says it, as text."""
    value = ast.literal_eval(topology_end)
    if value is None:
        return length
    end, unit = read_clock(value, "topology_end")
    return end if unit == TIMESTEPS else learning_starts + end / rate


def _suggest(trial: optuna.Trial, name: str, low: float, high: float) -> int:
    return trial.suggest_int(name, max(int(low), 1), max(int(high), 1), log=True)


def _sparsities(densities: dict[str, float]) -> dict[str, float]:
    return {name.replace("density", "sparsity"): 1.0 - value for name, value in densities.items()}


SAMPLERS = {
    name: functools.partial(sample_rlx2_params, algorithm, ZOO_SAMPLERS[name.removeprefix(PREFIX)])
    for name, algorithm in ALGORITHMS.items()
}
CONVERTERS = dict.fromkeys(SAMPLERS, convert_rlx2_params)
