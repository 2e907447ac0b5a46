"""RLx2-CrossQ."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import CrossQPolicy
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn

from sb3_rlx2.common.clocks import Interval
from sb3_rlx2.common.entropy_algorithm import RLx2EntropyAlgorithm
from sb3_rlx2.common.topology_rules import Topology
from sb3_rlx2.crossq.policies import MlpPolicy
from sb3_rlx2.engine.crossq import crossq_description
from sb3_rlx2.engine.description import NEVER, UpdateDescription
from sb3_rlx2.engine.support import Engine
from sb3_rlx2.engine.updates import Updates


class RLx2CrossQ(RLx2EntropyAlgorithm, CrossQ):
    """CrossQ on networks that are sparse from the first step to the last (RLx2).

    CrossQ (Bhatt, Palenicek, Belousov, Argus, Amiranashvili, Brox, Peters, 2024, https://arxiv.org/abs/1902.05605) is
    SAC without target networks: batch renormalization in actor and critics, whose statistics are those of current and
    next states together. RLx2's paper has no experiments with it; sparsities, n-step targets and schedules are those of
    its SAC, and everything not listed here is as in sb3-contrib's ``CrossQ``, hyperparameters included. With
    ``topology="dense", n_steps=1, dynamic_buffer=False`` it is just that algorithm. The n-step target has an entropy
    term at each of its n states. PyTorch computes the updates; there is no compiled engine for them.

    :param policy: ``"MlpPolicy"`` or a policy class; stock classes are made sparse
    :param env: the environment (an id, a Gymnasium environment or a VecEnv; None only for loading)
    :param learning_rate: learning rate of Adam, or a schedule of the progress remaining (1 to 0), default 1e-3
    :param buffer_size: the maximum number of transitions in the replay buffer, default 1,000,000
    :param learning_starts: number of random first steps, default 100
    :param batch_size: transitions in a gradient update, at least 2, default 256
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
    :param target_entropy: target entropy where the coefficient is learned, default ``"auto"``
    :param policy_delay: actor and entropy coefficient are updated every so many critic updates, default 3
    :param use_sde: whether to use generalized state-dependent exploration (gSDE), default False
    :param sde_sample_freq: sample a new noise matrix every so many steps; -1 (default): at the beginning of a rollout
        only
    :param use_sde_at_warmup: whether to use gSDE instead of random actions in the first steps, default False
    :param stats_window_size: episodes that rollout statistics average over, default 100
    :param tensorboard_log: folder for TensorBoard; None (default): no logging
    :param policy_kwargs: arguments of the policy, sb3-contrib's (``renorm_warmup_steps`` among them) and those of
        ``SparsePolicyMixin``, default none
    :param verbose: 0 (default): nothing, 1: information, 2: debugging
    :param seed: seed of all random generators; None (default): they go on from where they are
    :param device: where the networks live: ``"auto"`` (default: a GPU if there is one), ``"cpu"`` or ``"cuda"``
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
    :param buffer_min_size: number of transitions below which nothing is forgotten, default 100,000
    :param buffer_check_interval: environment steps between two comparisons of policies, default 10,000; or
        ``(number, "updates")``, in gradient updates
    :param buffer_distance_threshold: policy distance above which the oldest 10% are forgotten, default 0.2
    :param offline_interval: environment steps between two offline phases (SPEQ, https://arxiv.org/abs/2501.08669), in
        which the critics alone learn from the replay buffer; None (default): there are none
    :param offline_updates: updates of the critics in each, default 0
    :param engine: which code computes the updates: ``"auto"`` (default) or ``"torch"``, both sb3-contrib's own
        ``train``; ``"compiled"`` is an error
    :param _init_setup_model: whether to build the networks at once, default True
    :raises ValueError: if an argument is out of range; the message names it
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}
    dense_class: ClassVar[type[OffPolicyAlgorithm]] = CrossQ
    updates_class: ClassVar[type[Updates] | None] = None
    later_arguments: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        policy: str | type[CrossQPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 3,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        policy_delay: int = 3,
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
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            policy_delay=policy_delay,
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
            offline_interval=offline_interval,
            offline_updates=offline_updates,
            engine=engine,
            _init_setup_model=_init_setup_model,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.batch_size < 2 and self.policy_kwargs.get("batch_norm", True):
            raise ValueError(
                f"batch_size={self.batch_size} is not allowed: it must be at least 2, since batch renormalization "
                "takes variances from each batch"
            )

    def _describe_update(self) -> UpdateDescription:
        return crossq_description(self.policy_delay)

    def _optimizers_of_losses(self) -> dict[str, th.optim.Optimizer]:
        optimizers = super()._optimizers_of_losses()
        return {"critic_loss": optimizers.pop("critic_loss"), **optimizers}

    def _periods_of_losses(self) -> dict[str, int]:
        return {}  # sb3-contrib's train has the delay itself

    def _normalizations(self) -> list[nn.Module]:
        networks = (self.critic, self.actor)
        return [module for network in networks for module in network.modules() if isinstance(module, BatchRenorm1d)]

    def _make_updates(self, gradient_steps: int, batch_size: int, offline: bool = False) -> None:
        policy_delay = self.policy_delay
        if offline:
            self.policy_delay = NEVER  # the actor's forward pass would change its running statistics
        try:
            super()._make_updates(gradient_steps, batch_size, offline)
        finally:
            self.policy_delay = policy_delay
            # The graph of the actor's loss: with it the model could not be copied
            self.actor.action_dist.distribution = self.actor.action_dist.gaussian_actions = None

    def _entropy_bonus(self, observations: th.Tensor) -> th.Tensor:
        self.actor.set_bn_training_mode(False)  # as for the actions of the last state
        return super()._entropy_bonus(observations)
