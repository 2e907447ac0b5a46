"""Compiled gradient updates of one model, from the side of Python."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.functions import address_of
from sb3_rlx2.engine.loop import MAX_SHARDS, MAX_SUMS, update_loop
from sb3_rlx2.engine.networks import NETWORKS, optimizer_of
from sb3_rlx2.engine.plan import NetworkBlocks, ParameterBlocks, address, aligned
from sb3_rlx2.engine.programs import Program, network_program
from sb3_rlx2.engine.records import GRADIENT, OPTIMIZER, PHASE, SHARED, STEP, TARGETS, TASK
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.kernels.compiled import is_on_disk
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.records import Record, fields_of
from sb3_rlx2.sparse.layers import SparseLinear, values_of
from sb3_rlx2.sparse.unit_norm import unit_norms

Array = npt.NDArray[Any]

SHARD_SAMPLES = 128
CONNECTIONS_PER_THREAD = 3_000_000
"""Connections times batch from which a further thread pays (benchmarks/speed.py): waking it takes some 50 µs."""
SPARE_ROWS, HEAD_ROWS = 8, 4
ALL = GRADIENT | STEP
OPTIMIZER_SETTINGS = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "is_decoupled")
ROLES = {"actor": "actor", "critic": "critic", "q_net": "critic", "quantile_net": "critic"}
"""Which network of the task's block each network is."""


def task_field(name: str) -> str:
    """The task's field with the address of a network.

    :param name: name of the network
    """
    online = name.removesuffix("_target")
    return f"{ROLES.get(online, online)}{name[len(online) :]}"


def policy_programs(policy: Any) -> dict[str, Program]:
    """The programs of a policy's networks, by the name of its attribute; targets that it lacks are left out.

    :param policy: the policy
    :raises NotCoveredError: if a network has parts that no operation computes
    """
    n_act = get_action_dim(policy.action_space)
    found = {name: network for name in NETWORKS if (network := getattr(policy, name, None)) is not None}
    return {name: network_program(name, network, n_act) for name, network in found.items()}


