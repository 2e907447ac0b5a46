"""A dense model of Stable-Baselines3 or sb3-contrib, pruned and ready to be trained on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3 import TD3, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from torch import nn

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.saving.model_files import naming_model, opened_as_zip, read_saved_names
from sb3_rlx2.common.simba import SimBaMixin
from sb3_rlx2.engine.networks import learning_networks, optimizer_of
from sb3_rlx2.sparse import SparseLinear, sparse_layers

OTHERWISE = ("policy", "env", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "device", "seed")
"""Arguments that are not simply those of the dense model."""

PROGRESS = (
    "num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_n_updates", "_n_calls", "_episode_num",
    "_current_progress_remaining", "ep_info_buffer", "ep_success_buffer", "exploration_rate",
)  # fmt: skip
"""What a model remembers of its training."""

OF_ENVIRONMENT = ("_last_obs", "_last_episode_starts", "_last_original_obs")
CHOSEN_BY_SB3 = (ReplayBuffer, DictReplayBuffer, NStepReplayBuffer)


def arguments_of(cls: type, dense: OffPolicyAlgorithm, env: GymEnv | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with which an algorithm goes on where a dense model stands.

    :param cls: the algorithm
    :param dense: the dense model
    :param env: the environment; None: that of the dense model
    :param given: arguments that replace those of the dense model
    :raises ValueError: if there is no environment
    """
    if env is None and dense.env is None:
        raise ValueError("env=None is not allowed: the dense model has no environment either")
    attributes = {
        **vars(dense),
        "stats_window_size": dense._stats_window_size,
        "action_noise": copy.deepcopy(dense.action_noise),  # it may have a state
    }
    names = [name for name in inspect.signature(cls).parameters if name not in OTHERWISE]
    buffer_class = dense.replay_buffer_class
    return {
        **{name: attributes[name] for name in names if name in attributes},
        "policy": dense.policy_class,
        "env": dense.env if env is None else env,
        "replay_buffer_class": None if buffer_class in CHOSEN_BY_SB3 else buffer_class,
        "replay_buffer_kwargs": {
            name: value for name, value in dense.replay_buffer_kwargs.items() if name not in ("n_steps", "gamma")
        },
        **given,
        "policy_kwargs": {
            **dense.policy_kwargs, "net_arch": cast(Any, dense.policy).net_arch, **(given.get("policy_kwargs") or {})
        },
    }  # fmt: skip


def not_dense(cls: type, what: str) -> str:
    """Say that an algorithm cannot go on from something.

    :param cls: the algorithm
    :param what: what it was given
    """
    return (
        f"{what} is not allowed: {cls.__name__}.from_dense makes a dense {cast(Any, cls).dense_class.__name__} sparse"
    )


def load_dense(cls: type, path: str | Path, env: GymEnv | None, trusted: bool | None) -> OffPolicyAlgorithm:
    """Load a dense model.

    :param cls: the algorithm that goes on from it
    :param path: path of its file
    :param env: the environment; None: the model has none
    :param trusted: whether the file may hold pickled objects; None: as ``RLX2_TRUSTED`` says
    :raises ModelFileError: if it is no model, not whole, not trusted, or does not fit
    :raises ValueError: if it is of another algorithm
    """
    dense_class: type[OffPolicyAlgorithm] = cast(Any, cls).dense_class
    with naming_model(path, dense_class), opened_as_zip(path, trusted) as (file, _):
        algorithm = read_saved_names(file).algorithm
        # In files, DDPG is a TD3 with other settings
        fits = algorithm in (None, dense_class.__name__) or (algorithm == "TD3" and issubclass(dense_class, TD3))
        file.seek(0)
        model = dense_class.load(file, env=env) if fits else None
    if model is None:
        raise ValueError(not_dense(cls, f"{path}, a model of {algorithm},"))
    for name, value in cast(Any, cls).fixed_arguments.items():
        if (own := getattr(model, name)) != value:
            raise ValueError(not_dense(cls, f"{path}, a model of {algorithm} with {name}={own!r},"))
    return model


def go_on_from(model: Any, dense: OffPolicyAlgorithm) -> None:
    """Put what a dense model has learned into a sparse one: its largest weights, their moments, all counts.

    :param model: one of RLx2's algorithms, made with ``arguments_of``
    :param dense: the dense model, which stays as it is; the replay buffer's arrays belong to both then
    :raises ValueError: if the spaces, the networks or the replay buffer do not fit
    """
    check_for_correct_spaces(model.env, dense.observation_space, dense.action_space)
    with th.no_grad():
        for name, network in learning_networks(model.policy).items():
            _take_network(model, dense.policy, name, network)
    if vars(model).get("ent_coef") == vars(dense).get("ent_coef"):  # or else it begins with the one that was given
        _take_coefficient(model, dense)
    names = (*PROGRESS, *(OF_ENVIRONMENT if model.env is dense.env else ()))
    model.__dict__.update({name: copy.deepcopy(vars(dense)[name]) for name in names if name in vars(dense)})
    periods = model._describe_update().periods
    for name, counters in model.topology_counters.items():
        counters["updates"] = model._n_updates // periods[name]
    if dense.replay_buffer is not None and model.replay_buffer is not None:
        _take_replay_buffer(model, dense.replay_buffer)


