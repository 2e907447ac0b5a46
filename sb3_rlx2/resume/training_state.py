"""The state of a training between two rollouts: all that decides how it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecEnv

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.topology import attached_evolvers, follow_budgets, networks
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.resume.callback_states import callback_states, set_callback_states
from sb3_rlx2.resume.environments import logs_of, set_vectorized_state, vectorized_state
from sb3_rlx2.resume.log_files import logger_state, set_logger_state
from sb3_rlx2.resume.plain_data import attributes_of, set_attributes
from sb3_rlx2.resume.random_states import random_states, set_random_states
from sb3_rlx2.sparse import Evolution
from sb3_rlx2.sparse.connections import Relocation

ELSEWHERE = ("topology_counters", "start_time", "_custom_logger", "device")
"""Attributes of a model that are set in another way, or belong to the process."""


def training_state(model: OffPolicyAlgorithm, callback: BaseCallback) -> dict[str, Any]:
    """Read all of a training but the rows of the replay buffer.

    It is exact at the start of a rollout, where SB3's ``learn`` and ``collect_rollouts`` hold nothing themselves.

    :param model: the model
    :param callback: the callback of its ``learn``, with all that is inside of it
    :return: plain data, copied, for ``set_training_state``
    """
    env = cast(VecEnv, model.env)
    return {
        "model": model_attributes(model),
        "seconds": (time.time_ns() - model.start_time) / 1e9,
        "networks": {name: _copied(recursive_getattr(model, name).state_dict()) for name in _modules(model)},
        "tensors": {name: recursive_getattr(model, name).detach().cpu().clone() for name in _tensors(model)},
        "exploration": [[matrix.detach().clone() for matrix in pair] for _, pair in _exploration(model)],
        "evolvers": {name: _evolver_state(evolver) for name, evolver in attached_evolvers(model).items()},
        "random": random_states(),
        "callbacks": callback_states(callback, env),
        "environments": vectorized_state(env),
        "logger": logger_state(model.logger),
    }


def set_training_state(
    model: OffPolicyAlgorithm, callback: BaseCallback | None, state: dict[str, Any], is_exact: bool = True
) -> None:
    """Put back what ``training_state`` read.

    :param model: a model with the same settings, the rows of its replay buffer, and an environment
    :param callback: the callback of its ``learn``; None: it does not learn
    :param state: what ``training_state`` returned, with the ``buffer``
    :param is_exact: whether environments go on in the midst of their episodes; False: they begin new ones
    """
    env = cast(VecEnv, model.env)
    set_model_attributes(model, state)
    set_attributes(cast(ReplayBuffer, model.replay_buffer), state["buffer"]["attributes"])
    rules = {name: evolver.rule for name, evolver in attached_evolvers(model).items()}
    if rules.keys() == networks(model).keys():
        follow_budgets(model, rules, state["networks"]["policy"])
    for name in _modules(model):
        recursive_getattr(model, name).load_state_dict(state["networks"][name])
    for name in _tensors(model):
        with th.no_grad():
            recursive_getattr(model, name).copy_(state["tensors"][name])
    for (noise, _), (matrix, matrices) in zip(_exploration(model), state["exploration"], strict=True):
        noise.exploration_mat, noise.exploration_matrices = matrix.to(model.device), matrices.to(model.device)
    for name, evolver in attached_evolvers(model).items():
        saved = state["evolvers"][name]
        evolver.go_back(saved["counters"], _last_evolution(saved["last_evolution"]))
    if callback is not None:
        set_callback_states(callback, env, state["callbacks"])
        set_logger_state(model.logger, state["logger"])
    set_vectorized_state(env, state["environments"])
    set_random_states(state["random"])
    if not is_exact:
        begin_new_episodes(model)


def model_attributes(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """The attributes of a model that are plain data.

    :param model: the model
    """
    # Lists of tensors are parts of the networks, such as statistics of batch normalization
    of_networks = {
        name for name, value in vars(model).items() if isinstance(value, list) and any(map(th.is_tensor, value))
    }
    return attributes_of(model, {*ELSEWHERE, *_tensors(model), *of_networks})


def set_model_attributes(model: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Put back the attributes of a model that are plain data.

    :param model: the model
    :param state: what ``training_state`` returned
    """
    set_attributes(model, state["model"])
    # Time in which it did not run does not count
    model.start_time = time.time_ns() - int(state["seconds"] * 1e9)


def begin_new_episodes(model: OffPolicyAlgorithm) -> None:
    """Reset the environments where their state could not be put back.

    :param model: the model
    """
    env = cast(VecEnv, model.env)
    model._last_obs = cast(Any, env.reset())
    model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    if model.action_noise is not None:
        model.action_noise.reset()
    if isinstance(model.replay_buffer, DynamicReplayBuffer):
        last_obs = model._last_obs if model._vec_normalize_env is None else model._last_original_obs
        model.replay_buffer.end_cut_episodes(cast(Any, last_obs))


def log_entries(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of all log files in a state, in which their copies are noted.

    :param state: what ``training_state`` returned
    """
    yield from (saved["log"] for saved in state["logger"]["formats"] if "log" in saved)
    yield from logs_of(state["environments"])
    for callback in state["callbacks"].values():
        for environments in callback["environments"].values():
            yield from logs_of({"wrappers": [], "environments": [], **environments})


# --- parts ---


def _modules(model: OffPolicyAlgorithm) -> list[str]:
    return model._get_torch_save_params()[0]


def _tensors(model: OffPolicyAlgorithm) -> list[str]:
    return model._get_torch_save_params()[1]


def _exploration(model: OffPolicyAlgorithm) -> list[tuple[Any, list[th.Tensor]]]:
    """The noise of generalized State-Dependent Exploration (gSDE) and its matrices, which no state dict has."""
    noise = getattr(model.policy.actor, "action_dist", None) if model.use_sde else None
    return [] if noise is None else [(noise, [noise.exploration_mat, noise.exploration_matrices])]


def _copied(value: Any) -> Any:
    """A state dict for a file, with tensors of its own."""
    if isinstance(value, th.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry) for entry in value)
    return value


def _evolver_state(evolver: Any) -> dict[str, Any]:
    last = evolver.last_evolution
    return {
        "counters": dict(evolver.counters),
        "last_evolution": None
        if last is None
        else [last.update, last.drop_fraction, {name: tuple(layer) for name, layer in last.layers.items()}],
    }


def _last_evolution(saved: Any) -> Evolution | None:
    if saved is None:
        return None
    update, drop_fraction, layers = saved
    return Evolution(update, drop_fraction, {name: Relocation(*counts) for name, counts in layers.items()})


def check_networks(model: OffPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Raise a ModelFileError if a model has other networks or tensors than a state.

    :param model: the model
    :param state: what ``training_state`` returned
    """
    for names, saved in ((_modules(model), state["networks"]), (_tensors(model), state["tensors"])):
        if sorted(names) != sorted(saved):
            raise ModelFileError(f"the checkpoint has {sorted(saved)}, and the model {sorted(names)}")
