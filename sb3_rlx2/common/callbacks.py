"""RLx2's parts as callbacks. They work with stock Stable-Baselines3 algorithms too."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch.utils.hooks import RemovableHandle

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.clocks import UPDATES, Interval, read_clock
from sb3_rlx2.common.topology import (
    TopologySettings,
    attached_evolvers,
    detach_topology,
    evolve_topology,
    has_sparse_layers,
    network_density,
    networks,
    uncompiled_policy,
)
from sb3_rlx2.common.topology_rules import Topology, is_sparse
from sb3_rlx2.engine.networks import optimizer_of
from sb3_rlx2.sparse import Evolution, TopologyEvolver


class TopologyEvolutionCallback(BaseCallback):
    """Prune and grow the connections of a sparse policy while it learns (RLx2, algorithm 1; RigL).

    Each network evolves every ``topology_interval`` of its own gradient updates; that update's optimizer step is
    skipped. Logs density, outputs without a path from any input, connections dropped and grown, and drop fraction of
    each network under ``rlx2/``. With stock SB3 ``TD3`` or ``SAC`` use a policy of ``sb3_rlx2.td3`` or
    ``sb3_rlx2.sac``. ``RLx2TD3`` and ``RLx2SAC`` bring it along; attaching it twice changes nothing.

    :param topology: ``"rigl"`` (default), ``"set"``, ``"static"`` or a ``TopologyRule`` object; or a dict with one of
        these for each network, as in ``{"actor": "static", "critic": "rigl"}``
    :param topology_interval: ΔT, in gradient updates of each network, default 10,000; or ``(number, "timesteps")``, in
        environment steps
    :param topology_end: environment steps at which evolution has annealed to nothing, or ``(number, "updates")``; None
        (default): the end of the current ``learn``
    :param drop_fraction: ζ0, the fraction of connections that is dropped and regrown at first, default 0.5
    :param verbose: 1 prints a line per evolution, default 0
    :raises ValueError: if an argument is out of range
    """

    model: OffPolicyAlgorithm

    def __init__(
        self,
        topology: Topology = "rigl",
        topology_interval: Interval = 10_000,
        topology_end: Interval | None = None,
        drop_fraction: float = 0.5,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.settings = TopologySettings(topology, topology_interval, topology_end, drop_fraction)
        self.settings.check()
        self._counted: dict[str, tuple[int | None, float]] = {}  # of each network: its last evolution, and its density

    def _init_callback(self) -> None:
        model = checked_off_policy(self.model, self)
        if is_sparse(self.settings.topology) and not has_sparse_layers(model):
            raise ValueError(
                f"{type(self).__name__}: the policy has no sparse layer. Use a sparse policy, such as "
                "sb3_rlx2.td3.MlpPolicy, with a sparsity above 0"
            )
        own_settings: TopologySettings | None = getattr(model, "_topology_settings", None)
        if own_settings is not None and own_settings != self.settings:
            warnings.warn(
                f"{type(self).__name__}: {type(model).__name__} brings topology evolution along and goes on with its "
                f"own {own_settings}; pass topology settings to {type(model).__name__} itself",
                stacklevel=2,
            )
            self.settings = own_settings
        evolvers = evolve_topology(model, self.settings)
        self._counted = {}
        for name, evolver in evolvers.items():
            evolver.warn_of_layers_that_stay()
            then = _without_printing(evolver)  # a learn() that was interrupted may have left it
            evolver.on_evolution = _Printing(name, then) if self.verbose >= 1 else then

    def _on_step(self) -> bool:
        if any(self.locals["dones"]):  # the only time at which SB3 writes its log
            self._record()
        return True

    def _record(self) -> None:
        evolvers = attached_evolvers(self.model)
        for name, network in networks(self.model).items():
            update = _last_update(evolvers[name]) if name in evolvers else None
            if name not in self._counted or self._counted[name][0] != update:
                # Counting takes long where episodes are short or environments many
                self._counted[name] = update, network_density(network)
            self.logger.record(f"rlx2/{name}_density", self._counted[name][1])
        for name, evolver in evolvers.items():
            if evolver.chains:
                self.logger.record(f"rlx2/{name}_unreachable_outputs", evolver.unreachable_outputs)

    def _on_rollout_end(self) -> None:
        for evolver in attached_evolvers(self.model).values():
            if evolver.clock is not None:
                evolver.prepare()  # environment steps were made

    def _on_training_end(self) -> None:
        self._record()
        for evolver in attached_evolvers(self.model).values():
            evolver.on_evolution = _without_printing(evolver)
        # RLx2's own algorithms bring evolution along; with stock ones it ends with this callback's learn()
        if not hasattr(self.model, "_topology_settings"):
            detach_topology(self.model)


class _Printing:
    """Prints a line for each evolution of a network.

    :param name: of the network
    :param then: what is called then, too; None: nothing
    """

    def __init__(self, name: str, then: Callable[[Evolution], None] | None) -> None:
        self.name, self.then = name, then

    def __call__(self, evolution: Evolution) -> None:
        print(
            f"{self.name} topology, update {evolution.update}: {evolution.dropped} connections dropped, "
            f"{evolution.grown} grown (drop fraction {evolution.drop_fraction:.3f})"
        )
        if self.then is not None:
            self.then(evolution)


def _without_printing(evolver: TopologyEvolver) -> Callable[[Evolution], None] | None:
    return evolver.on_evolution.then if isinstance(evolver.on_evolution, _Printing) else evolver.on_evolution


class DynamicBufferCallback(BaseCallback):
    """Looks after a ``DynamicReplayBuffer``: noise-free actions, forgetting, cut-off episodes, n-step delay.

    Every ``buffer_check_interval`` environment steps the current policy is compared with the behaviour policy on the
    oldest transitions (``policy_distance``); if D is above the threshold, the oldest transitions are forgotten, never
    below the buffer's ``min_size`` (RLx2, section 4.3). Logs the policy distance, the buffer's size and capacity
    and the n-step in use under ``rlx2/``. ``RLx2TD3`` and ``RLx2SAC`` bring it along.

    :param buffer_check_interval: environment steps between two checks, default 10,000; or ``(number, "updates")``, in
        gradient updates
    :param buffer_distance_threshold: forget if D is above it, default 0.2 (actions are scaled to [-1, 1]), which is for
        continuous actions; None: never compare and never forget
    :param verbose: 1 prints a line when transitions are forgotten, default 0
    :raises ValueError: if an argument is out of range
    """

    model: OffPolicyAlgorithm

    N_OLDEST = 2048
    FORGET_FRACTION = 0.1

    def __init__(
        self,
        buffer_check_interval: Interval = 10_000,
        buffer_distance_threshold: float | None = 0.2,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.check_interval = read_clock(buffer_check_interval, "buffer_check_interval")
        self._updates_before = 0
        self.distance_threshold = check_threshold(buffer_distance_threshold)
        self._counting: RemovableHandle | None = None

    @property
    def buffer(self) -> DynamicReplayBuffer:
        """The model's replay buffer."""
        buffer = self.model.replay_buffer
        if not isinstance(buffer, DynamicReplayBuffer):
            raise ValueError(
                f"{type(self).__name__} needs replay_buffer_class=DynamicReplayBuffer, not {type(buffer).__name__}"
            )
        return buffer

    def _init_callback(self) -> None:
        _ = checked_off_policy(self.model, self), self.buffer  # checked before any work is done

    def _on_training_start(self) -> None:
        model = self.model
        if self.buffer.n_steps > 1 and self.buffer.gamma != model.gamma:
            raise ValueError(
                f"the replay buffer's gamma={self.buffer.gamma} differs from the algorithm's gamma={model.gamma}: "
                f"pass replay_buffer_kwargs={{'gamma': {model.gamma}}}"
            )
        self._updates_before = self.buffer.n_updates
        # Left over from another learn() or another model
        self.buffer.last_check = -1
        self.buffer.set_noise_free_action(None)
        self.buffer.state_bonus = None
        # An episode may have been cut off since the newest transition, by learn() itself, a load or set_env
        if not hasattr(model, "_topology_settings"):  # RLx2's own algorithms count by themselves
            self._stop_counting()
            name = [*networks(model)][-1]  # critics learn in every update, actors may not
            optimizer = optimizer_of(cast(Any, uncompiled_policy(model)), name)
            _remove_counting(optimizer)  # of a learn() that was interrupted, or of a second callback
            self._counting = optimizer.register_step_post_hook(self._count_update)
        last_obs = model._last_obs if model.get_vec_normalize_env() is None else model._last_original_obs
        if last_obs is not None:
            self.buffer.end_cut_episodes(cast(Any, last_obs))

    def _on_step(self) -> bool:
        model, buffer = self.model, self.buffer
        buffer.num_timesteps = self.num_timesteps  # which step it is that is stored next
        if any(self.locals["dones"]):  # the only time at which SB3 writes its log
            self._record()
        if self.distance_threshold is None:
            return True
        before = self.num_timesteps - model.n_envs
        if not (before < model.learning_starts and not (model.use_sde and model.use_sde_at_warmup)):
            # RLx2's own algorithms know it from acting
            action = getattr(model, "_noise_free_action", None)
            if action is None:
                observation, _ = model.policy.obs_to_tensor(cast(Any, model._last_obs))
                action = self._noise_free(observation).cpu().numpy()
            buffer.set_noise_free_action(action)
        if self._is_check_due(before) and buffer.size() > 0 and buffer.last_check != self.num_timesteps:
            buffer.last_check = self.num_timesteps  # a second callback of this kind finds it done
            self._check(self.distance_threshold)
        return True

    def _on_training_end(self) -> None:
        self._record()
        self._stop_counting()

    def _is_check_due(self, timesteps_before: int) -> bool:
        # Callbacks of older checkpoints hold the number alone
        interval, unit = read_clock(self.check_interval, "buffer_check_interval")
        before, now = timesteps_before, self.num_timesteps
        if unit == UPDATES:
            before, now = self._updates_before, self.buffer.n_updates
            self._updates_before = now
        return before // interval < now // interval

    def _count_update(self, *_: Any) -> None:
        self.buffer.n_updates += 1

    def _stop_counting(self) -> None:
        if self._counting is not None:
            self._counting.remove()
            self._counting = None

    def _noise_free(self, observation: Any) -> th.Tensor:
        """The current policy's deterministic action, scaled to [-1, 1] unless it is discrete."""
        with th.no_grad():
            return cast(th.Tensor, self.model.policy(observation, deterministic=True))

    def _check(self, threshold: float) -> None:
        buffer = self.buffer
        observations, actions = buffer.oldest(self.N_OLDEST, self.model.get_vec_normalize_env())
        now = th.cat([self._noise_free(chunk) for chunk in observations.split(self.N_OLDEST // 8)])
        distance = policy_distance(now, actions, is_discrete=isinstance(self.model.action_space, spaces.Discrete))
        buffer.last_distance = distance
        self.logger.record("rlx2/policy_distance", distance)
        if distance > threshold:
            forgotten = buffer.shrink(self.FORGET_FRACTION)
            if self.verbose >= 1 and forgotten:
                print(f"Policy distance {distance:.3f}: forgot the oldest {forgotten} transitions")

    def _on_rollout_end(self) -> None:
        # Loading, or sampling by others, may have left the buffer's count apart from the model's
        self.buffer.n_updates = self.model._n_updates

    def _record(self) -> None:
        buffer = self.buffer
        self.logger.record("rlx2/buffer_size", buffer.n_transitions)
        self.logger.record("rlx2/buffer_capacity", buffer.capacity)
        self.logger.record("rlx2/n_steps", buffer.n_steps_in_use)


def policy_distance(now: th.Tensor, then: th.Tensor, is_discrete: bool) -> float:
    """How far two policies are from each other on some states (RLx2, section 4.3).

    Of continuous actions ``½ mean (now - then)²`` over states and dimensions. Of discrete actions the share of states
    whose action is another one, which is ``½ mean ‖now - then‖²`` of actions as one-hot vectors.

    :param now: noise-free actions of one policy, [n, action_dim] in [-1, 1] or, discrete, [n]
    :param then: those of the other, [n, action_dim]
    :param is_discrete: whether actions are discrete
    """
    if is_discrete:
        return (now.reshape(-1) != then.reshape(-1)).double().mean().item()
    return 0.5 * (now - then).square().mean().item()


def _last_update(evolver: TopologyEvolver) -> int | None:
    return None if evolver.last_evolution is None else evolver.last_evolution.update


def check_threshold(threshold: float | None) -> float | None:
    """Return ``threshold`` if it is None or a number >= 0, else raise a ValueError that names it."""
    if threshold is not None and not (isinstance(threshold, (int, float, np.number)) and threshold >= 0):
        raise ValueError(f"buffer_distance_threshold={threshold!r} is not allowed: it must be a number >= 0")
    return None if threshold is None else float(threshold)


def checked_off_policy(model: BaseAlgorithm, callback: BaseCallback) -> OffPolicyAlgorithm:
    """Return the model of a callback if it is an off-policy algorithm, else raise a ValueError that names both."""
    if not isinstance(model, OffPolicyAlgorithm):
        raise ValueError(f"{type(callback).__name__} works with off-policy algorithms, not {type(model).__name__}")
    return model


def _remove_counting(optimizer: th.optim.Optimizer) -> None:
    """Remove hooks of ``DynamicBufferCallback`` from an optimizer, that one counts alone."""
    hooks = optimizer._optimizer_step_post_hooks
    for number in [
        n for n, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), DynamicBufferCallback)
    ]:
        del hooks[number]
