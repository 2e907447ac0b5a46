"""What RLx2's algorithms add to those of Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import sb3_rlx2.common.known_objects  # noqa: F401  what files may name
from sb3_rlx2.common.argument_ranges import (
    check_action_space,
    check_learning_arguments,
    check_topology_counters,
    check_type,
)
from sb3_rlx2.common.arguments import check_device, check_device_name
from sb3_rlx2.common.buffers import Array, DynamicReplayBuffer
from sb3_rlx2.common.callbacks import DynamicBufferCallback, TopologyEvolutionCallback, check_threshold
from sb3_rlx2.common.clocks import Interval
from sb3_rlx2.common.collecting import CheckedCollecting
from sb3_rlx2.common.compiled_training import train_compiled
from sb3_rlx2.common.dense_models import DenseModels
from sb3_rlx2.common.finite import RunningStatistics
from sb3_rlx2.common.planned_steps import PlannedSteps
from sb3_rlx2.common.policies import sparse_policy_class
from sb3_rlx2.common.saving.algorithm import SavedAlgorithm
from sb3_rlx2.common.saving.algorithm_names import PACKAGE, algorithm_name
from sb3_rlx2.common.saving.buffer_checks import counter_problem, layout_problem
from sb3_rlx2.common.saving.model_files import CHECKPOINT_FORMAT
from sb3_rlx2.common.saving.parameters import CheckedParameters
from sb3_rlx2.common.simba import SimBaMixin
from sb3_rlx2.common.topology import (
    TopologySettings,
    detach_topology,
    evolve_topology,
    follow_budgets,
    has_sparse_layers,
    watch_evolution,
)
from sb3_rlx2.common.topology_rules import Topology, is_sparse, resolve_rules
from sb3_rlx2.common.torch_training import WholeUpdates
from sb3_rlx2.common.update_state import UpdateState
from sb3_rlx2.engine.description import NEVER
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.support import ENGINES, Engine, EngineChoice
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.errors import CheckpointMismatchError
from sb3_rlx2.files import register
from sb3_rlx2.sparse import EvolutionCounters
from sb3_rlx2.sparse.checks import check_count, check_number, check_sparsity
from sb3_rlx2.sparse.schedules import budget_moves

if TYPE_CHECKING:
    from sb3_rlx2.analysis.model_report import ModelReport
    from sb3_rlx2.export.export import ExportReport, Precision, Target

OF_THIS_OBJECT = ("_engine_choice", "_noise_free_action", "_statistics_before", "_update_state")
"""Attributes that a copy makes anew."""
COMPILED_BUFFERS = (ReplayBuffer, DynamicReplayBuffer)
"""Replay buffers that the compiled engine reads: these very classes."""


SelfOffPolicyAlgorithm = TypeVar("SelfOffPolicyAlgorithm", bound="RLx2OffPolicyAlgorithm")


class RLx2OffPolicyAlgorithm(
    SavedAlgorithm, CheckedParameters, CheckedCollecting, DenseModels, PlannedSteps, OffPolicyAlgorithm
):
    """Sparse training (RLx2) on top of an off-policy algorithm of Stable-Baselines3.

    A subclass names that algorithm as its second base class: ``class RLx2TD3(RLx2OffPolicyAlgorithm, TD3)``. Updates
    are made by that algorithm's own ``train``.

    :param args: as for the algorithm
    :param topology: ``"rigl"``, ``"set"``, ``"static"``, ``"dense"`` or a ``TopologyRule``; or a dict with one of these
        for each network
    :param topology_interval: ΔT, in gradient updates of each network, or ``(number, "timesteps")``
    :param topology_end: environment steps at which evolution has annealed to nothing, or ``(number, "updates")``; None:
        the end of ``learn``
    :param drop_fraction: ζ0
    :param n_steps: number of rewards in the TD target
    :param n_steps_delay: number of gradient updates for which targets are 1-step, or ``(number, "timesteps")``
    :param dynamic_buffer: whether the replay buffer forgets what the policy has left behind
    :param buffer_min_size: number of transitions below which nothing is forgotten
    :param buffer_check_interval: environment steps between two comparisons of policies, or ``(number, "updates")``
    :param buffer_distance_threshold: policy distance above which the oldest transitions are forgotten
    :param engine: which code computes the updates
    :param offline_interval: environment steps between two offline phases; None (default): there are none
    :param offline_updates: updates of the critics in each, default 0
    :param device: where the networks live; ``"auto"``: on the CPU if the compiled engine computes their updates there,
        or else as in SB3
    :param kwargs: as for the algorithm, and the sparsity of each network (``network_sparsities``)
    """

    network_sparsities: ClassVar[Mapping[str, str]] = {"actor": "actor_sparsity", "critic": "critic_sparsity"}
    """The networks that learn, each with the argument that is its sparsity."""
    fixed_arguments: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the base class that have one value here, and what it is."""
    updates_class: ClassVar[type[Updates] | None]
    """Its compiled updates; None: there are none."""

    def __init__(
        self,
        *args: Any,
        topology: Topology,
        topology_interval: Interval,
        topology_end: Interval | None,
        drop_fraction: float,
        n_steps: int,
        n_steps_delay: Interval,
        dynamic_buffer: bool,
        buffer_min_size: int,
        buffer_check_interval: Interval,
        buffer_distance_threshold: float,
        engine: Engine,
        offline_interval: int | None = None,
        offline_updates: int = 0,
        device: th.device | str,
        _init_setup_model: bool,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("policy_kwargs") is not None:
            check_type(kwargs["policy_kwargs"], "policy_kwargs")
        check_device_name(device)
        # Which device "auto" stands for is known when the networks are there
        self._device_is_auto = isinstance(device, str) and device == "auto"
        sparsities = {name: kwargs.pop(name) for name in self.network_sparsities.values()}
        given = {**kwargs, "n_steps": n_steps, "device": "cpu" if self._device_is_auto else device}
        super().__init__(*args, _init_setup_model=False, **given)  # type: ignore[call-arg]
        self.checkpoint_format = CHECKPOINT_FORMAT
        self.algorithm_name = algorithm_name(type(self))
        self.observations_were_normalized = False
        self.topology_counters: dict[str, EvolutionCounters] = {}
        for name, sparsity in sparsities.items():
            setattr(self, name, sparsity)
        self.topology = topology
        self.topology_interval = topology_interval
        self.topology_end = topology_end
        self.drop_fraction = drop_fraction
        self.n_steps_delay = n_steps_delay
        self.dynamic_buffer = dynamic_buffer
        self.buffer_min_size = buffer_min_size
        self.buffer_check_interval = buffer_check_interval
        self.buffer_distance_threshold = buffer_distance_threshold
        self.engine = engine
        self.offline_interval = offline_interval
        self.offline_updates = offline_updates
        self._last_trained: int | None = None  # environment step, for the next offline phase
        if _init_setup_model:
            self._setup_model()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for policy in cls.policy_aliases.values():
            if policy.__module__.startswith(f"{PACKAGE}."):
                register(policy, objects=False)

    # --- setting up ---

    @property
    def _topology_settings(self) -> TopologySettings:
        # Of its own, so that a change of a dict is noticed
        topology = dict(self.topology) if isinstance(self.topology, dict) else self.topology
        return TopologySettings(topology, self.topology_interval, self.topology_end, self.drop_fraction)

    @property
    def _needs_dynamic_buffer_class(self) -> bool:
        return self.n_steps > 1 or self.dynamic_buffer

    def _check_arguments(self) -> None:
        check_device(self.device)
        if not (self.action_noise is None or isinstance(self.action_noise, ActionNoise)):
            raise ValueError(
                f"action_noise={self.action_noise!r} is not allowed: it must be an ActionNoise object, such as "
                "NormalActionNoise(mean, sigma), or None"
            )
        check_learning_arguments(vars(self))
        self._check_action_space()
        for name in self.network_sparsities.values():
            check_sparsity(getattr(self, name), name)
        for name in ("offline_interval", "_last_trained"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, int(name == "offline_interval"))
        if (self.offline_interval is None) != (self.offline_updates == 0):
            raise ValueError(
                f"offline_interval={self.offline_interval} is not allowed with offline_updates={self.offline_updates}: "
                "both must be given, or neither"
            )
        self._topology_settings.check()
        resolve_rules(self.topology, self.network_sparsities)
        networks = tuple(self.network_sparsities)
        check_topology_counters(self.topology_counters, networks, self._n_updates if is_sparse(self.topology) else 0)
        check_threshold(self.buffer_distance_threshold)
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is not available: allowed are {list(ENGINES)}")
        for name in self.network_sparsities.values():
            if name in self.policy_kwargs:
                raise ValueError(f"policy_kwargs[{name!r}]: pass {name} to {type(self).__name__} itself")
        if self._needs_dynamic_buffer_class:
            self._check_replay_buffer_class()
        given = self.replay_buffer_class or ReplayBuffer
        if self._needs_dynamic_buffer_class or issubclass(given, DynamicReplayBuffer):
            for name in self._buffer_settings():
                if name in self.replay_buffer_kwargs:
                    argument = "buffer_min_size" if name == "min_size" else name
                    raise ValueError(f"replay_buffer_kwargs[{name!r}]: pass {argument} to {type(self).__name__} itself")

    def _check_action_space(self) -> None:
        check_action_space(self.action_space)

    def _check_replay_buffer_class(self) -> None:
        problem = None
        if isinstance(self.observation_space, spaces.Dict):
            problem = "Dict observation spaces"
        elif self.optimize_memory_usage:
            problem = "optimize_memory_usage=True"
        elif self.replay_buffer_class is not None and not issubclass(self.replay_buffer_class, DynamicReplayBuffer):
            problem = f"replay_buffer_class={self.replay_buffer_class.__name__}"
        if problem is not None:
            raise ValueError(
                f"{problem}: not possible with n-step targets or a dynamic buffer "
                f"(n_steps={self.n_steps}, dynamic_buffer={self.dynamic_buffer}), for which DynamicReplayBuffer keeps "
                "returns over several steps and actions without noise, of plain observations. "
                "Pass n_steps=1, dynamic_buffer=False"
            )

    def _setup_model(self) -> None:
        self._check_checkpoint_format()
        self._check_arguments()
        random_state, replay_buffer = th.get_rng_state(), self.replay_buffer
        self._build()
        if self._device_is_auto and (chosen := self._automatic_device()).type != "cpu":
            # Once more, with the same random numbers, where SB3 would have put the networks
            th.set_rng_state(random_state)
            self.device, self.replay_buffer = chosen, replay_buffer
            if self.verbose >= 1:
                print(f"Using {self.device} device")
            self._build()

    def _build(self) -> None:
        """Make replay buffer, networks and optimizers, and choose the engine."""
        with self._as_the_base_algorithm_sees_it():
            super()._setup_model()
        self._choose_engine()

    def _automatic_device(self) -> th.device:
        """The CPU if the compiled engine makes the updates, or else the one that SB3 takes."""
        return th.device("cpu") if self._choose_engine().reason is None else get_device("auto")

    @contextmanager
    def _as_the_base_algorithm_sees_it(self) -> Iterator[None]:
        """Show SB3's set-up a sparse policy and our buffer, while the attributes keep what the user gave."""
        rules = resolve_rules(self.topology, self.network_sparsities)
        given = self.__dict__.copy()
        known = cast(list[type[BasePolicy]], list(self.policy_aliases.values()))
        self.policy_class = sparse_policy_class(self.policy_class, known)
        self.policy_kwargs = {
            **self.policy_kwargs,
            **{
                argument: getattr(self, argument) if rules[name].sparse else 0.0
                for name, argument in self.network_sparsities.items()
            },
        }
        if self._needs_dynamic_buffer_class:
            self.replay_buffer_class = self.replay_buffer_class or DynamicReplayBuffer
            self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, **self._buffer_settings()}
        self.n_steps = 1  # SB3 would warn that it leaves n-step targets to the buffer
        try:
            yield
        finally:
            for name in ("policy_class", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "n_steps"):
                setattr(self, name, given[name])

    def _buffer_settings(self) -> dict[str, Any]:
        return {
            "n_steps": self.n_steps,
            "gamma": self.gamma,
            "n_steps_delay": self.n_steps_delay,
            "min_size": self.buffer_min_size,
        }

    # --- learning ---

    def learn(
        self: SelfOffPolicyAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffPolicyAlgorithm:
        """Train, as in the dense algorithm.

        :param total_timesteps: number of environment steps
        :param callback: called at every step, default none
        :param log_interval: episodes between two logs, default 4
        :param tb_log_name: name of the run in TensorBoard; None (default): the algorithm's, such as ``"RLx2TD3"``
        :param reset_num_timesteps: whether to count steps from zero, default True
        :param progress_bar: whether to show one, default False
        :raises ValueError: if the number of steps is negative or no number
        """
        total_timesteps = math.ceil(check_number(total_timesteps, "total_timesteps", 0.0))  # 1e6 is a float
        if tb_log_name is None:
            tb_log_name = algorithm_name(type(self))
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self._prepare_replay_buffer()
        noise = self.action_noise
        if isinstance(noise, VectorizedActionNoise) and noise.n_envs != self.n_envs:
            self.action_noise = noise.base_noise  # the model was saved with another number of environments
        normalize = self.get_vec_normalize_env()
        self.observations_were_normalized = normalize is not None and normalize.norm_obs
        self._statistics_before = RunningStatistics(normalize)
        planned_before = 0 if reset_num_timesteps else self._total_timesteps
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._check_reset()
        choice = self._choose_engine()
        self._warn_of_what_will_not_happen(planned_before)
        if self.verbose >= 1:
            print(choice)
        return result

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        own: list[BaseCallback] = []
        if is_sparse(self.topology) and has_sparse_layers(self):
            own.append(TopologyEvolutionCallback(*self._topology_settings, verbose=self.verbose))
        if self._needs_dynamic_buffer_class:
            threshold = self.buffer_distance_threshold if self.dynamic_buffer else None
            own.append(DynamicBufferCallback(self.buffer_check_interval, threshold, verbose=self.verbose))
        if own:
            if isinstance(callback, list):
                callback = CallbackList(callback)
            elif not isinstance(callback, BaseCallback):
                callback = ConvertCallback(callback)
            callback = CallbackList([*own, callback])
        return super()._init_callback(callback, progress_bar)

    def _optimizers_of_losses(self) -> dict[str, th.optim.Optimizer]:
        """The optimizers in the order in which an update of ``train`` steps them, by its variable that is the loss."""
        known: Any = self
        return {"critic_loss": known.critic.optimizer, "actor_loss": known.actor.optimizer}

    def _periods_of_losses(self) -> dict[str, int]:
        """Every how many updates an optimizer is stepped that the base algorithm's ``train`` steps in each of them."""
        return {}

    def _normalizations(self) -> list[nn.Module]:
        """Modules whose running statistics an update changes, that first whose forward pass in training mode is the
        first thing that an update changes; none: the first step of an optimizer is.
        """
        return []

    def _prepare_updates(self, updates: Any, samples: Samples) -> None:
        """Bind what the next compiled updates learn from, and draw their noise as SB3's ``train`` would."""
        raise NotImplementedError

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Make gradient updates, as the base algorithm does, after those of the offline phases that are due.

        :param gradient_steps: number of updates
        :param batch_size: number of transitions in each, default 256
        :raises DivergenceError: if a loss is NaN or infinite, or what follows from it is; all is as before that update
            then
        """
        if phases := self._offline_phases_due():
            self._make_updates(phases * self.offline_updates, batch_size, offline=True)
        self._make_updates(gradient_steps, batch_size)

    def _offline_phases_due(self) -> int:
        """How many multiples of ``offline_interval`` the environment steps since the last call have passed."""
        last, self._last_trained = self._last_trained, self.num_timesteps
        interval = self.offline_interval
        if interval is None or last is None or last > self.num_timesteps:  # the first updates, or a new start
            return 0
        return self.num_timesteps // interval - last // interval

    def _make_updates(self, gradient_steps: int, batch_size: int, offline: bool = False) -> None:
        self._prepare_replay_buffer()
        if isinstance(self.policy, SimBaMixin):
            self.policy.keep_unit_norm()
        before, choice = self.__dict__.get("_engine_choice"), self._choose_engine()
        if self.verbose >= 1 and before is not None and before.reason != choice.reason:
            print(choice)
        if choice.reason is not None or gradient_steps < 1:
            self._evolve_topology()
            state = self.__dict__.setdefault("_update_state", UpdateState())
            periods = dict.fromkeys(("actor_loss", "ent_coef_loss"), NEVER) if offline else self._periods_of_losses()
            logged = dict(self.logger.name_to_value) if periods else {}
            optimizers, code = self._optimizers_of_losses(), self.dense_class.train.__code__
            with WholeUpdates(self, optimizers, state, code, periods, self._normalizations()) as whole:
                super().train(gradient_steps, batch_size)
            whole.log_losses(self.logger, logged)
            return
        updates = choice.updates
        description = self._describe_update()
        updates.description = description.without("actor") if offline else description
        self._update_learning_rate(list(updates.optimizers.values()))
        results = train_compiled(self, updates, gradient_steps, batch_size)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        rows = results.tolist()
        for name, column in updates.columns.items():
            values = [row[column] for row in rows if not math.isnan(row[column])]
            if values:
                self.logger.record(f"train/{name}", sum(values) / len(values))

    def __getstate__(self) -> dict[str, Any]:
        # What holds addresses belongs to this very object: a copy makes its own
        return {name: value for name, value in self.__dict__.items() if name not in OF_THIS_OBJECT}

    def _choose_engine(self) -> EngineChoice:
        """The engine for the next updates, and evolution by the current settings.

        Both are decided anew when anything that they rest on has changed.
        """
        choice: EngineChoice | None = self.__dict__.get("_engine_choice")
        if choice is None or not choice.holds:
            self._evolve_topology()
            trains = (RLx2OffPolicyAlgorithm, self.dense_class)
            self._engine_choice = choice = EngineChoice(self, trains, COMPILED_BUFFERS, layout_problem)
            watch_evolution(choice.watch, self)
        return choice

    def _prepare_replay_buffer(self) -> None:
        """The model's settings and count of updates hold, wherever the buffer comes from (a load, the user)."""
        buffer = self.replay_buffer
        if buffer is not None and (problem := counter_problem(buffer)) is not None:
            raise ValueError(f"the replay buffer {problem}")
        if isinstance(buffer, DynamicReplayBuffer):
            for name, value in self._buffer_settings().items():
                setattr(buffer, name, value)
            buffer.n_updates, buffer.num_timesteps = self._n_updates, self.num_timesteps
            buffer.state_bonus = self._state_bonus()
        elif self._needs_dynamic_buffer_class:
            raise ValueError(
                f"the replay buffer is a {type(buffer).__name__}: n-step targets and the dynamic buffer need a "
                "DynamicReplayBuffer. Pass n_steps=1, dynamic_buffer=False to use it"
            )

    def _state_bonus(self) -> Callable[[th.Tensor], th.Tensor] | None:
        """What n-step returns add at each state between the first and the last."""
        return None

    @classmethod
    def _read(cls: type[SelfOffPolicyAlgorithm], file: Any, *args: Any, **kwargs: Any) -> SelfOffPolicyAlgorithm:
        try:
            return super()._read(file, *args, **kwargs)
        except CheckpointMismatchError:
            # A rule whose budget moves may have left other numbers of connections than the new one would have made
            topology = kwargs.pop("topology", None)
            if topology is None:
                raise
            file.seek(0)
            model = super()._read(file, *args, **kwargs)
            names = tuple(cls.network_sparsities)
            rules, own = (resolve_rules(each, names) for each in (topology, model.topology))
            if [rule.sparse for rule in rules.values()] != [rule.sparse for rule in own.values()]:
                raise
            model.topology = topology
            return model

    def _budgets_move(self) -> bool:
        return any(budget_moves(rule.budget) for rule in resolve_rules(self.topology, self.network_sparsities).values())

    def _follow_budgets(self, params: dict[str, Any]) -> None:
        follow_budgets(self, self.topology, params.get("policy", {}))

    def _evolve_topology(self) -> None:
        if is_sparse(self.topology):
            evolve_topology(self, self._topology_settings)
        else:
            detach_topology(self)

    # --- looking at it, and leaving it ---

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_warnings_given", "_device_is_auto", *OF_THIS_OBJECT]

    def report(self, *, dormant_threshold: float = 0.025, n_samples: int = 1024, seed: int = 0) -> ModelReport:
        """What the model is made of: connections, bytes, FLOPs, dead and dormant units, inputs by connections.

        ``print(model.report())`` shows tables. Neither the model nor any random generator is changed.

        :param dormant_threshold: τ: units are dormant whose mean activity is at most this fraction of their layer's
            average (Sokar et al., 2023), default 0.025
        :param n_samples: how many transitions to draw from the replay buffer to find them, default 1024
        :param seed: of that draw, default 0
        :raises ValueError: if an argument is out of range
        """
        from sb3_rlx2.analysis.report import report

        return report(self, dormant_threshold=dormant_threshold, n_samples=n_samples, seed=seed)

    def export(
        self,
        path: str | Path,
        to: Target = "c",
        *,
        name: str = "policy",
        precision: Precision = "float32",
        sparse: bool = False,
        with_main: bool = False,
        vec_normalize: VecNormalize | None = None,
        observations: Array | None = None,
        seed: int = 0,
    ) -> ExportReport:
        """Write the policy as code or data that needs neither PyTorch nor this package, checked against ``predict``.

        It acts without noise, from raw observations to the environment's actions.

        :param path: folder for the files; made if it is not there. Files of the same names are replaced
        :param to: ``"c"`` (default), ``"onnx"``, ``"safetensors"`` (with JSON) or ``"numpy"`` (``.npz``)
        :param name: what names of files, and in C of functions, begin with, default ``"policy"``
        :param precision: ``"float32"`` (default), or of C's tables ``"int8"`` or ``"int16"``
        :param sparse: whether ONNX has sparse initializers, default False: dense ones, which every runtime reads
        :param with_main: whether C has a program too that tests the policy, default False
        :param vec_normalize: whose statistics normalize observations; None (default): the model's own, if it has one
        :param observations: raw observations [n, ...] for the check and for the calibration of integers; None
            (default): drawn from the replay buffer, or else at random
        :param seed: of these draws, default 0
        :return: what was written
        :raises ValueError: if the policy cannot be exported, an argument is not allowed, the folder cannot be written,
            or actions differ from those of ``predict``; nothing is written then
        """
        from sb3_rlx2.export.export import export

        return export(
            self,
            path,
            to,
            name=name,
            precision=precision,
            sparse=sparse,
            with_main=with_main,
            vec_normalize=vec_normalize,
            observations=observations,
            seed=seed,
        )
