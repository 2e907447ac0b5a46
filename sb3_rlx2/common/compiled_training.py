"""Gradient updates of a model by compiled code: which batches, and where the topology evolves in between."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.buffers import DynamicReplayBuffer, draw
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.updates import Samples, Updates
from sb3_rlx2.errors import DivergenceError
from sb3_rlx2.sparse import TopologyEvolver

Floats = npt.NDArray[np.float64]

MAX_CHUNK = 64
"""Updates in one compiled call; it bounds the memory for their noise."""

LOSSES = {"critic_loss": t.CRITIC_LOSS, "ent_coef_loss": t.COEFFICIENT_LOSS, "actor_loss": t.ACTOR_LOSS}
RECORDED = {**LOSSES, "ent_coef": t.COEFFICIENT_VALUE}


class CompiledAlgorithm(Protocol):
    """What an algorithm tells about its updates."""

    def _prepare_updates(self, updates: Any, samples: Samples) -> None:
        """Set constants and draw the noise of some updates."""

    def _trains(self, network: str, update: int) -> bool:
        """Whether an update, counted from 1 over the whole training, takes a step of a network's optimizer."""


def train_compiled(model: OffPolicyAlgorithm, updates: Updates, gradient_steps: int, batch_size: int) -> Floats:
    """Make gradient updates with compiled code.

    :param model: a ``CompiledAlgorithm``
    :param updates: its compiled updates
    :param gradient_steps: number of updates
    :param batch_size: number of transitions in each
    :return: losses of each update, see ``Updates.run``
    :raises DivergenceError: if a loss is NaN or infinite; the optimizer's step with it was not taken
    """
    algorithm, buffer = cast(CompiledAlgorithm, model), cast(ReplayBuffer, model.replay_buffer)
    updates.read_from(buffer, model.get_vec_normalize_env(), model.gamma)
    evolvers = attached_evolvers(model)
    before, done, rows = model._n_updates, 0, []
    while done < gradient_steps:
        first = before + done + 1
        evolving = [name for name in evolvers if algorithm._trains(name, first) and evolvers[name].evolves_next]
        count = 1 if evolving else _updates_until_break(algorithm, buffer, evolvers, first, gradient_steps - done)
        samples = draw(buffer, count, batch_size)
        algorithm._prepare_updates(updates, samples)
        if evolving:
            results, completed = _evolve(updates, samples, (before, done), evolving, evolvers)
        else:
            results, completed = updates.run(samples, before, done)
        if completed < count:
            values = {name: results[completed, column] for name, column in LOSSES.items()}
            # Each is computed only if those before it are finite
            names = ["critic_loss", *(["ent_coef_loss"] if "coefficient" in updates.optimizers else []), "actor_loss"]
            name = next(name for name in names if not math.isfinite(values[name]))
            model._n_updates += done + completed
            raise DivergenceError(name, values[name], first + completed)
        for name, evolver in evolvers.items():
            if name not in evolving:
                evolver.count(sum(algorithm._trains(name, first + i) for i in range(count)))
        rows.append(results)
        done += count
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def _updates_until_break(
    algorithm: CompiledAlgorithm,
    buffer: ReplayBuffer,
    evolvers: Mapping[str, TopologyEvolver],
    first: int,
    remaining: int,
) -> int:
    """How many updates can be made at once: no topology evolves and the number of steps of targets stays."""
    count = min(remaining, MAX_CHUNK)
    if isinstance(buffer, DynamicReplayBuffer) and buffer.n_updates < buffer.n_steps_delay:
        count = min(count, buffer.n_steps_delay - buffer.n_updates)
    for name, evolver in evolvers.items():
        due = evolver.steps_until_due
        if due is None:
            continue
        steps = 0
        for i in range(count):
            steps += algorithm._trains(name, first + i)
            if steps == due:  # that update is on its own, unless it is the very next one and evolution has ended
                count = max(i, 1)
                break
    return count


def _evolve(
    updates: Updates,
    samples: Samples,
    before: tuple[int, int],
    evolving: list[str],
    evolvers: Mapping[str, TopologyEvolver],
) -> tuple[Floats, int]:
    """One update in which the topology of one or both networks evolves in place of its optimizer's step."""
    phases = {"critic": (t.CRITIC_GRADIENT, t.CRITIC_STEP), "actor": (t.ACTOR_GRADIENT, t.ACTOR_STEP)}
    results = np.full((1, t.RESULTS), np.nan)
    for name, (gradient, step) in phases.items():
        evolves = name in evolving
        if not evolves:
            part, completed = updates.run(samples, *before, gradient | step)
        else:
            updates.want_all_positions(name, True)
            try:
                part, completed = updates.run(samples, *before, gradient)
                gradients = updates.dense_gradients(name)
            finally:
                updates.want_all_positions(name, False)
        results = np.where(np.isnan(part), results, part)
        if completed < 1:
            return results, completed
        if evolves:
            evolvers[name].evolve_with(gradients)
    _, completed = updates.run(samples, *before, t.TARGETS)
    return results, completed