class Updates:
    """The memory, the blocks and the threads that a compiled update needs. A subclass is an algorithm.

    :param policy: the policy, which must be covered
    :param description: what an update consists of
    :param optimizers: further optimizers than those of the networks, by name
    :param verbose: 1: say so where code is compiled
    """

    algorithm: ClassVar[Record]
    """The algorithm's own parameter block."""
    n_noises: ClassVar[int] = 0
    """How many numbers of noise an update draws for each transition and dimension of the actions."""

    def __init__(
        self,
        policy: Any,
        description: UpdateDescription,
        optimizers: Mapping[str, th.optim.Optimizer] | None = None,
        verbose: int = 0,
    ) -> None:
        self._description = description
        self.programs = policy_programs(policy)
        self.optimizers: dict[str, th.optim.Optimizer] = {}
        for phase in description.phases:
            self.optimizers[phase.network] = optimizer_of(policy, phase.network)
            self.optimizers |= {name: (optimizers or {})[name] for name in phase.further_optimizers}
        self.block, self.own = TASK.zeros(1), self.algorithm.zeros(1)
        self.task: Any = self.block[0]
        self.settings: Any = self.own[0]
        # What is written at each run, since a field of a record takes five times as long to set
        self._task_fields, self.fields = fields_of(self.block), fields_of(self.own)
        self._address = address(self.block)
        by_field = {task_field(name): program for name, program in self.programs.items()}
        self.n_obs = by_field.get("actor", by_field["critic"]).widths[0]
        # What critics read of an action: nothing where they tell the values of all
        self.n_act = by_field["critic"].widths[0] - self.n_obs
        self.n_critics = len(by_field["critic"].outputs)
        self.columns = {name: column for column, name in enumerate(description.results)}
        self._sums, self._shared = np.zeros(MAX_SHARDS * MAX_SUMS), SHARED.zeros(1)
        self._completed = self._shared["completed"]
        self._optimizer_blocks = OPTIMIZER.zeros(len(self.optimizers))
        self._optimizer_blocks["max_gradient_norm"] = np.inf
        self._optimizer_settings: list[Any] = [None] * len(self.optimizers)
        self._phases, self._targets = PHASE.zeros(len(description.phases)), TARGETS.zeros(1)
        self._parts, self._tau = self._phases["parts"], self._targets["tau"]
        task = self.task
        task["n_obs"], task["n_act"], task["n_critics"] = self.n_obs, self.n_act, self.n_critics
        task["algorithm"], task["sums"], task["shared"] = map(address, (self.own, self._sums, self._shared))
        task["phases"], task["n_phases"], task["targets"] = (
            address(self._phases),
            len(self._phases),
            address(self._targets),
        )
        task["n_results"] = len(self.columns)
        self._batch, self._sampled = 0, (0, 0)
        self._powers_of: tuple[int, float] | None = None
        self._buffer_arrays: list[Array] = []
        if verbose >= 1 and not cast(Any, update_loop).signatures and not is_on_disk(cast(Any, update_loop).py_func):
            print("Compiling the sparse engine for this processor, once; it takes some seconds …", flush=True)
        self._build()

    @property
    def description(self) -> UpdateDescription:
        """What an update consists of. Set, it may have other periods, but not other networks or results."""
        return self._description

    @description.setter
    def description(self, description: UpdateDescription) -> None:
        if description != self._description:
            self._description = description
            self._describe()

    # --- blocks ---

    def _build(self) -> None:
        """Make the blocks of networks and parameters from the networks as they are now."""
        self._is_built = self._is_fresh = False
        self.networks: dict[str, NetworkBlocks] = {}
        for name, program in self.programs.items():
            online = self.networks.get(name.removesuffix("_target"))
            self.networks[name] = NetworkBlocks(program, online, has_backward=online is None)
        critic = next(blocks for name, blocks in self.networks.items() if task_field(name) == "critic")
        self._critics = critic.parts()
        followers: dict[th.Tensor, th.Tensor] = {}
        groups = []
        for name, optimizer in self.optimizers.items():
            if name in self.networks:
                parameters = [parameter for parameter, _ in self.networks[name].gradient_offsets()]
                target = self.networks.get(f"{name}_target")
                if target is not None:
                    followers |= dict(zip(parameters, (p for p, _ in target.gradient_offsets()), strict=True))
            else:
                parameters = list(optimizer.param_groups[0]["params"])
            groups.append((optimizer, parameters, [followers.get(parameter) for parameter in parameters]))
        norms = [norm for optimizer in self.optimizers.values() for norm in unit_norms(optimizer)]
        self.parameters = ParameterBlocks(groups, [layer for norm in norms for layer in norm.layers])
        ends = [0, *self.parameters.ends]
        self._ranges = {name: (ends[i], ends[i + 1]) for i, name in enumerate(self.optimizers)}
        task = self.task
        task["parameters"] = address(self.parameters.blocks)
        for name, blocks in self.networks.items():
            task[task_field(name)] = blocks.address
            if f"{name}_target" not in self.networks and not name.endswith("_target"):
                task[f"{task_field(name)}_target"] = blocks.address
        task["first_critic"] = address(self._critics)
        for i, name in enumerate(self.optimizers):
            if name in self.networks:
                network = self.networks[name].network[0]
                network["first_parameter"], network["end_parameter"] = self._ranges[name]
                network["optimizer"] = address(self._optimizer_blocks) + i * OPTIMIZER.size
        self._connections = sum(
            values_of(layer).numel()
            for phase in self.description.phases
            for layer in self.programs[phase.network].layers
        )
        self._place_gradients()
        self._describe()
        self._is_built = True  # last: Ctrl-C may come at any time

    def _describe(self) -> None:
        """Fill in the blocks of phases and target updates."""
        self._backward: list[Array] = []
        column = 0
        for block, phase in zip(self._phases, self.description.phases, strict=True):
            block["network"], block["period"] = self.task[task_field(phase.network)], phase.period
            block["tile_function"] = address_of(phase.tile_function)
            block["begin"], block["finish"] = address_of(phase.begin), address_of(phase.finish)
            self._backward.append(np.array([self.task[task_field(name)] for name in phase.backward], np.int64))
            block["backward_networks"], block["n_backward_networks"] = address(self._backward[-1]), len(phase.backward)
            block["n_losses"], block["first_result"] = len(phase.losses), column
            stepped = [self._ranges[name] for name in (phase.network, *phase.further_optimizers)]
            block["first_parameter"], block["end_parameter"] = stepped[0][0], stepped[-1][1]
            column += len(phase.losses) + len(phase.scalars)
        targets, ranges = self._targets[0], [self._ranges[name] for name in self.description.targets.networks]
        targets["first_parameter"] = min(ranges)[0] if ranges else 0
        targets["end_parameter"] = max(ranges)[1] if ranges else 0
        targets["period"] = self.description.targets.period
        targets["counts_within"] = self.description.targets.counts == "call"

    def _place_gradients(self) -> None:
        offsets: dict[th.Tensor, int] = {}
        sizes = [0]
        for phase in self.description.phases:
            network = self.networks[phase.network]
            offsets |= dict(network.gradient_offsets())
            sizes.append(int(network.network[0]["n_gradients"]))
        size = -(-max(sizes) * 4 // 64) * 64
        self.task["shard_bytes"] = size
        self._gradients = aligned(size * MAX_SHARDS)
        self.task["gradients"] = address(self._gradients)
        self.parameters.place_gradients(offsets)

    def refresh(self) -> None:
        """Follow what has changed since the last run: connections, optimizer states, addresses."""
        networks_are_current = self._is_built and all(network.is_current for network in self.networks.values())
        if not (networks_are_current and self.parameters.is_current):
            self._build()
        for network in self.networks.values():
            network.refresh()
        self.parameters.refresh()

    # --- memory ---

    @property
    def spare_rows(self) -> int:
        """Rows of each tile's own memory, beside activations and their gradients."""
        return SPARE_ROWS

    def reserve(self, batch: int) -> None:
        """Working memory for batches of a size."""
        if batch == self._batch:
            return
        task, tiles, n_in = self.task, -(-batch // TILE), self.n_obs + self.n_act
        networks = {name: blocks.network[0] for name, blocks in self.networks.items()}

        def largest(kind: str, field: str) -> int:
            found = (int(block[field]) for name, block in networks.items() if task_field(name).startswith(kind))
            return max(found, default=0)

        sizes = {
            "next_input": n_in * ROW_BYTES,
            "actor_activations": largest("actor", "activation_bytes"),
            "critic_activations": largest("critic", "activation_bytes"),
            "value_gradients": largest("", "gradient_bytes"),
            "action_gradient": self.n_act * ROW_BYTES,
            "rows_of_tile": self.spare_rows * ROW_BYTES,
            "heads": HEAD_ROWS * self.n_act * ROW_BYTES,
        }
        offset = 0
        for field, size in sizes.items():
            task[field], offset = offset, offset + size
        task["thread_bytes"] = offset
        task["kept_bytes"] = sizes["actor_activations"] + sizes["heads"] + ROW_BYTES
        shards = max(1, min(batch // SHARD_SAMPLES, MAX_SHARDS))
        task["batch"], task["shards"] = batch, shards
        self._inputs = aligned(tiles * n_in * ROW_BYTES)
        self._kept = aligned(tiles * int(task["kept_bytes"]))
        self._thread_memory = aligned(shards * offset)
        task["inputs"], task["kept"] = address(self._inputs), address(self._kept)
        task["thread_memory"] = address(self._thread_memory)
        self._batch = batch

    def room_for_samples(self, updates: int, batch: int) -> Array:
        """Where the transitions of the next run are to be written: rows and environments, [2, updates, batch] int64.

        :param updates: number of updates
        :param batch: number of transitions in each
        """
        if (updates, batch) != self._sampled:
            self.reserve(batch)
            self._reserve_samples(updates, batch)
        return self._places

    def _reserve_samples(self, updates: int, batch: int) -> None:
        """Memory for what is drawn for a run, and for its results."""
        task, self._sampled = self.task, (0, 0)  # Ctrl-C may come at any time
        self._places = np.empty((2, updates, batch), np.int64)
        self._results = np.empty((updates, len(self.columns)))
        shape = (self.n_noises, updates, batch, self.n_act)
        self.noises = th.empty(shape, dtype=th.float32, device="cpu").unbind()
        task["n_updates"], task["results"] = updates, address(self._results)
        task["sampled_rows"], task["sampled_envs"] = address(self._places[0]), address(self._places[1])
        self._sampled = (updates, batch)

    def read_from(self, buffer: ReplayBuffer, normalize: VecNormalize | None, gamma: float) -> None:
        """Bind the replay buffer's arrays.

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
        task = self.task
        if len(arrays) != len(self._buffer_arrays) or not all(map(is_, arrays, self._buffer_arrays)):
            for name, array in zip(
                ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"), arrays, strict=True
            ):
                task[name] = address(array)
            task["is_double"] = buffer.observations.dtype == np.float64
            task["n_envs"], task["n_rows"] = buffer.n_envs, buffer.buffer_size
            self._buffer_arrays = arrays
        self._gamma = gamma
        self._task_fields["reward_std"][0] = self._task_fields["obs_mean"][0] = 0
        if normalize is not None and normalize.norm_obs:
            statistics = cast(RunningMeanStd, normalize.obs_rms)
            self._mean = np.ascontiguousarray(statistics.mean, np.float64)
            self._std = np.sqrt(np.ascontiguousarray(statistics.var, np.float64) + normalize.epsilon)
            for name, array in (("mean", self._mean), ("var", self._std)):
                if array.size != self.n_obs:
                    raise ValueError(
                        f"VecNormalize's obs_rms.{name} is {array.shape}, and observations are ({self.n_obs},)"
                    )
            task["obs_mean"], task["obs_std"] = address(self._mean), address(self._std)
            task["clip_obs"] = normalize.clip_obs
        if normalize is not None and normalize.norm_reward:
            task["reward_std"] = np.sqrt(normalize.ret_rms.var + normalize.epsilon)
            task["clip_reward"] = normalize.clip_reward

    def bind(self, samples: Samples, tau: float) -> None:
        """Set what the next run learns from: transitions whose place ``room_for_samples`` told.

        :param samples: how they are read
        :param tau: Polyak coefficient
        """
        if self._powers_of != (samples.n_steps, self._gamma):
            self._powers = (self._gamma ** np.arange(samples.n_steps + 1)).astype(np.float32)
            self.task["powers"] = address(self._powers)
            self._powers_of = (samples.n_steps, self._gamma)
        self._task_fields["n_steps"][0], self._task_fields["newest"][0] = samples
        self._tau[0] = tau

    def limit_gradients(self, norm: float) -> None:
        """Scale down gradients of a network, all of its parameters together, to a norm.

        :param norm: the largest; infinite: they stay as they are
        """
        self._optimizer_blocks["max_gradient_norm"] = norm

    # --- updates ---

    @property
    def completed(self) -> int:
        """Number of updates made so far, by all runs; compiled code counts them itself, so it is right at any time."""
        completed: int = self._completed.item()
        return completed

    @property
    def diverged(self) -> str:
        """Name of the loss with which the last update diverged."""
        return self.description.results[int(self._shared["diverged"][0])]

    @diverged.setter
    def diverged(self, loss: str) -> None:
        self._shared["diverged"] = self.columns[loss]

    @property
    def n_threads(self) -> int:
        """Number of threads of the last run."""
        return int(self._shared["threads"][0])

    def run(
        self, before: int, within: int, parts: Mapping[str, int] | None = None, targets: bool = True
    ) -> tuple[Array, int]:
        """Make gradient updates from the samples that were bound.

        :param before: number of updates before the call to ``train``
        :param within: number of updates before these in that call
        :param parts: which parts of which networks' phases, others none; None: all
        :param targets: whether target networks follow
        :return: losses, [updates, results], NaN where there is none; and the number of updates that were completed,
            fewer than asked for if one diverged. That one has changed nothing, if all parts of it were asked for
        """
        # Between whole updates nothing moves that the rule of ``support`` does not watch; evolution moves connections
        if parts is not None or not self._is_fresh:
            self._is_fresh = False
            self.refresh()
            self._task_fields["is_whole"][0] = parts is None
            for number, phase in enumerate(self._description.phases):
                self._parts[number] = ALL if parts is None else parts.get(phase.network, 0)
            self._is_fresh = parts is None
        self._read_optimizer_settings()
        fields = self._task_fields
        fields["updates_before"][0], fields["updates_within"][0] = before + within, within
        fields["runs_targets"][0] = targets
        completed = update_loop(self._address, self._threads())
        return self._results.copy(), completed

    def _read_optimizer_settings(self) -> None:
        for number, optimizer in enumerate(self.optimizers.values()):
            group = optimizer.param_groups[0]
            decoupled = group.get("decoupled_weight_decay")
            if decoupled is None:
                decoupled = isinstance(optimizer, th.optim.AdamW)
            settings = (group["lr"], *group["betas"], group["eps"], group["weight_decay"], decoupled)
            if settings != self._optimizer_settings[number]:
                block = self._optimizer_blocks[number]
                for name, value in zip(OPTIMIZER_SETTINGS, settings, strict=True):
                    block[name] = value
                self._optimizer_settings[number] = settings

    def _threads(self) -> int:
        """Number of threads: as many as have enough to do, at most ``torch.get_num_threads()``."""
        worth = self._batch * self._connections // CONNECTIONS_PER_THREAD
        return 1 if worth <= 1 else min(th.get_num_threads(), int(self.task["shards"]), worth)

    # --- gradients at all positions ---

    def want_all_positions(self, network: str, wanted: bool) -> None:
        """Whether the next runs compute the gradient of a network's weights at absent positions too.

        :param network: name of the network
        :param wanted: whether to
        """
        self.refresh()
        self.networks[network].want_all_positions(wanted)
        self._place_gradients()

    def dense_gradients(self, network: str) -> dict[SparseLinear, th.Tensor]:
        """Gradients [out_features, in_features] of a network's sparse layers, from the last run.

        :param network: name of the network; all positions must have been wanted
        """
        shards = int(self.task["shards"])
        floats = self._gradients.view(np.float32).reshape(MAX_SHARDS, -1)[:shards].sum(axis=0)
        offsets = dict(self.networks[network].gradient_offsets())
        gradients = {}
        for layer in self.networks[network].sparse:
            start = offsets[layer.values]
            flat = floats[start : start + layer.in_features * layer.out_features].copy()
            gradients[layer] = th.from_numpy(flat).view(layer.out_features, layer.in_features)
        return gradients
