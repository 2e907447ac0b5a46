"""RLx2-TD3."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3.policies import TD3Policy

from sb3_rlx2.common.clocks import Interval
from sb3_rlx2.common.off_policy_algorithm import RLx2OffPolicyAlgorithm
from sb3_rlx2.common.topology_rules import Topology
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.support import Engine
from sb3_rlx2.engine.td3 import TD3Updates, td3_description
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.td3.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy


class RLx2TD3(RLx2OffPolicyAlgorithm, TD3):
    """TD3 on networks that are sparse from the first step to the last (RLx2).

    Paper: Tan, Hu, Pan, Huang, Huang, "RLx2: Training a Sparse Deep Reinforcement Learning Model from Scratch",
    ICLR 2023, https://arxiv.org/abs/2205.15043. Defaults are the paper's. Everything not listed here is as in
    Stable-Baselines3's ``TD3``; with ``topology="dense", n_steps=1, dynamic_buffer=False`` it is just that algorithm.

    :param policy: ``"MlpPolicy"``, ``"SimBaPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class; stock
        classes are made sparse, and hidden layers are 256, 256 unless ``policy_kwargs["net_arch"]`` says otherwise
    :param env: the environment (an id, a Gymnasium environment or a VecEnv; None only for loading)
    :param learning_rate: learning rate of Adam, or a schedule of the progress remaining (1 to 0), default 3e-4
    :param buffer_size: the maximum number of transitions in the replay buffer, default 1,000,000
    :param learning_starts: number of random first steps, default 25,000
    :param batch_size: transitions in a gradient update, default 256
    :param tau: Polyak coefficient of the target networks, default 0.005
    :param gamma: discount factor, default 0.99
    :param train_freq: update every so many steps, or ``(n, "step" | "episode")``, default 1
    :param gradient_steps: updates each time; -1: as many as steps were taken, default 1
    :param action_noise: exploration noise; ``"default"``: the paper's, Gaussian with σ = 0.1 on actions scaled to
        [-1, 1]; None: none
    :param replay_buffer_class: None (default): chosen automatically; with n-step targets or a dynamic buffer it must be
        a ``DynamicReplayBuffer``
    :param replay_buffer_kwargs: further arguments for the replay buffer, such as ``observation_dtype``, default none
    :param optimize_memory_usage: see SB3; only with ``n_steps=1, dynamic_buffer=False``, default False
    :param n_steps: number of rewards in the TD target once the delay is over, default 3
    :param policy_delay: the actor is updated every so many critic updates, default 2
    :param target_policy_noise: σ of the noise on target actions, default 0.2
    :param target_noise_clip: where that noise is clipped, default 0.5
    :param stats_window_size: episodes that rollout statistics average over, default 100
    :param tensorboard_log: folder for TensorBoard; None (default): no logging
    :param policy_kwargs: arguments of the policy, SB3's and those of ``SparsePolicyMixin``, default none
    :param verbose: 0 (default): nothing, 1: information, 2: debugging
    :param seed: seed of all random generators; None (default): they go on from where they are
    :param device: where the networks live: ``"auto"`` (default: the CPU if the compiled engine computes their updates
        there, or else a GPU if there is one), ``"cpu"`` or ``"cuda"``, which is obeyed
    :param actor_sparsity: fraction of the actor's weights that are missing, in [0, 1), default 0.90
    :param critic_sparsity: fraction of each critic's weights that are missing, in [0, 1), default 0.85
    :param topology: ``"rigl"`` (default), ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule`` object; or a dict
        with one of these for each network, as in ``{"actor": "static", "critic": "rigl"}``
    :param topology_interval: ΔT, in gradient updates of each network, default 10,000; or ``(number, "timesteps")``, in
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
    :param buffer_distance_threshold: policy distance above which the oldest 10% are forgotten, default 0.2
    :param offline_interval: environment steps between two offline phases (SPEQ, https://arxiv.org/abs/2501.08669), in
        which the critics alone learn from the replay buffer; None (default): there are none
    :param offline_updates: updates of the critics in each, default 0
    :param engine: which code computes the updates: ``"auto"`` (default: the compiled engine where it covers the model),
        ``"compiled"`` (an error where it does not) or ``"torch"`` (SB3's own ``train``)
    :param _init_setup_model: whether to build the networks at once, default True
    :raises ValueError: if an argument is out of range; the message names it
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "SimBaPolicy": SimBaPolicy,
    }
    dense_class: ClassVar[type[OffPolicyAlgorithm]] = TD3
    updates_class: ClassVar[type[Updates]] = TD3Updates

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 25_000,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | Literal["default"] | None = "default",
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        actor_sparsity: float = 0.90,
        critic_sparsity: float = 0.85,
        topology: Topology = "rigl",
        topology_interval: Interval = 10_000,
        topology_end: Interval | None = None,
        drop_fraction: float = 0.5,
        n_steps_delay: Interval = 300_000,
        dynamic_buffer: bool = True,
        buffer_min_size: int = 100_000,
        buffer_check_interval: Interval = 10_000,
        buffer_distance_threshold: float = 0.2,
        offline_interval: int | None = None,
        offline_updates: int = 0,
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
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_delay=policy_delay,
            target_policy_noise=target_policy_noise,
            target_noise_clip=target_noise_clip,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            actor_sparsity=actor_sparsity,
            critic_sparsity=critic_sparsity,
            topology=topology,
            topology_interval=topology_interval,
            topology_end=topology_end,
            drop_fraction=drop_fraction,
            n_steps_delay=n_steps_delay,
            dynamic_buffer=dynamic_buffer,
            buffer_min_size=buffer_min_size,
            buffer_check_interval=buffer_check_interval,
            buffer_distance_threshold=buffer_distance_threshold,
            offline_interval=offline_interval,
            offline_updates=offline_updates,
            engine=engine,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        action_noise: object = self.action_noise
        if isinstance(action_noise, str):
            if action_noise != "default":
                raise ValueError(
                    f"action_noise={action_noise!r} is unknown: allowed are 'default', None or an ActionNoise object"
                )
            shape = cast(tuple[int, ...], self.action_space.shape)
            if shape == ():
                raise ValueError(
                    "action_noise='default' is not allowed with actions of shape (), for which NormalActionNoise has "
                    "no arrays: give a noise of your own, or None, or the environment a Box of shape (1,)"
                )
            self.action_noise = NormalActionNoise(np.zeros(shape), np.full(shape, 0.1))
        super()._setup_model()

    def _describe_update(self) -> UpdateDescription:
        return td3_description(self.policy_delay)

    def _prepare_updates(self, updates: TD3Updates, samples: Samples) -> None:
        updates.prepare(samples, self.tau, self.target_policy_noise, self.target_noise_clip)