def _take_coefficient(model: Any, dense: Any) -> None:
    """Go on with the entropy coefficient where an algorithm has one, and with its optimizer where it is learned."""
    for name in model._get_torch_save_params()[1]:
        recursive_setattr(model, f"{name}.data", recursive_getattr(dense, name).data.clone().to(model.device))
    if vars(model).get("ent_coef_optimizer") is not None:
        model.ent_coef_optimizer.load_state_dict(copy.deepcopy(dense.ent_coef_optimizer.state_dict()))


def _take_network(model: Any, dense: Any, name: str, network: nn.Module) -> None:
    network_given = cast(nn.Module, getattr(dense, name))
    # The distribution of actions may hold the graph of the last loss, with which it cannot be copied
    distribution = vars(network_given).get("action_dist")
    pruned = copy.deepcopy(network_given, {id(distribution): distribution})
    parts = list(cast(Any, pruned).q_networks) if hasattr(pruned, "q_networks") else [pruned]
    argument = model.network_sparsities[name]
    policy, given = model.policy, (model.policy.connections, model.policy.weight_scale)
    policy.connections, policy.weight_scale = "magnitude", "dense"
    try:
        policy._sparsify(pruned.to(model.device), parts, argument)
    finally:
        policy.connections, policy.weight_scale = given
    try:
        network.load_state_dict(pruned.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"the {name} has other parameters than the dense model's: keep net_arch, n_critics, use_sde and what else "
            "makes its layers"
        ) from error
    layers = sparse_layers(network)
    target = getattr(policy, f"{name}_target", None)
    if target is not None:
        target.load_state_dict(_sparse_state(getattr(dense, f"{name}_target").state_dict(), layers))
    if isinstance(policy, SimBaMixin):
        policy.normalize_units(name)
    _take_moments(optimizer_of(policy, name), optimizer_of(dense, name), network, getattr(dense, name), layers)


def _sparse_state(state: Mapping[str, th.Tensor], layers: Mapping[str, SparseLinear]) -> dict[str, th.Tensor]:
    sparse = dict(state)
    for name, layer in layers.items():
        weight = sparse.pop(f"{name}.weight").to(layer.indices.device)
        sparse |= {f"{name}.values": weight.reshape(-1)[layer.indices.long()], f"{name}.indices": layer.indices}
    return sparse


def _take_moments(
    optimizer: th.optim.Optimizer,
    dense_optimizer: th.optim.Optimizer,
    network: nn.Module,
    dense_network: nn.Module,
    layers: Mapping[str, SparseLinear],
) -> None:
    """Give an optimizer the state of the dense one, of weights that are kept alone, and its options.

    Options that were given stay. An optimizer of another kind begins afresh.
    """
    if _kind(optimizer) != _kind(dense_optimizer):
        return
    dense_parameters = dict(dense_network.named_parameters())
    for name, parameter in network.named_parameters():
        owner, _, kind = name.rpartition(".")
        layer = layers.get(owner) if kind == "values" else None
        dense = dense_parameters[name if layer is None else f"{owner}.weight"]
        state = dense_optimizer.state.get(dense, {})
        for key, entry in state.items():
            taken = copy.deepcopy(entry)
            if layer is not None and th.is_tensor(entry) and entry.shape == dense.shape:
                taken = entry.to(parameter.device).reshape(-1)[layer.indices.long()].clone()
            elif th.is_tensor(entry) and entry.dim() > 0:
                taken = taken.to(parameter.device)
            optimizer.state[parameter][key] = taken
    for group, dense_group in zip(optimizer.param_groups, dense_optimizer.param_groups, strict=True):
        defaults, dense_defaults = optimizer.defaults, dense_optimizer.defaults
        same = {key for key in defaults.keys() & dense_defaults.keys() if defaults[key] == dense_defaults[key]}
        group.update({key: value for key, value in dense_group.items() if key in same})


def _kind(optimizer: th.optim.Optimizer) -> tuple[type, Any]:
    """What tells which moments an optimizer keeps."""
    is_adam = type(optimizer) in (th.optim.Adam, th.optim.AdamW)
    return th.optim.Adam if is_adam else type(optimizer), optimizer.defaults.get("amsgrad")


def _take_replay_buffer(model: Any, dense: ReplayBuffer) -> None:
    own = model.replay_buffer
    if dense.size() == 0:
        return
    if (dense.buffer_size, dense.n_envs) != (own.buffer_size, own.n_envs):
        raise ValueError(
            f"the dense model's replay buffer has {dense.buffer_size} rows of {dense.n_envs} environments, and the "
            f"sparse model's {own.buffer_size} of {own.n_envs}: keep buffer_size and the number of environments"
        )
    if type(own) is type(dense):
        model.replay_buffer = dense
        if isinstance(dense, HerReplayBuffer) and model.env is not dense.env:
            model.replay_buffer = copy.copy(dense)  # without its environment, by whose rewards it relabels
            model.replay_buffer.set_env(model.env)
    elif (type(own) is ReplayBuffer or isinstance(own, DynamicReplayBuffer)) and "next_observations" in vars(dense):
        for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
            array = getattr(dense, name)
            setattr(own, name, np.ascontiguousarray(array, getattr(own, name).dtype))
        own.pos, own.full = dense.pos, dense.full
        if isinstance(own, DynamicReplayBuffer):
            own.noise_free_actions = own.actions.copy()  # those without noise are not known
    else:
        raise ValueError(
            f"the dense model's replay buffer is a {type(dense).__name__}, which a {type(own).__name__} cannot go on "
            "from: keep replay_buffer_class and optimize_memory_usage"
        )
    model._prepare_replay_buffer()
