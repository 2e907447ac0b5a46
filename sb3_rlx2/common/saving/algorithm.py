"""Saving and loading of an off-policy algorithm."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast

import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device

from sb3_rlx2.common.argument_ranges import COUNTS, NUMBERS, SWITCHES
from sb3_rlx2.common.arguments import check_attributes, check_device
from sb3_rlx2.common.clocks import UNITS
from sb3_rlx2.common.saving.algorithm_names import algorithm_name
from sb3_rlx2.common.saving.buffer_checks import content_problem, counter_problem, layout_problem
from sb3_rlx2.common.saving.model_files import (
    CHECKPOINT_FORMAT,
    SUFFIX,
    SavedNames,
    format_problem,
    model_state,
    naming_model,
    opened_as_zip,
    read_saved_names,
)
from sb3_rlx2.common.saving.opening import (
    WITHOUT_PICKLE,
    File,
    is_without_pickle,
    name_of,
    naming,
    opened,
    path_to_write,
)
from sb3_rlx2.common.saving.replay_buffers import SUFFIX as BUFFER_SUFFIX
from sb3_rlx2.common.saving.replay_buffers import buffer_of_state, buffer_state, write_pickle
from sb3_rlx2.common.saving.state_checks import tensor_problem
from sb3_rlx2.common.saving.trust import check_trusted
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.files import read_state, replacing, write_state

REQUIRED = (
    "checkpoint_format",
    *(name for name in (*COUNTS, *NUMBERS, *SWITCHES) if name not in ("verbose", "stats_window_size", "start_time")),
    "learning_rate",
    "seed",
    "train_freq",
    "action_noise",
    "target_noise_clip",
    "ent_coef",
    "target_entropy",
    "policy_kwargs",
    "replay_buffer_class",
    "replay_buffer_kwargs",
    "actor_sparsity",
    "critic_sparsity",
    "sparsity",
    "max_grad_norm",
    "topology",
    *UNITS,
    "offline_interval",
    "topology_counters",
    "drop_fraction",
    "buffer_distance_threshold",
)
"""Attributes that decide how a model learns: those of them that an algorithm has must be in its file."""

NEVER_SAVED = ("_logger", "_custom_logger", "_vec_normalize_env")

SelfSavedAlgorithm = TypeVar("SelfSavedAlgorithm", bound="SavedAlgorithm")


class SavedAlgorithm(OffPolicyAlgorithm):
    """Makes an algorithm save wholly or not at all, load with checks, and do both without pickle on request.

    Put it before the algorithm's class.
    """

    checkpoint_format: int
    later_arguments: ClassVar[frozenset[str]] = frozenset({"offline_interval", "offline_updates"})
    """Arguments that the first files of this algorithm lack; their defaults change nothing."""
    variable_shapes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Shapes of the tensors that are saved beside networks and optimizers."""

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Save the model, as in Stable-Baselines3; the file is written wholly, or is left as it was.

        A name that ends in ``.safetensors`` is that of a file without pickle, which runs no code when it is loaded.
        Policies, schedules and the like are in it by name: those of Stable-Baselines3, PyTorch and this package are
        known, others are made known by ``sb3_rlx2.files.register``.

        :param path: path of the file (``.zip`` is added to a name without suffix), or a file that is open for writing
        :param exclude: names of further attributes to leave out, default none
        :param include: names of attributes that are not to be left out, default none
        :raises ValueError: if a file without pickle cannot hold an attribute; it is named, and nothing is written
        :raises OSError: if the file cannot be written; it is as it was
        """
        if not isinstance(path, (str, os.PathLike)):
            super().save(path, exclude, include)
            return
        target = path_to_write(path, SUFFIX)
        if target.suffix == WITHOUT_PICKLE:
            write_state(target, model_state(self, exclude, include))
            return
        with replacing(target) as file:
            super().save(cast(io.BufferedIOBase, file), exclude, include)

    @classmethod
    def load(
        cls: type[SelfSavedAlgorithm],
        path: File,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trusted: bool | None = None,
        **kwargs: Any,
    ) -> SelfSavedAlgorithm:
        """Load a model, as in Stable-Baselines3.

        :param path: path of the file, or the open file; its content tells which of the two formats it has
        :param env: the environment to go on with; None (default): the model can predict, but not learn
        :param device: where the networks are put; ``"auto"`` (default): as for the constructor
        :param custom_objects: objects that take the place of saved ones, default none
        :param print_system_info: whether to print the systems that saved and load the model, default False
        :param force_reset: whether the environment is reset before learning goes on, default True
        :param trusted: whether the file may hold pickled objects, as Stable-Baselines3's do, which can run any code;
            None (default): yes, unless the environment variable ``RLX2_TRUSTED`` is 0
        :param kwargs: arguments of the constructor, or attributes, that replace saved ones
        :raises ModelFileError: if the file is no model, is not whole, is not trusted, or does not fit this version or
            algorithm
        :raises ValueError: for an unknown argument or a device that cannot be used
        """
        is_auto, device = device == "auto", "cpu" if device == "auto" else device
        check_device(device)
        check_attributes(cls, kwargs)
        with naming_model(path, cls), opened_as_zip(path, trusted) as (file, attributes):
            saved = read_saved_names(file)
            if saved.algorithm != algorithm_name(cls):
                dense = cast(Any, cls).dense_class.__name__
                hint = f": {cls.__name__}.from_dense makes it sparse" if saved.algorithm == dense else ""
                name = saved.algorithm or "another algorithm"
                raise ModelFileError(f"{name_of(path)} is a model of {name}, not of {cls.__name__}{hint}")
            cls._check_names(saved)
            custom_objects = {**attributes, **(custom_objects or {})}
            model = cls._read(file, env, device, custom_objects, print_system_info, force_reset, **kwargs)
            model._check_saved_names(saved, kwargs)
            if is_auto and (chosen := model._automatic_device()).type != "cpu":
                model = cls._read(file, env, chosen, custom_objects, False, force_reset, **kwargs)
        return model

    @classmethod
    def _read(cls: type[SelfSavedAlgorithm], file: Any, *args: Any, **kwargs: Any) -> SelfSavedAlgorithm:
        """One reading of an open file, as in Stable-Baselines3."""
        return super().load(file, *args, **kwargs)

    def _automatic_device(self) -> th.device:
        """The device that ``"auto"`` stands for. The model is on the CPU."""
        return get_device("auto")

    @classmethod
    def _check_names(cls, saved: SavedNames) -> None:
        """Names that Stable-Baselines3 is to set, whatever they stand for."""
        for name in saved.attributes:
            # A method of this name would be hidden
            if name in NEVER_SAVED or name.startswith("__") or callable(getattr(cls, name, None)):
                raise ModelFileError(f"it has a value for {name}, which is no setting")
        for name in saved.variables:
            if name not in cls.variable_shapes:
                raise ModelFileError(
                    f"pytorch_variables.pth has {sorted(saved.variables)}, and {name} is no tensor of a {cls.__name__}"
                )

    def _check_saved_names(self, saved: SavedNames, given: Collection[str]) -> None:
        """Where something is missing in a file, SB3 goes on with the default."""
        has = {*saved.attributes, *given}
        required = [name for name in REQUIRED if name not in self.later_arguments]
        missing = [name for name in required if name in vars(self) and name not in has]
        if missing:
            raise ModelFileError(f"it has no {missing[0]}")
        variables = self._get_torch_save_params()[1]
        if sorted(saved.variables) != sorted(variables):
            raise ModelFileError(f"pytorch_variables.pth has {sorted(saved.variables)}, expected {sorted(variables)}")
        for name, variable in saved.variables.items():
            expected = th.zeros(self.variable_shapes[name])
            problem = tensor_problem(variable, expected)
            if problem is None and variable.dtype != expected.dtype:  # SB3 takes the tensor itself
                problem = f"is of type {variable.dtype}, expected {expected.dtype}"
            if problem is not None:
                raise ModelFileError(f"{name} {problem}")

    def _check_checkpoint_format(self) -> None:
        if self.checkpoint_format != CHECKPOINT_FORMAT:
            raise ModelFileError(format_problem("checkpoint", self.checkpoint_format, CHECKPOINT_FORMAT))

    def save_replay_buffer(self, path: File) -> None:
        """Save the replay buffer; the file is written wholly, or is left as it was.

        What it holds is written, and not the room for more, nor what it has forgotten. Loaded again it is the same: the
        same random numbers sample the same transitions. Stable-Baselines3 loads a ``.pkl`` of its own classes. A name
        that ends in ``.safetensors`` is that of a file without pickle, which runs no code when it is loaded.

        :param path: path of the file (``.pkl`` is added to a name without suffix), or a file that is open for writing
        :raises ValueError: if there is no replay buffer, or it is of a class that is not written without pickle
        :raises OSError: if the file cannot be written; it is as it was
        """
        buffer = self.replay_buffer
        if buffer is None:
            raise ValueError("there is no replay buffer to save: the model was made without one")
        if not isinstance(path, (str, os.PathLike)):
            write_pickle(path, buffer)
            return
        target = path_to_write(path, BUFFER_SUFFIX)
        if target.suffix == WITHOUT_PICKLE:
            write_state(target, buffer_state(buffer))
            return
        with replacing(target) as file:
            write_pickle(file, buffer)

    def load_replay_buffer(self, path: File, truncate_last_traj: bool = True, trusted: bool | None = None) -> None:
        """Load a replay buffer, as in SB3.

        :param path: path of a file that ``save_replay_buffer`` wrote, in either format, or the open file
        :param truncate_last_traj: for ``HerReplayBuffer``, see SB3; default True
        :param trusted: whether the file may be a pickle, which can run any code; None (default): yes, unless the
            environment variable ``RLX2_TRUSTED`` is 0
        :raises ValueError: if the file is no replay buffer, is not whole or not trusted, if it is for other spaces or
            another number of environments, if its arrays, counters or numbers are damaged, or if n-step targets or the
            dynamic buffer need another class; the model keeps its buffer
        """
        own = self.replay_buffer
        try:
            with naming(path, "is no replay buffer, or was cut short"), opened(path, BUFFER_SUFFIX) as file:
                if is_without_pickle(file):
                    self._take_replay_buffer(buffer_of_state(read_state(file)), truncate_last_traj)
                else:
                    check_trusted(trusted, name_of(path))
                    super().load_replay_buffer(file, truncate_last_traj)
                loaded = cast(ReplayBuffer, self.replay_buffer)
                problem = counter_problem(loaded) or layout_problem(Watch(), self) or content_problem(loaded, own)
                if problem is not None:
                    raise ModelFileError(f"the replay buffer {problem}")
            self._prepare_replay_buffer()
        except BaseException:
            self.replay_buffer = own
            raise

    def _take_replay_buffer(self, buffer: ReplayBuffer, truncate_last_traj: bool) -> None:
        """What Stable-Baselines3 does with a buffer that it has unpickled."""
        if isinstance(buffer, HerReplayBuffer):
            if self.env is None:
                raise ModelFileError("a HerReplayBuffer needs an environment: call set_env before it is loaded")
            buffer.set_env(self.env)
            if truncate_last_traj:
                buffer.truncate_last_trajectory()
        buffer.device = self.device
        self.replay_buffer = buffer

    @abstractmethod
    def _prepare_replay_buffer(self) -> None:
        """Make the model's settings hold in its replay buffer, or raise a ValueError if they cannot."""
