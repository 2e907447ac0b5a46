"""Evaluations of a run, appended to its CSV as they are made."""

from __future__ import annotations

import csv
import socket
import time
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_rlx2.common.topology import networks
from sb3_rlx2.files.atomic import replacing
from sb3_rlx2.sparse import summarize
from sb3_rlx2.studies.model import make_environment, save_agent
from sb3_rlx2.studies.run_folder import RunFolder

COLUMNS = (
    *("step", "mean_return", "std_return", "min_return", "mean_length", "updates"),
    *("actor_connections", "critic_connections", "cpu_seconds", "wall_seconds"),
)
SEED_FACTOR = 1_000_003
STATUS_SECONDS = 2.0


class Seconds(NamedTuple):
    """Time that a training took.

    :param cpu: seconds of the processor
    :param wall: seconds of the clock
    """

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> Seconds:
        """What the clocks show now."""
        return cls(time.process_time(), time.perf_counter())


NOT_BEGUN = Seconds(0.0, 0.0)


class Evaluator:
    """Evaluates a policy on an environment of its own and appends a row to the run's CSV.

    The episodes depend on seed and step alone, so that a run that goes on has the same. The clocks stand still
    meanwhile.

    :param run: folder of the run
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.settings = run, run.settings
        self.env = make_environment(self.settings.environment, self.settings.hyperparameters, evaluation=True)
        self.last_step = 0
        self._before, self._started = NOT_BEGUN, Seconds.now()

    def begin(self, step: int = 0, seconds: Seconds = NOT_BEGUN) -> None:
        """Begin, or go on: rows of the CSV after a step are removed.

        :param step: environment steps so far, default 0
        :param seconds: time that they took, default none
        """
        rows = [row for row in self.run.rows() if row["step"] <= step]
        self.last_step = int(rows[-1]["step"]) if rows else 0
        self._before = seconds
        lines = self.run.evaluations.read_text(encoding="utf-8").splitlines(keepends=True) if rows else []
        with replacing(self.run.evaluations, "w", encoding="utf-8") as file:
            file.write("".join(lines[: len(rows) + 1]) or ",".join(COLUMNS) + "\n")
        self.start()

    @property
    def seconds(self) -> Seconds:
        """Time of the whole training so far, evaluations left out."""
        now = Seconds.now()
        return Seconds(*(b + n - s for b, n, s in zip(self._before, now, self._started, strict=True)))

    def start(self) -> None:
        """Let the clocks run from now on."""
        self._started = Seconds.now()

    def evaluate(self, model: Any, step: int, updates: int, connections: dict[str, int]) -> float:
        """Evaluate, and append a row.

        :param model: what ``evaluate_policy`` takes
        :param step: environment steps so far
        :param updates: gradient updates so far
        :param connections: of the actor and of all critics together, by name; those of a network that tells the values
            of discrete actions count as critics'
        :return: mean return
        """
        self._before = seconds = self.seconds
        self.env.seed(self.settings.seed * SEED_FACTOR + step)
        returns, lengths = evaluate_policy(
            model, self.env, self.settings.evaluation_episodes, return_episode_rewards=True
        )
        row: dict[str, Any] = {
            "step": step,
            "mean_return": f"{np.mean(returns):.3f}",
            "std_return": f"{np.std(returns):.3f}",
            "min_return": f"{np.min(returns):.3f}",
            "mean_length": f"{np.mean(lengths):.1f}",
            "updates": updates,
            "actor_connections": connections.get("actor", 0),
            "critic_connections": sum(count for name, count in connections.items() if name != "actor"),
            "cpu_seconds": f"{seconds.cpu:.2f}",
            "wall_seconds": f"{seconds.wall:.2f}",
        }
        with self.run.evaluations.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        self.last_step = step
        self.start()
        return float(np.mean(returns))


class Status:
    """Tells others, now and then, how far a run is.

    :param run: folder of the run
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._last: tuple[int, float] | None = None
        self._write(int(run.record("status.json").get("step", 0)), 0.0)

    def update(self, step: int) -> None:
        """Write it, if the last time was some seconds ago.

        :param step: environment steps so far
        """
        now = time.time()
        if self._last is None:
            self._last = (step, now)
        last_step, last_time = self._last
        if now - last_time >= STATUS_SECONDS:
            self._write(step, (step - last_step) / (now - last_time))
            self._last = (step, now)

    def _write(self, step: int, speed: float) -> None:
        content = {"step": step, "steps_per_second": speed, "time": time.time(), "host": socket.gethostname()}
        self.run.write("status.json", content)


class StudyCallback(BaseCallback):
    """Evaluates every so many environment steps and at the end of training, and keeps the agent of the highest return.

    :param run: folder of the run
    :param is_new: whether the training begins; otherwise a checkpoint says where it goes on
    """

    CHECK_STATUS = 64
    """Environment steps between two looks at the clock."""

    def __init__(self, run: RunFolder, is_new: bool = True) -> None:
        super().__init__()
        self.every = run.settings.evaluate_every
        self.evaluator, self.status = Evaluator(run), Status(run)
        self.evaluation_env = self.evaluator.env  # of which a checkpoint keeps what an environment of a callback knows
        if is_new:
            self.evaluator.begin()

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback."""
        return {"step": self.num_timesteps, "seconds": list(self.evaluator.seconds)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what ``get_state`` returned.

        :param state: what it returned
        """
        print(f"Goes on at step {state['step']}", flush=True)
        self.evaluator.begin(state["step"], Seconds(*state["seconds"]))

    def _on_training_start(self) -> None:
        self.evaluator.start()

    def _on_step(self) -> bool:
        step = self.num_timesteps
        if step // self.every > (step - self.training_env.num_envs) // self.every:
            self._evaluate()
        if step % self.CHECK_STATUS < self.training_env.num_envs:
            self.status.update(step)
        return True

    def _on_training_end(self) -> None:
        if self.evaluator.last_step < self.num_timesteps:
            self._evaluate()

    def _evaluate(self) -> None:
        run, model = self.evaluator.run, self.model
        before = max((row["mean_return"] for row in run.rows() if not np.isnan(row["mean_return"])), default=-np.inf)
        sync_envs_normalization(self.training_env, self.evaluator.env)
        if self.evaluator.evaluate(model, self.num_timesteps, model._n_updates, count_connections(model)) > before:
            save_agent(model, run.best)
            self.evaluator.start()  # the clocks stand still meanwhile


def count_connections(model: Any) -> dict[str, int]:
    """Weights that are present in each network that learns, all critics together.

    :param model: an off-policy algorithm
    """
    assert isinstance(model, OffPolicyAlgorithm)
    return {name: sum(layer.connections for layer in summarize(network)) for name, network in networks(model).items()}
