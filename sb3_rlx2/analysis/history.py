"""Records topology and replay buffer while a model trains."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EventCallback,
)
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.analysis.topology_history import TopologyHistory
from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.topology import networks
from sb3_rlx2.sparse import linear_layers
from sb3_rlx2.sparse.checks import check_count
from sb3_rlx2.sparse.units import connection_mask

FILE_NAME = "topology_history.npz"


class TopologyHistoryCallback(BaseCallback):
    """Records the connections of the networks that learn and the replay buffer, for ``rlx2 plot``, ``TopologyHistory``.

    It works with ``RLx2TD3``, ``RLx2SAC``, and with stock SB3 ``TD3`` and ``SAC`` beside a
    ``TopologyEvolutionCallback``. Between two evolutions it does next to nothing. When training goes on after a restart
    and the file is there, so does the record, with another ``record_freq`` too; what it has of later steps than the
    model's is dropped. A new training writes a new record.

    :param path: the ``.npz`` file to write; None (default): ``topology_history.npz`` in the folder where an
        ``EvalCallback`` or ``CheckpointCallback`` of the same ``learn`` writes (rl-zoo3: the model's folder), or else
        in the logger's folder
    :param record_freq: record connections every so many environment steps; None (default): after each evolution.
        Several evolutions within one ``train`` call (``gradient_steps`` above ``topology_interval``) make one record
    :param buffer_freq: environment steps between two notes of the replay buffer's size and capacity, default 1000
    :param save_freq: environment steps between two writes of the file, default 50,000; it is written at the end of
        ``learn`` in any case
    :param max_records: the maximum number of records of each network, default 200, at least 3: when there are more,
        every second one goes
    :param verbose: 1 prints where the file is, default 0
    :raises ValueError: if an argument is out of range, or the file to go on with is of another model
    """

    def __init__(
        self,
        path: str | Path | None = None,
        record_freq: int | None = None,
        buffer_freq: int = 1000,
        save_freq: int = 50_000,
        max_records: int = 200,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.given_path = None if path is None else Path(path)
        self.record_freq = None if record_freq is None else check_count(record_freq, "record_freq", 1)
        self.buffer_freq = check_count(buffer_freq, "buffer_freq", 1)
        self.save_freq = check_count(save_freq, "save_freq", 1)
        self.max_records = check_count(max_records, "max_records", 3)
        self.path = self.given_path
        self.history: TopologyHistory | None = None
        self._owner: Any = None
        self._counted_before: dict[str, int] = {}
        self._saved_at = 0
        self._last_check = -1

    def _init_callback(self) -> None:
        if not isinstance(self.model, OffPolicyAlgorithm) or not networks(self.model):
            raise ValueError(
                f"{type(self).__name__} works with off-policy algorithms whose networks it knows, not "
                f"{type(self.model).__name__}"
            )
        if self._owner is None or self._owner() is not self.model:
            self.history = None
            self._owner = weakref.ref(self.model)

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint of the training keeps of this callback."""
        history = None if self.history is None else self.history.get_state()
        return {
            "history": history,
            "saved_at": self._saved_at,
            "last_check": self._last_check,
            "counted_before": self._counted_before,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what ``get_state`` returned.

        :param state: what it returned
        """
        self.history = None if state["history"] is None else TopologyHistory.from_state(state["history"])
        self._saved_at, self._last_check = state["saved_at"], state["last_check"]
        self._counted_before = state.get("counted_before", {})

    @property
    def _off_policy(self) -> OffPolicyAlgorithm:
        assert isinstance(self.model, OffPolicyAlgorithm)
        return self.model

    def _on_training_start(self) -> None:
        model = self._off_policy
        self.path = self.given_path or Path(self._default_folder()) / FILE_NAME
        if model.num_timesteps == 0:
            self.history = None
        elif self.history is None and self.path.exists():
            self.history = TopologyHistory.load(self.path, self.max_records)
            if not self.history.fits(model):
                raise ValueError(
                    f"{self.path} is the topology history of a model with other layers: give another path, or "
                    "move the file away"
                )
        self.history = self.history or TopologyHistory(model, self.max_records)
        self.history.truncate(model.num_timesteps)
        self._saved_at = model.num_timesteps
        self._last_check = -1
        # Numbers of records rise, with another record_freq than before too
        self._counted_before = {
            name: max(0, record.numbers[-1] - self._count(name)) if record.numbers else 0
            for name, record in self.history.networks.items()
        }
        self._record_topology()

    def _default_folder(self) -> str | Path:
        for callback in _flat(self.locals.get("callback")):
            if isinstance(callback, EvalCallback) and callback.log_path is not None:
                return Path(callback.log_path).parent
            if isinstance(callback, CheckpointCallback):
                return callback.save_path
        return self.logger.get_dir() or "."

    def _on_rollout_start(self) -> None:
        self._record_topology()

    def _counters(self, name: str) -> dict[str, int]:
        counters: dict[str, Any] = getattr(self.model, "topology_counters", {})
        counted: dict[str, int] = counters.get(name, {"updates": 0, "evolutions": 0})
        return counted

    def _count(self, name: str) -> int:
        """How many records of a network there would be by now if none were left out."""
        if self.record_freq is None:
            return self._counters(name)["evolutions"]
        return self._off_policy.num_timesteps // self.record_freq

    def _record_topology(self, is_last: bool = False) -> None:
        """Record the networks that have evolved since the newest record."""
        assert self.history is not None
        model = self._off_policy
        for name, network in networks(model).items():
            number = self._counted_before.get(name, 0) + self._count(name)
            record = self.history.networks[name]
            is_new = not record.numbers or number > record.numbers[-1]
            if is_new and (is_last or record.wants(number)):
                masks = {key: connection_mask(layer).cpu().numpy() for key, layer in linear_layers(network).items()}
                record.add(model.num_timesteps, self._counters(name)["updates"], number, masks)

    def _on_step(self) -> bool:
        self._note_buffer()
        if self.num_timesteps - self._saved_at >= self.save_freq:
            self._save()
        return True

    def _note_buffer(self, is_last: bool = False) -> None:
        assert self.history is not None
        buffer = self._off_policy.replay_buffer
        if buffer is None:
            return
        before = self.num_timesteps - self.training_env.num_envs
        is_due = is_last or before // self.buffer_freq < self.num_timesteps // self.buffer_freq
        if isinstance(buffer, DynamicReplayBuffer):
            if buffer.last_check not in (-1, self._last_check):
                self._last_check = buffer.last_check
                self.history.distances.add(buffer.last_check, buffer.last_distance)
                is_due = True
            numbers = (buffer.n_transitions, buffer.capacity, buffer.n_steps_in_use)
        else:
            rows = buffer.size()
            numbers = (rows * buffer.n_envs, buffer.buffer_size * buffer.n_envs, getattr(buffer, "n_steps", 1))
        if is_due:
            self.history.buffer.add(self.num_timesteps, *numbers)

    def _on_training_end(self) -> None:
        self._record_topology(is_last=True)
        self._note_buffer(is_last=True)
        self._save()

    def _save(self) -> None:
        assert self.history is not None
        assert self.path is not None
        self.history.save(self.path)
        self._saved_at = self.num_timesteps
        if self.verbose >= 1:
            print(f"Topology history: {self.path}")


def _flat(callback: Any) -> Iterator[BaseCallback]:
    """A callback and those inside of it."""
    if isinstance(callback, CallbackList):
        for inner in callback.callbacks:
            yield from _flat(inner)
    elif isinstance(callback, BaseCallback):
        yield callback
        if isinstance(callback, EventCallback) and callback.callback is not None:
            yield from _flat(callback.callback)
