"""Compiled gradient updates of one model, from the side of Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_rlx2.engine import adam as a
from sb3_rlx2.engine import networks as n
from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.phases import MAX_SHARDS, SLOTS
from sb3_rlx2.engine.plan import Layer, NetworkTable, ParameterTable, address, aligned
from sb3_rlx2.kernels.compiled import is_ready
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.structure import Structure
from sb3_rlx2.sparse.layers import SparseLinear, values_of

Array = npt.NDArray[Any]

ACTIVATIONS: Mapping[type[nn.Module], int] = {nn.ReLU: n.RELU, nn.Tanh: n.TANH, nn.ELU: n.ELU}
SHARD_SAMPLES = 128
CONNECTIONS_PER_THREAD = 3_000_000
"""Connections times batch from which a further thread pays (benchmarks/speed.py): waking it takes some 50 µs."""
SPARE_ROWS, HEAD_ROWS = 8, 4


class Samples(NamedTuple):
    """Which transitions make up the batches of some updates, and how.

    :param rows: rows in the replay buffer, [updates, batch] int64
    :param environments: environments, [updates, batch] int64
    :param n_steps: number of rewards in the target
    :param newest: row of the newest transition
    """

    rows: Array
    environments: Array
    n_steps: int
    newest: int


class Networks(NamedTuple):
    """The linear layers of a policy's networks, each in order.

    :param actor: the actor
    :param actor_target: its target; empty if there is none
    :param critics: each critic
    :param critic_targets: the target of each critic
    """

    actor: Sequence[Layer]
    actor_target: Sequence[Layer]
    critics: Sequence[Sequence[Layer]]
    critic_targets: Sequence[Sequence[Layer]]


def linear_layers_of(sequence: nn.Module) -> list[Layer]:
    """The linear layers of an MLP, sparse and dense, in order."""
    return [module for module in sequence.modules() if isinstance(module, (SparseLinear, nn.Linear))]


class Updates:
    """The memory, the tables and the threads that a compiled update needs. A subclass is an algorithm.

    :param networks: the layers of all networks
    :param optimizers: the optimizer of ``"actor"`` and ``"critic"``
    :param activation: class of the hidden layers' activations
    :param n_obs: number of observation dimensions
    :param n_act: number of action dimensions
    """

    function: ClassVar[Callable[..., int]]

    def __init__(
        self,
        networks: Networks,
        optimizers: Mapping[str, th.optim.Optimizer],
        activation: type[nn.Module],
        n_obs: int,
        n_act: int,
    ) -> None:
        self.networks, self.optimizers = networks, dict(optimizers)
        self.integers, self.floats = np.zeros(t.INTEGERS, np.int64), np.zeros(t.FLOATS, np.float64)
        self.n_obs, self.n_act = n_obs, n_act
        self.integers[[t.N_OBS, t.N_ACT, t.N_CRITICS]] = n_obs, n_act, len(networks.critics)
        self.integers[t.ACTIVATION] = ACTIVATIONS[activation]
        self.losses = np.zeros(SLOTS, np.float64)
        self._shared = np.zeros(t.SHARED_FIELDS, np.int64)
        self.integers[[t.LOSSES, t.SHARED]] = address(self.losses), address(self._shared)
        self._batch = 0
        self._powers_of: tuple[int, float] | None = None
        self._buffer_arrays: list[Array] = []
        self._build()
        if not is_ready(type(self).function):
            print("Compiling the sparse engine for this processor, once; it takes some seconds …", flush=True)

    @classmethod
    def of(cls, policy: Any, coefficient_optimizer: th.optim.Optimizer | None) -> Updates:
        """Updates of a policy's networks.

        :param policy: the policy, which must be covered
        :param coefficient_optimizer: the optimizer of SAC's entropy coefficient, or None
        """
        optimizers = {"actor": policy.actor.optimizer, "critic": policy.critic.optimizer}
        if coefficient_optimizer is not None:
            optimizers["coefficient"] = coefficient_optimizer
        actor_target = getattr(policy, "actor_target", None)
        networks = Networks(
            linear_layers_of(policy.actor),
            [] if actor_target is None else linear_layers_of(actor_target),
            [linear_layers_of(q) for q in policy.critic.q_networks],
            [linear_layers_of(q) for q in policy.critic_target.q_networks],
        )
        n_obs, n_act = policy.actor.features_dim, get_action_dim(policy.action_space)
        return cls(networks, optimizers, policy.activation_fn, n_obs, n_act)

    # --- tables ---

    def _build(self) -> None:
        """Make the tables of layers and parameters from the networks as they are now."""
        self._is_built = False
        networks = self.networks
        all_networks = [networks.actor, networks.actor_target, *networks.critics, *networks.critic_targets]
        count = len(networks.critics)
        own = [0, 0, *range(2, 2 + count), *range(2, 2 + count)]
        self.layers = NetworkTable(all_networks, own)
        self._critics = list(range(2, 2 + count))
        self.integers[[t.ACTOR, t.ACTOR_TARGET]] = self.layers.firsts[:2]
        self.integers[[t.CRITIC, t.CRITIC_TARGET]] = self.layers.firsts[2], self.layers.firsts[2 + count]
        self.integers[[t.ACTOR_LAYERS, t.CRITIC_LAYERS]] = len(networks.actor), len(networks.critics[0])
        targets = dict(zip(_parameters([networks.actor]), _parameters([networks.actor_target]), strict=False))
        targets |= dict(zip(_parameters(networks.critics), _parameters(networks.critic_targets), strict=True))
        groups = [
            (self.optimizers["actor"], _parameters([networks.actor])),
            (self.optimizers["critic"], _parameters(networks.critics)),
            *self._further_parameters(),
        ]
        self.parameters = ParameterTable([(o, ps, [targets.get(p) for p in ps]) for o, ps in groups])
        ends = self.parameters.ends
        self.integers[[t.ACTOR_PARAMETERS, t.CRITIC_PARAMETERS]] = 0, ends[0]
        self.integers[[t.COEFFICIENT, t.PARAMETERS_END]] = ends[1], ends[-1]
        online = [*networks.actor, *(layer for critic in networks.critics for layer in critic)]
        self._connections = sum(values_of(layer).numel() for layer in online)
        self._place_gradients()
        self._is_built = True  # last: Ctrl-C may come at any time

    def _further_parameters(self) -> list[tuple[th.optim.Optimizer, list[th.Tensor]]]:
        return []

    def _place_gradients(self) -> None:
        layers, networks = self.layers, self.networks
        actor = layers.place_gradients([0], [len(networks.actor)])
        critic = layers.place_gradients(self._critics, [len(critic) for critic in networks.critics])
        self.integers[[t.ACTOR_GRADIENTS, t.CRITIC_GRADIENTS]] = actor, critic
        size = -(-max(actor, critic) * 4 // 64) * 64
        self.integers[t.SHARD_BYTES] = size
        self._gradients = aligned(size * MAX_SHARDS)
        self.integers[t.GRADIENTS] = address(self._gradients)
        columns = [n.VALUES_GRADIENT, n.BIAS_GRADIENT]
        first_critic = layers.firsts[2]
        online = [
            *layers.rows[: len(networks.actor), columns].ravel(),
            *layers.rows[first_critic : first_critic + self._n_critic_layers, columns].ravel(),
        ]
        self.parameters.rows[: len(online), a.GRADIENT] = online

    @property
    def _n_critic_layers(self) -> int:
        return sum(map(len, self.networks.critics))

    def refresh(self) -> None:
        """Follow what has changed since the last run: connections, optimizer states, addresses."""
        if not (self._is_built and self.layers.is_current and self.parameters.is_current):
            self._build()
        self.layers.refresh()
        self.parameters.refresh()

    # --- memory ---

    def reserve(self, batch: int) -> None:
        """Working memory for batches of a size."""
        if batch == self._batch:
            return
        networks, rows = self.networks, self.layers.rows
        tiles = -(-batch // TILE)
        n_in = self.n_obs + self.n_act
        widest = int(rows[:, [n.N_IN, n.N_OUT]].max())
        actor = sum(layer.out_features for layer in networks.actor)
        critic = sum(layer.out_features for layer in networks.critics[0])
        sizes = {
            t.NEXT_INPUT: n_in,
            t.ACTOR_OUTPUTS: actor,
            t.CRITIC_OUTPUTS: critic * len(networks.critics),
            t.OUTPUT_GRADIENT: widest,
            t.SPARE: widest,
            t.ACTION_GRADIENT: max(widest, 2 * self.n_act),
            t.ROWS_OF_TILE: SPARE_ROWS,
            t.HEADS: HEAD_ROWS * self.n_act,
        }
        offset = 0
        for field, size in sizes.items():
            self.integers[field], offset = offset, offset + size * ROW_BYTES
        self.integers[t.THREAD_BYTES] = offset
        self._inputs = aligned(tiles * n_in * ROW_BYTES)
        kept = (actor + HEAD_ROWS * self.n_act + 1) * ROW_BYTES
        self._actor_outputs = aligned(tiles * kept)
        shards = max(1, min(batch // SHARD_SAMPLES, MAX_SHARDS))
        self._thread_memory = aligned(shards * offset)
        self.integers[[t.BATCH, t.SHARDS]] = batch, shards
        self.integers[[t.INPUTS, t.THREAD_MEMORY]] = address(self._inputs), address(self._thread_memory)
        self.integers[[t.ACTOR_MEMORY, t.ACTOR_TILE_BYTES]] = address(self._actor_outputs), kept
        self.integers[[t.ACTOR_BYTES, t.CRITIC_BYTES]] = actor * ROW_BYTES, critic * ROW_BYTES
        self._batch = batch

    def read_from(self, buffer: ReplayBuffer, normalize: VecNormalize | None, gamma: float) -> None:
        """Say where batches come from.

        :param buffer: the replay buffer
        :param normalize: normalizes observations and rewards, or None
        :param gamma: discount factor
        :raises ValueError: if the statistics are not those of these observations
        """
        arrays = [
            buffer.observations,
            buffer.next_observations,
            buffer.actions,
            buffer.rewards,
            buffer.dones,
            buffer.timeouts,
        ]
        integers, floats = self.integers, self.floats
        if len(arrays) != len(self._buffer_arrays) or any(
            x is not y for x, y in zip(arrays, self._buffer_arrays, strict=True)
        ):
            integers[t.OBSERVATIONS : t.TIMEOUTS + 1] = [address(array) for array in arrays]
            integers[t.IS_DOUBLE] = buffer.observations.dtype == np.float64
            integers[[t.N_ENVS, t.N_ROWS]] = buffer.n_envs, buffer.buffer_size
            self._buffer_arrays = arrays
        floats[t.GAMMA] = gamma
        floats[t.REWARD_STD] = integers[t.OBS_MEAN] = 0
        if normalize is not None and normalize.norm_obs:
            statistics = cast(RunningMeanStd, normalize.obs_rms)
            self._mean = np.ascontiguousarray(statistics.mean, np.float64)
            self._std = np.sqrt(np.ascontiguousarray(statistics.var, np.float64) + normalize.epsilon)
            for name, array in (("mean", self._mean), ("var", self._std)):
                if array.size != self.n_obs:
                    raise ValueError(
                        f"VecNormalize's obs_rms.{name} is {array.shape}, and observations are ({self.n_obs},)"
                    )
            integers[[t.OBS_MEAN, t.OBS_STD]] = address(self._mean), address(self._std)
            floats[t.CLIP_OBS] = normalize.clip_obs
        if normalize is not None and normalize.norm_reward:
            floats[t.REWARD_STD] = np.sqrt(normalize.ret_rms.var + normalize.epsilon)
            floats[t.CLIP_REWARD] = normalize.clip_reward

    def place_samples(self, samples: Samples) -> None:
        """Say which transitions are next."""
        if self._powers_of != (samples.n_steps, self.floats[t.GAMMA]):
            self._powers = (self.floats[t.GAMMA] ** np.arange(samples.n_steps + 1)).astype(np.float32)
            self.integers[t.POWERS] = address(self._powers)
            self._powers_of = (samples.n_steps, self.floats[t.GAMMA])
        self._samples = samples
        # One number at a time: NumPy's indexing with lists takes ten times as long
        integers = self.integers
        integers[t.N_STEPS], integers[t.NEWEST] = samples.n_steps, samples.newest
        integers[t.SAMPLED_ROWS], integers[t.SAMPLED_ENVS] = address(samples.rows), address(samples.environments)

    # --- updates ---

    @property
    def completed(self) -> int:
        """Number of updates made so far, by all runs; compiled code counts them itself, so it is right at any time."""
        return int(self._shared[t.COMPLETED])

    @property
    def n_threads(self) -> int:
        """Number of threads of the last run."""
        return int(self._shared[t.THREADS])

    def run(self, samples: Samples, before: int, within: int, phases: int = t.ALL_PHASES) -> tuple[Array, int]:
        """Make gradient updates.

        :param samples: what to learn from
        :param before: number of updates before the call to ``train``
        :param within: number of updates before these in that call
        :param phases: which parts of the update
        :return: losses, [updates, RESULTS], NaN where there is none; and the number of updates that were completed,
            fewer than asked for if one diverged. That one has changed nothing, if all parts of it were asked for
        """
        updates, batch = samples.rows.shape
        self.reserve(batch)
        self.place_samples(samples)
        self.refresh()
        integers = self.integers
        integers[t.UPDATES], integers[t.PHASES] = updates, phases
        integers[t.UPDATES_BEFORE], integers[t.UPDATES_WITHIN] = before + within, within
        for name, rate in (("actor", t.ACTOR_RATE), ("critic", t.CRITIC_RATE)):
            self._read_settings(self.optimizers[name], rate)
        results = np.full((updates, t.RESULTS), np.nan)
        completed = self._start(results, self._threads())
        return results, completed

    def _threads(self) -> int:
        """Number of threads: as many as have enough to do, at most ``torch.get_num_threads()``."""
        worth = self._batch * self._connections // CONNECTIONS_PER_THREAD
        return max(1, min(th.get_num_threads(), int(self.integers[t.SHARDS]), worth))

    def _read_settings(self, optimizer: th.optim.Optimizer, first: int) -> None:
        group, floats = optimizer.param_groups[0], self.floats
        floats[first], floats[first + 3] = group["lr"], group["eps"]
        floats[first + 1], floats[first + 2] = group["betas"]

    def _start(self, results: Array, threads: int) -> int:
        self._shared[[t.BARRIER, t.IS_NOT_FINITE]] = 0
        tables = (self.layers.rows, self.parameters.rows, self.integers, self.floats)
        return type(self).function(*tables, results, threads)

    # --- gradients at all positions ---

    def want_all_positions(self, network: str, wanted: bool) -> None:
        """Whether the next runs compute the gradient of a network's weights at absent positions too.

        :param network: ``"actor"`` or ``"critic"``
        :param wanted: whether to
        """
        self.refresh()
        self._full: list[Structure] = []
        for number in self._sparse_rows(network):
            row, layer = self.layers.rows[number], self.layers.layers[number]
            structure = self.layers.structures[number]
            if wanted:
                structure = Structure.full(layer.in_features, layer.out_features)
                self._full.append(structure)
            row[[n.GRADIENT_ROWS, n.GRADIENT_COLUMNS]] = address(structure.rows), address(structure.columns)
        self._place_gradients()

    def dense_gradients(self, network: str) -> dict[SparseLinear, th.Tensor]:
        """Gradients [out_features, in_features] of a network's sparse layers, from the last run.

        :param network: ``"actor"`` or ``"critic"``; all positions must have been wanted
        """
        shards = int(self.integers[t.SHARDS])
        floats = self._gradients.view(np.float32).reshape(MAX_SHARDS, -1)[:shards].sum(axis=0)
        gradients = {}
        for number in self._sparse_rows(network):
            layer = self.layers.layers[number]
            assert isinstance(layer, SparseLinear)
            start = self.layers.rows[number, n.VALUES_GRADIENT]
            flat = floats[start : start + layer.in_features * layer.out_features].copy()
            gradients[layer] = th.from_numpy(flat).view(layer.out_features, layer.in_features)
        return gradients

    def _sparse_rows(self, network: str) -> list[int]:
        first = self.layers.firsts[0 if network == "actor" else 2]
        count = len(self.networks.actor) if network == "actor" else self._n_critic_layers
        return [i for i in range(first, first + count) if isinstance(self.layers.layers[i], SparseLinear)]


def _parameters(networks: Sequence[Sequence[Layer]]) -> list[th.Tensor]:
    """Weights and biases in the order in which gradients are laid out."""
    layers = [layer for network in networks for layer in network]
    return [cast(th.Tensor, tensor) for layer in layers for tensor in (values_of(layer), layer.bias)]
