"""RLx2-DQN."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_rlx2.common.clocks import Interval
from sb3_rlx2.common.topology_rules import Topology
from sb3_rlx2.common.value_algorithm import RLx2ValueAlgorithm
from sb3_rlx2.dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.dqn import dqn_description
from sb3_rlx2.engine.support import Engine
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.engine.values import ValueUpdates


class RLx2DQN(RLx2ValueAlgorithm, DQN):
    """DQN on a network that is sparse from the first step to the last (RLx2).

    DQN (Mnih et al., 2015, https://doi.org/10.1038/nature14236) learns the value of each discrete action.
    RLx2's paper has no experiments with it; sparsity, n-step targets, buffer and schedules are those of its TD3, and
    everything not listed here is as in Stable-Baselines3's ``DQN``, hyperparameters included. With ``topology="dense",
    n_steps=1, dynamic_buffer=False`` and a ``net_arch`` it is just that algorithm.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class; stock classes are made
        sparse
    :param env: the environment, with ``Discrete`` actions (an id, a Gymnasium environment or a VecEnv; None only for
        loading)
    :param learning_rate: learning rate of Adam, or a schedule of the progress remaining (1 to 0), default 1e-4
    :param buffer_size: the maximum number of transitions in the replay buffer, default 1,000,000
    :param learning_starts: number of random first steps, default 100
    :param batch_size: transitions in a gradient update, default 32
    :param tau: Polyak coefficient of the target network, default 1
    :param gamma: discount factor, default 0.99
    :param train_freq: update every so many steps, or ``(n, "step" | "episode")``, default 4
    :param gradient_steps: updates each time; -1: as many as steps were taken, default 1
    :param replay_buffer_class: None (default): chosen automatically; with n-step targets or a dynamic buffer it must be
        a ``DynamicReplayBuffer``
    :param replay_buffer_kwargs: further arguments for the replay buffer, such as ``observation_dtype``, default none
    :param optimize_memory_usage: see SB3; only with ``n_steps=1, dynamic_buffer=False``, default False
    :param n_steps: number of rewards in the TD target once the delay is over, default 3
    :param target_update_interval: the target network is updated every so many environment steps, default 10,000
    :param exploration_fraction: fraction of training over which exploration falls, in [0, 1], default 0.1
    :param exploration_initial_eps: probability of a random action at first, default 1
    :param exploration_final_eps: probability of a random action from then on, default 0.05
    :param max_grad_norm: gradients of a larger norm are scaled down to it, default 10
    :param stats_window_size: episodes that rollout statistics average over, default 100
    :param tensorboard_log: folder for TensorBoard; None (default): no logging
    :param policy_kwargs: arguments of the policy, SB3's and those of ``SparseValuePolicyMixin``, default none
    :param verbose: 0 (default): nothing, 1: information, 2: debugging
    :param seed: seed of all random generators; None (default): they go on from where they are
    :param device: where the networks live: ``"auto"`` (default: the CPU if the compiled engine computes their updates
        there, or else a GPU if there is one), ``"cpu"`` or ``"cuda"``, which is obeyed
    :param sparsity: fraction of the network's weights that are missing, in [0, 1), default 0.90
    :param topology: ``"rigl"`` (default), ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule`` object
    :param topology_interval: ΔT, in gradient updates, default 10,000; or ``(number, "timesteps")``, in
        environment steps
    :param topology_end: environment steps at which evolution has annealed to nothing, or ``(number, "updates")``; None
        (default): the end of the current ``learn``
    :param drop_fraction: ζ0, the fraction of connections that is dropped and regrown at first, default 0.5
    :param n_steps_delay: number of gradient updates for which targets are 1-step, default 300,000; or
        ``(number, "timesteps")``, in environment steps
    :param dynamic_buffer: whether the replay buffer forgets what the policy has left behind, default True
    :param buffer_min_size: number of transitions below which nothing is forgotten, default 100,000
    :param buffer_check_interval: environment steps between two comparisons of policies, default 10,000; or
        ``(number, "updates")``, in gradient updates
    :param buffer_distance_threshold: share of the oldest states whose greedy action has changed above which the oldest
        10% are forgotten, default 0.4
    :param engine: which code computes the updates: ``"auto"`` (default: the compiled engine where it covers the model),
        ``"compiled"`` (an error where it does not) or ``"torch"`` (Stable-Baselines3's own ``train``)
    :param _init_setup_model: whether to build the networks at once, default True
    :raises ValueError: if an argument is out of range; the message names it
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    dense_class: ClassVar[type[OffPolicyAlgorithm]] = DQN
    updates_class: ClassVar[type[Updates]] = ValueUpdates

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        target_update_interval: int = 10_000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        sparsity: float = 0.90,
        topology: Topology = "rigl",
        topology_interval: Interval = 10_000,
        topology_end: Interval | None = None,
        drop_fraction: float = 0.5,
        n_steps_delay: Interval = 300_000,
        dynamic_buffer: bool = True,
        buffer_min_size: int = 100_000,
        buffer_check_interval: Interval = 10_000,
        buffer_distance_threshold: float = 0.4,
        engine: Engine = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_initial_eps=exploration_initial_eps,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            sparsity=sparsity,
            topology=topology,
            topology_interval=topology_interval,
            topology_end=topology_end,
            drop_fraction=drop_fraction,
            n_steps_delay=n_steps_delay,
            dynamic_buffer=dynamic_buffer,
            buffer_min_size=buffer_min_size,
            buffer_check_interval=buffer_check_interval,
            buffer_distance_threshold=buffer_distance_threshold,
            engine=engine,
            _init_setup_model=_init_setup_model,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.max_grad_norm is None:  # as in QR-DQN; SB3's DQN does not take it
            raise ValueError(
                "max_grad_norm=None is not allowed: it must be a number >= 0; math.inf where gradients are not to be "
                "scaled down"
            )

    def _describe_update(self) -> UpdateDescription:
        return dqn_description()
