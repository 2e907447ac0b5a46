"""The zoo's experiments, with what this package's algorithms need."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, cast

import optuna
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from tqdm import tqdm

from sb3_rlx2.common.saving.vec_normalize import save_vec_normalize
from sb3_rlx2.resume import TrainingCheckpointCallback
from sb3_rlx2.zoo.algorithms import ALGORITHMS
from sb3_rlx2.zoo.checkpoints import FOLDER, Checkpoints, ResumedModel, read_own_yaml
from sb3_rlx2.zoo.continuing import ContinuedModel, ContinuedTraining
from sb3_rlx2.zoo.hyperparameters import check_entry, check_file, hyperparameter_file
from sb3_rlx2.zoo.search_space import searching


class RLx2ExperimentManager(ExperimentManager):
    """An experiment of the zoo: files of hyperparameters are checked, and those of our algorithms found.

    :param args: as for ``ExperimentManager``
    :param config: a file or a Python module, as for ``ExperimentManager``, or the name of a baseline
    :param kwargs: as for ``ExperimentManager``
    """

    checkpoints: ClassVar[Checkpoints] = Checkpoints()
    """What ``rlx2 train`` was given."""

    def __init__(self, *args: Any, config: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "config": config})
        self._resumed: ResumedModel | None = None
        if self.checkpoints.run is not None:
            self.save_path = str(self.checkpoints.run)
            self.params_path = f"{self.save_path}/{self.env_name}"
        elif self.algo in ALGORITHMS:
            self.config = hyperparameter_file(self.algo, config)
        self._has_made_folder = False
        self._is_zoos_file = self.algo not in ALGORITHMS and config is None

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the hyperparameters of the environment, and check them; a run that goes on has its own.

        :return: hyperparameters for the zoo to change, and to save
        :raises ValueError: if the file, or one of them, is wrong
        """
        if self.checkpoints.run is not None:
            saved: dict[str, Any] = OrderedDict(read_own_yaml(Path(self.params_path) / "config.yml"))
            if self.env_kwargs and getattr(self, "_eval_env_kwargs_args", None) is None:
                self.eval_env_kwargs = saved.get("env_kwargs", self.env_kwargs)
            return dict(saved), saved
        if not self._is_zoos_file:  # which has names of environments that are no more
            check_file(self.config, self.env_name.gym_id)
        hyperparameters, saved = super().read_hyperparameters()
        place = f"{self.config}, {self.env_name.gym_id}"
        check_entry(self.algo, hyperparameters, place, self.custom_hyperparams or ())
        return hyperparameters, saved

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Make the environment and the model. What fails leaves no folder, which would be the latest to ``enjoy``.

        :return: the model and its hyperparameters; None: for a search
        """
        try:
            return super().setup_experiment()
        except BaseException:
            if self._has_made_folder:
                shutil.rmtree(self.save_path, ignore_errors=True)
            raise

    def create_log_folder(self) -> None:
        """Make the folder of the run, and what the zoo has in it."""
        self._has_made_folder = self.checkpoints.run is None and self._take_folder()
        cast(Any, super()).create_log_folder()

    def _take_folder(self) -> bool:
        """Make the folder of the run; one that another process has made meanwhile is left to it, for the next number.

        :return: whether it was made: a name with ``-uuid`` is taken as it is
        """
        while True:
            try:
                Path(self.save_path).mkdir(parents=True)
                return True
            except FileExistsError:
                name, _, number = self.save_path.rpartition("_")
                if not number.isdecimal():
                    return False
                self.save_path = f"{name}_{int(number) + 1}"
                self.params_path = f"{self.save_path}/{self.env_name}"

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save a model with what belongs to it: each file is written wholly, or left as it was.

        :param model: the model, in whose place that of a resumed training is saved
        """
        if self._resumed is not None:
            if not self._resumed.is_restored:
                print("Interrupted before the training went on: its files are as they were")
                return
            model = self._resumed.model
        normalize, self.normalize = self.normalize, False
        try:
            super().save_trained_model(model)
        finally:
            self.normalize = normalize
        env = model.get_vec_normalize_env()
        if normalize and env is not None:
            save_vec_normalize(env, Path(self.params_path) / "vecnormalize.pkl")

    def create_callbacks(self) -> None:
        """Make the zoo's callbacks, and the one that writes checkpoints if it was asked for."""
        cast(Any, super()).create_callbacks()
        for callback in self.callbacks:
            if isinstance(callback, ProgressBarCallback):
                # The zoo ends a bar even where an error came before it began, or there was nothing left to train
                callback.pbar = tqdm(disable=True)
        if self.checkpoints.every is not None:
            self.callbacks.append(TrainingCheckpointCallback(f"{self.save_path}/{FOLDER}", self.checkpoints.every))

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if self.checkpoints.run is None:  # or else they are there, and must be, whenever this process is killed
            super()._save_config(saved_hyperparams)

    def learn(self, model: BaseAlgorithm) -> None:
        """Train a model; one of ours that was loaded, or a training that was killed, goes on where it stopped.

        :param model: the model
        """
        given = cast(OffPolicyAlgorithm, model)
        if self.continue_training and self.algo in ALGORITHMS:
            self.callbacks.append(ContinuedTraining(self.trained_agent))
            model = cast(BaseAlgorithm, ContinuedModel(given))
        if self.checkpoints.run is not None:
            self._resumed = ResumedModel(self.checkpoints.run, given)
            model = cast(BaseAlgorithm, self._resumed)
        super().learn(model)

    def objective(self, trial: optuna.Trial) -> float:
        """Train with the hyperparameters of a trial, which is told how long its training is.

        :param trial: the trial
        :return: what the search makes as large as it can
        """
        trial.set_user_attr("n_timesteps", self.n_timesteps)
        with searching(self._hyperparams):
            return super().objective(trial)
