"""What a trained model is made of: connections, bytes, FLOPs, and what its units are still good for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch as th
from sb3_contrib import QRDQN, TQC, CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim
from torch import nn

from sb3_rlx2.analysis.flops import UpdateRecipe, of_network, update_flops
from sb3_rlx2.analysis.model_report import FlopsReport, InputReport, LayerReport, ModelReport, NetworkReport
from sb3_rlx2.analysis.network_parts import ParametricLayer, Part, convolution_positions, input_names, network_parts
from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm
from sb3_rlx2.common.topology import TopologySettings, networks
from sb3_rlx2.common.topology_rules import resolve_rules
from sb3_rlx2.engine.crossq import crossq_description
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.dqn import dqn_description
from sb3_rlx2.engine.networks import LEARNING, acting_network, optimizer_of
from sb3_rlx2.engine.programs import NotCoveredError, network_program
from sb3_rlx2.engine.qrdqn import qrdqn_description
from sb3_rlx2.engine.sac import sac_description
from sb3_rlx2.engine.td3 import td3_description
from sb3_rlx2.sparse import SparseLinear, unreachable_outputs
from sb3_rlx2.sparse.checks import check_count, check_number
from sb3_rlx2.sparse.units import (
    LinearLayer,
    connections_per_input,
    connections_per_unit,
    dormant_units,
    mean_activity,
    mean_outputs,
)

ALGORITHMS: tuple[type[OffPolicyAlgorithm], ...] = (TD3, SAC, TQC, CrossQ, DQN, QRDQN)
"""Algorithms whose models a report describes, and those that extend them."""


def report(
    model: OffPolicyAlgorithm,
    *,
    dormant_threshold: float = 0.025,
    n_samples: int = 1024,
    seed: int = 0,
    checkpoint_bytes: int | None = None,
) -> ModelReport:
    """Report what a model is made of. Neither the model nor any global random generator is changed.

    :param model: one of RLx2's algorithms, or one of ``ALGORITHMS`` with sparse or dense policies
    :param dormant_threshold: τ: units are dormant whose mean activity is at most this fraction of their layer's
        average (Sokar et al., 2023), default 0.025
    :param n_samples: how many transitions to draw from the replay buffer to find dormant units, default 1024
    :param seed: of that draw, default 0
    :param checkpoint_bytes: size of the saved model; None (default): it is saved to memory to find out
    :raises ValueError: for another algorithm, or an argument out of range
    """
    if not isinstance(model, ALGORITHMS):
        names = ", ".join(algorithm.__name__ for algorithm in ALGORITHMS)
        raise ValueError(f"a report is possible for {names} and their subclasses, not for {type(model).__name__}")
    check_number(dormant_threshold, "dormant_threshold", 0.0)
    check_count(n_samples, "n_samples", 1)
    check_count(seed, "seed", 0)
    parts = network_parts(model.policy)
    batch = _batch(model, n_samples, np.random.default_rng(seed))
    reports = tuple(
        NetworkReport(
            part.name,
            tuple(_layer_reports(model, part, _dormant(model, part, batch, dormant_threshold))),
            part.shared_with,
        )
        for part in parts
    )
    return ModelReport(
        algorithm=type(model).__name__,
        timesteps=model.num_timesteps,
        networks=reports,
        flops=_flops(model, reports),
        checkpoint_bytes=_saved_size(model) if checkpoint_bytes is None else checkpoint_bytes,
        inputs=tuple(_inputs(model, parts)),
        dormant_threshold=dormant_threshold,
        n_samples=0 if batch is None else len(batch[1]),
    )


def _saved_size(model: OffPolicyAlgorithm) -> int:
    file = io.BytesIO()
    model.save(file)
    return file.getbuffer().nbytes


# --- layers ---


def _layer_reports(model: OffPolicyAlgorithm, part: Part, dormant: dict[str, int]) -> list[LayerReport]:
    positions = convolution_positions(model, part)
    optimizer = optimizer_of(model.policy, part.owner) if part.owner in LEARNING else None
    without_outputs, unreachable = _units_without_outputs(part), _unreachable_outputs(part)
    reports = []
    for name, layer in part.layers.items():
        kernel = layer.in_features * layer.out_features if isinstance(layer, SparseLinear) else layer.weight.numel()
        connections = layer.nnz if isinstance(layer, SparseLinear) else kernel
        passes = 2.0 * positions.get(name, 1)
        weight_bytes, dense_weight_bytes = _weight_bytes(layer, kernel)
        optimizer_bytes, dense_optimizer_bytes = _optimizer_bytes(layer, kernel, optimizer)
        no_inputs = None
        if not isinstance(layer, nn.Conv2d):
            no_inputs = int((connections_per_unit(layer) == 0).sum())
        reports.append(
            LayerReport(
                name=name,
                shape=_shape(layer),
                connections=connections,
                dense_connections=kernel,
                weight_bytes=weight_bytes,
                dense_weight_bytes=dense_weight_bytes,
                optimizer_bytes=optimizer_bytes,
                dense_optimizer_bytes=dense_optimizer_bytes,
                flops=passes * connections,
                dense_flops=passes * kernel,
                units_without_inputs=no_inputs,
                units_without_outputs=without_outputs.get(name),
                dormant_units=dormant.get(name),
                unreachable_outputs=unreachable.get(name),
            )
        )
    return reports


def _shape(layer: ParametricLayer) -> tuple[int, ...]:
    return (
        tuple(layer.weight.shape) if isinstance(layer, nn.Conv2d) else (int(layer.out_features), int(layer.in_features))
    )


def _weight_bytes(layer: ParametricLayer, kernel: int) -> tuple[int, int]:
    tensors = list(layer.state_dict().values())
    weight = layer.values if isinstance(layer, SparseLinear) else layer.weight
    bias = 0 if layer.bias is None else layer.bias.nbytes
    return sum(tensor.nbytes for tensor in tensors), kernel * weight.element_size() + bias


def _optimizer_bytes(layer: ParametricLayer, kernel: int, optimizer: th.optim.Optimizer | None) -> tuple[int, int]:
    own, dense = 0, 0
    for parameter in layer.parameters() if optimizer is not None else ():
        is_weight = parameter is not layer.bias
        for entry in cast(th.optim.Optimizer, optimizer).state.get(parameter, {}).values():
            if th.is_tensor(entry):
                own += entry.nbytes
                aligned = is_weight and entry.shape == parameter.shape
                dense += kernel * entry.element_size() if aligned else entry.nbytes
    return own, dense


def _units_without_outputs(part: Part) -> dict[str, int]:
    return {
        name: int((connections_per_input(part.stage(place + 1)) == 0).sum())
        for place in range(len(part.stages) - 1)
        for name in part.stages[place]
    }


def _unreachable_outputs(part: Part) -> dict[str, int]:
    if not part.stages:
        return {}
    outputs = unreachable_outputs([part.stage(place) for place in range(len(part.stages))])
    return {name: int(unreachable.sum()) for name, unreachable in zip(part.stages[-1], outputs, strict=True)}


# --- dormant units ---

Batch = tuple[Any, th.Tensor]


def _batch(model: OffPolicyAlgorithm, n_samples: int, rng: np.random.Generator) -> Batch | None:
    """Observations and actions drawn from the replay buffer, with a generator of their own."""
    buffer = model.replay_buffer
    if not isinstance(buffer, ReplayBuffer) or buffer.size() == 0:
        return None
    rows = np.arange(buffer.buffer_size if buffer.full else buffer.pos)
    if isinstance(buffer, DynamicReplayBuffer):
        rows = buffer.rows_held()
    chosen = rng.choice(rows, size=n_samples)
    envs = rng.integers(buffer.n_envs, size=n_samples)
    stored: Any = buffer.observations
    if isinstance(stored, dict):
        drawn: Any = {key: entry[chosen, envs] for key, entry in stored.items()}
    else:
        drawn = stored[chosen, envs]
    normalized: Any = buffer._normalize_obs(drawn, model.get_vec_normalize_env())
    if isinstance(normalized, dict):
        observations: Any = {key: th.as_tensor(entry, device=model.device) for key, entry in normalized.items()}
    else:
        observations = th.as_tensor(normalized, device=model.device)
    return observations, th.as_tensor(buffer.actions[chosen, envs], device=model.device)


def _dormant(model: OffPolicyAlgorithm, part: Part, batch: Batch | None, threshold: float) -> dict[str, int]:
    """Number of dormant units of each hidden layer of a part."""
    if batch is None:
        return {}
    network: Any = getattr(model.policy, part.owner)
    observations, actions = batch

    def forward() -> None:
        if part.owner.startswith("critic"):
            network(observations, actions.to(th.float32))
        else:
            network._predict(observations, deterministic=True)

    was_training = network.training
    network.train(False)
    try:
        activity = _chain_activity(part, network, forward) if part.stages else _block_activity(part, network, forward)
    finally:
        network.train(was_training)
    return {name: int(dormant_units(magnitudes, threshold).sum()) for name, magnitudes in activity.items()}


def _chain_activity(part: Part, network: nn.Module, forward: Callable[[], None]) -> dict[str, th.Tensor]:
    """Of a plain chain of layers: what each layer reads of the one before."""
    normalizations = [module for module in network.modules() if isinstance(module, (BatchRenorm1d, nn.BatchNorm1d))]
    activity = mean_activity([part.stage(place) for place in range(len(part.stages))], forward, normalizations)
    return {name: found for names, found in zip(part.stages, activity, strict=False) for name in names}


def _block_activity(part: Part, network: Any, forward: Callable[[], None]) -> dict[str, th.Tensor]:
    """Of any other order of layers: what an activation makes of a layer, where no other one has the same module."""
    try:
        program = network_program(part.owner, network, get_action_dim(network.action_space))
    except NotCoveredError:
        return {}
    names, modules = {layer: name for name, layer in part.layers.items()}, set(network.modules())
    makers = {operation.output: operation.module for operation in program.operations}
    activations = [operation for operation in program.operations if operation.kind == "activation"]
    calls = Counter(operation.module for operation in activations)
    found: dict[str, nn.Module] = {
        names[layer]: operation.module
        for operation in activations
        if (layer := makers.get(operation.inputs[0])) in names
        and operation.module is not None
        and operation.module in modules
        and calls[operation.module] == 1
    }
    return dict(zip(found, mean_outputs(list(found.values()), forward), strict=True))


# --- FLOPs ---


def update_recipe(model: OffPolicyAlgorithm) -> UpdateRecipe:
    """What one update of a model consists of, n-step targets included once their delay is over.

    :param model: one of ``ALGORITHMS`` or a subclass
    """
    settings: TopologySettings | None = getattr(model, "_topology_settings", None)
    intervals: dict[str, float] = {}
    if settings is not None:
        rules = resolve_rules(settings.topology, networks(model))
        scored = [name for name, rule in rules.items() if rule.evolves and rule.needs_dense_grad]
        intervals = {name: cast(RLx2OffPolicyAlgorithm, model)._interval_in_updates(name) for name in scored}
    # RLx2SAC's n-step target has an entropy term at each of its states
    has_bonus = getattr(model, "_state_bonus", lambda: None)() is not None
    target_actions = getattr(model, "n_steps", 1) if has_bonus else 1
    shares_extractor = getattr(model.policy, "share_features_extractor", False)
    actor_share = model._share_of_updates("actor") if isinstance(model, RLx2OffPolicyAlgorithm) else 1.0
    return UpdateRecipe(_description(model), model.batch_size, target_actions, intervals, shares_extractor, actor_share)


def _description(model: OffPolicyAlgorithm) -> UpdateDescription:
    if isinstance(model, RLx2OffPolicyAlgorithm):
        return model._describe_update()
    if isinstance(model, (SAC, TQC)):
        # Of TQC's too: what an update reads and how often is the same
        return sac_description(model.target_update_interval, model.ent_coef_optimizer is not None)
    if isinstance(model, CrossQ):
        return crossq_description(model.policy_delay)
    if isinstance(model, DQN):
        return dqn_description()
    if isinstance(model, QRDQN):
        return qrdqn_description()
    return td3_description(cast(TD3, model).policy_delay)


def _flops(model: OffPolicyAlgorithm, reports: Sequence[NetworkReport]) -> FlopsReport:
    own = {network.name: float(network.total("flops")) for network in reports}
    dense = {network.name: float(network.total("dense_flops")) for network in reports}
    recipe, acting = update_recipe(model), cast(str, acting_network(model.policy))
    return FlopsReport(
        action=of_network(own, acting),
        dense_action=of_network(dense, acting),
        batch_size=model.batch_size,
        update=update_flops(own, dense, recipe),
        dense_update=update_flops(dense, dense, recipe._replace(target_actions=1, evolution_intervals={})),
    )


# --- inputs ---


def _inputs(model: OffPolicyAlgorithm, parts: Sequence[Part]) -> list[InputReport]:
    """Connections of each observation dimension in the online networks, and of each action dimension in the critics."""
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        if part.owner not in LEARNING or not part.first:
            continue
        names = input_names(getattr(model.policy, part.owner))
        if names is None:
            continue
        connections = connections_per_input([cast(LinearLayer, part.layers[name]) for name in part.first]).tolist()
        names = [*names, *(f"action {place}" for place in range(len(connections) - len(names)))]
        for name, count in zip(names, connections, strict=True):
            counts.setdefault(name, {})[part.name] = count
    return [InputReport(name, by_network) for name, by_network in counts.items()]
