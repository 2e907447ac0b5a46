"""Gradient updates of a model by compiled code: which batches, and where the topology evolves in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.buffers import DynamicReplayBuffer, draw
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.common.update_state import UpdateState
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.records import GRADIENT, STEP
from sb3_rlx2.engine.samples import Samples
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.errors import DivergenceError
from sb3_rlx2.sparse import TopologyEvolver

Floats = npt.NDArray[np.float64]

MAX_CHUNK = 64
"""Updates in one compiled call; it bounds the memory for their noise."""


class CompiledAlgorithm(Protocol):
    """What an algorithm tells about its updates."""

    def _prepare_updates(self, updates: Any, samples: Samples) -> None:
        """Set constants and draw the noise of some updates."""


def train_compiled(model: OffPolicyAlgorithm, updates: Updates, gradient_steps: int, batch_size: int) -> Floats:
    """Make gradient updates with compiled code.

    An update is made wholly or not at all. In whatever way this ends, the model's counts are those of the updates made.

    :param model: a ``CompiledAlgorithm``
    :param updates: its compiled updates
    :param gradient_steps: number of updates
    :param batch_size: number of transitions in each
    :return: losses of each update, see ``Updates.run``
    :raises DivergenceError: if float32 cannot hold a loss or what follows from it; all is as before that update then
    """
    counts = _Counts(model, updates)
    try:
        try:
            return _train(model, updates, gradient_steps, batch_size, counts)
        finally:
            counts.settle()
    finally:  # Ctrl-C may come in the midst of that, too
        counts.settle()


class _Counts:
    """All counts of a model's updates, which follow from the one that compiled code keeps."""

    def __init__(self, model: OffPolicyAlgorithm, updates: Updates) -> None:
        self._model, self._updates, self._evolvers = model, updates, attached_evolvers(model)
        self._steps = updates.description.steps
        self._settled = updates.completed
        self._before = model._n_updates - self._settled
        self._steps_before = {
            name: evolver.counters["updates"] - self._steps(name, model._n_updates)
            for name, evolver in self._evolvers.items()
        }

    @property
    def n_updates(self) -> int:
        """Updates over the whole training."""
        return self._before + self._updates.completed

    def settle(self) -> None:
        """Set all counts. It does no harm to do that twice."""
        completed = self._updates.completed
        if completed == self._settled:
            return
        n_updates, buffer = self._before + completed, self._model.replay_buffer
        for name, evolver in self._evolvers.items():
            missing = self._steps_before[name] + self._steps(name, n_updates) - evolver.counters["updates"]
            if missing:
                evolver.count(missing)
        self._model._n_updates = n_updates
        if isinstance(buffer, DynamicReplayBuffer):
            buffer.n_updates = n_updates
        self._settled = completed


def _train(
    model: OffPolicyAlgorithm, updates: Updates, gradient_steps: int, batch_size: int, counts: _Counts
) -> Floats:
    algorithm, buffer = cast(CompiledAlgorithm, model), cast(ReplayBuffer, model.replay_buffer)
    description = updates.description
    updates.read_from(buffer, model.get_vec_normalize_env(), model.gamma)
    evolvers = attached_evolvers(model)
    before, rows = counts.n_updates, []
    while (done := counts.n_updates - before) < gradient_steps:
        first = before + done + 1
        evolving = [name for name in evolvers if _trains(description, name, first) and evolvers[name].evolves_next]
        count = 1 if evolving else _updates_until_break(description, buffer, evolvers, first, gradient_steps - done)
        algorithm._prepare_updates(updates, draw(buffer, updates.room_for_samples(count, batch_size)))
        if evolving:
            results, completed = _evolve(model, updates, (before, done), evolving)
        else:
            results, completed = updates.run(before, done)
        if completed < count:
            loss = updates.diverged
            raise DivergenceError(loss, float(results[completed, updates.columns[loss]]), first + completed)
        counts.settle()
        rows.append(results)
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _trains(description: UpdateDescription, network: str, update: int) -> bool:
    """Whether an update, counted from 1 over the whole training, takes a step of a network's optimizer."""
    return description.steps(network, update) > description.steps(network, update - 1)


def _updates_until_break(
    description: UpdateDescription,
    buffer: ReplayBuffer,
    evolvers: Mapping[str, TopologyEvolver],
    first: int,
    remaining: int,
) -> int:
    """How many updates can be made at once: no topology evolves and the number of steps of targets stays."""
    count = min(remaining, MAX_CHUNK)
    if count == 1:
        return 1
    if isinstance(buffer, DynamicReplayBuffer) and (left := buffer.updates_until_delay_ends):
        count = min(count, left)
    for name, evolver in evolvers.items():
        due = evolver.steps_until_due
        if due is None:
            continue
        steps = 0
        for i in range(count):
            steps += _trains(description, name, first + i)
            if steps == due:  # that update is on its own, unless it is the very next one and evolution has ended
                count = max(i, 1)
                break
    return count


def _evolve(
    model: OffPolicyAlgorithm, updates: Updates, before: tuple[int, int], evolving: list[str]
) -> tuple[Floats, int]:
    """One update in which the topology of one or both networks evolves in place of its optimizer's step."""
    updates.refresh()  # which makes optimizer states that are not there yet
    completed, state = updates.completed, UpdateState()
    state.save(model, updates.optimizers.values())
    try:
        try:
            return _evolution_update(updates, before, {name: attached_evolvers(model)[name] for name in evolving})
        finally:
            if updates.completed == completed:
                state.restore()
    finally:  # Ctrl-C may come in the midst of that, too
        if updates.completed == completed:
            state.restore()


def _evolution_update(
    updates: Updates, before: tuple[int, int], evolvers: Mapping[str, TopologyEvolver]
) -> tuple[Floats, int]:
    results = np.full((1, len(updates.columns)), np.nan)
    for phase in updates.description.phases:
        name = phase.network
        evolves = name in evolvers
        if not evolves:
            part, completed = updates.run(*before, {name: GRADIENT | STEP}, targets=False)
        else:
            updates.want_all_positions(name, True)
            part, completed = updates.run(*before, {name: GRADIENT}, targets=False)
            gradients = updates.dense_gradients(name)
            updates.want_all_positions(name, False)
        results = np.where(np.isnan(part), results, part)
        if completed < 1:
            return results, completed
        if evolves:
            if not all(gradient.isfinite().all() for gradient in gradients.values()):
                updates.diverged = phase.losses[0]
                return results, 0
            evolvers[name].evolve_with(gradients)
    _, completed = updates.run(*before, {}, targets=True)
    return results, completed
