"""RLx2-TQC."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from sb3_contrib import TQC
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_rlx2.common.clocks import Interval
from sb3_rlx2.common.entropy_algorithm import RLx2EntropyAlgorithm
from sb3_rlx2.common.topology_rules import Topology
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.support import Engine
from sb3_rlx2.engine.tqc import TQCUpdates, tqc_description
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.tqc.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimBaPolicy


class RLx2TQC(RLx2EntropyAlgorithm, TQC):
    """TQC on networks that are sparse from the first step to the last (RLx2).

    TQC (Kuznetsov, Shvechikov, Grishin, Vetrov, 2020, https://arxiv.org/abs/2005.04269) is SAC whose critics tell
    quantiles of the return, and whose TD target leaves out the highest of them. RLx2's paper has no experiments with
    it; sparsities and schedules are those of its SAC. The layers that make the quantiles are sparse too. Everything not
    listed here is as in sb3-contrib's ``TQC``; with ``topology="dense", n_steps=1, dynamic_buffer=False`` it is just
    that algorithm. The n-step target has an entropy term at each of its n states.

    :param policy: ``"MlpPolicy"``, ``"SimBaPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a policy class; stock
        classes are made sparse
    :param env: the environment (an id, a Gymnasium environment or a VecEnv; None only for loading)
    :param learning_rate: learning rate of Adam, or a schedule of the progress remaining (1 to 0), default 3e-4
    :param buffer_size: the maximum number of transitions in the replay buffer, default 3,000,000
    :param learning_starts: number of random first steps, default 25,000
    :param batch_size: transitions in a gradient update, default 256
    :param tau: Polyak coefficient of the target networks, default 0.005
    :param gamma: discount factor, default 0.99
    :param train_freq: update every so many steps, or ``(n, "step" | "episode")``, default 1
    :param gradient_steps: updates each time; -1: as many as steps were taken, default 1
    :param action_noise: exploration noise on top of the stochastic policy, default none
    :param replay_buffer_class: None (default): chosen automatically; with n-step targets or a dynamic buffer it must be
        a ``DynamicReplayBuffer``
    :param replay_buffer_kwargs: further arguments for the replay buffer, such as ``observation_dtype``, default none
    :param optimize_memory_usage: see SB3; only with ``n_steps=1, dynamic_buffer=False``, default False
    :param n_steps: number of rewards in the TD target once the delay is over, default 3
    :param ent_coef: entropy coefficient, or ``"auto"`` (default) to learn it, or ``"auto_0.1"`` to start from 0.1
    :param target_update_interval: target networks are updated every so many gradient steps, default 1
    :param target_entropy: target entropy where the coefficient is learned, default ``"auto"``
    :param top_quantiles_to_drop_per_net: how many of the highest quantiles of the TD target are left out, for
        each critic, default 2
    :param use_sde: whether to use generalized state-dependent exploration (gSDE), default False
    :param sde_sample_freq: sample a new noise matrix every so many steps; -1 (default): at the beginning of a rollout
        only
    :param use_sde_at_warmup: whether to use gSDE instead of random actions in the first steps, default False
    :param stats_window_size: episodes that rollout statistics average over, default 100
    :param tensorboard_log: folder for TensorBoard; None (default): no logging
    :param policy_kwargs: arguments of the policy, SB3's and those of ``SparsePolicyMixin``, default none
    :param verbose: 0 (default): nothing, 1: information, 2: debugging
    :param seed: seed of all random generators; None (default): they go on from where they are
    :param device: where the networks live: ``"auto"`` (default: the CPU if the compiled engine computes their updates
        there, or else a GPU if there is one), ``"cpu"`` or ``"cuda"``, which is obeyed
    :param actor_sparsity: fraction of the actor's weights that are missing, in [0, 1), default 0.90
    :param critic_sparsity: fraction of each critic's weights that are missing, in [0, 1), default 0.80
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
    :param buffer_min_size: number of transitions below which nothing is forgotten, default 200,000
    :param buffer_check_interval: environment steps between two comparisons of policies, default 10,000; or
        ``(number, "updates")``, in gradient updates
    :param buffer_distance_threshold: policy distance above which the oldest 10% are forgotten, default 0.2
    :param policy_delay: actor and entropy coefficient are updated every so many critic updates, default 1
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
    dense_class: ClassVar[type[OffPolicyAlgorithm]] = TQC
    updates_class: ClassVar[type[Updates]] = TQCUpdates

    def __init__(
        self,
        policy: str | type[TQCPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 3_000_000,
        learning_starts: int = 25_000,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        ent_coef: str | float = "auto",
        target_update_interval: int = 1,
        target_entropy: str | float = "auto",
        top_quantiles_to_drop_per_net: int = 2,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        use_sde_at_warmup: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        actor_sparsity: float = 0.90,
        critic_sparsity: float = 0.80,
        topology: Topology = "rigl",
        topology_interval: Interval = 10_000,
        topology_end: Interval | None = None,
        drop_fraction: float = 0.5,
        n_steps_delay: Interval = 300_000,
        dynamic_buffer: bool = True,
        buffer_min_size: int = 200_000,
        buffer_check_interval: Interval = 10_000,
        buffer_distance_threshold: float = 0.2,
        policy_delay: int = 1,
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
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            target_entropy=target_entropy,
            top_quantiles_to_drop_per_net=top_quantiles_to_drop_per_net,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            use_sde_at_warmup=use_sde_at_warmup,
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
            policy_delay=policy_delay,
            offline_interval=offline_interval,
            offline_updates=offline_updates,
            engine=engine,
            _init_setup_model=_init_setup_model,
        )

    def _build(self) -> None:
        super()._build()
        quantiles, dropped = self.critic.n_quantiles, self.top_quantiles_to_drop_per_net
        if dropped >= quantiles:
            raise ValueError(
                f"top_quantiles_to_drop_per_net={dropped} is not allowed: it must be less than n_quantiles={quantiles}"
            )

    def _describe_update(self) -> UpdateDescription:
        return tqc_description(self.target_update_interval, self._learns_ent_coef, self.policy_delay)

    def _prepare_updates(self, updates: TQCUpdates, samples: Samples) -> None:
        dropped = self.top_quantiles_to_drop_per_net
        updates.prepare_quantiles(samples, self.tau, *self._entropy_settings, dropped=dropped)
