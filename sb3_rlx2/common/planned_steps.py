"""What will happen within the planned environment steps: when topologies evolve, and what the steps are too few for."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_rlx2.common.clocks import TIMESTEPS, UPDATES, Interval, read_clock
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.sparse import TopologyEvolver
from sb3_rlx2.sparse.schedules import Schedule, budget_moves


class PlannedSteps(OffPolicyAlgorithm):
    """Converts the clocks of RLx2 to environment steps, and warns of what comes too late."""

    network_sparsities: ClassVar[Mapping[str, str]]
    topology_interval: Interval
    topology_end: Interval | None
    n_steps: int
    n_steps_delay: Interval
    dynamic_buffer: bool
    buffer_min_size: int
    offline_interval: int | None
    offline_updates: int
    _last_trained: int | None

    @abstractmethod
    def _describe_update(self) -> UpdateDescription:
        """What one update consists of, by the current hyperparameters."""

    def _warn_of_what_will_not_happen(self, planned_before: int = 0) -> None:
        """A warning that names what the planned steps are too few for, each once.

        :param planned_before: environment steps that the call of ``learn`` planned which this one continues; 0: none
        """
        missing = []
        if planned_before != self._total_timesteps:  # or else the call that planned these steps has warned
            missing += self._missing_updates(planned_before)
        if self.dynamic_buffer and self.buffer_size // self.n_envs <= math.ceil(self.buffer_min_size / self.n_envs):
            sizes = f"buffer_min_size={self.buffer_min_size}, buffer_size={self.buffer_size}"
            missing.append(f"the replay buffer forgets nothing ({sizes})")
        given = self.__dict__.setdefault("_warnings_given", set())
        missing = [reason for reason in missing if reason not in given]
        given.update(missing)
        if missing:
            message = (
                f"{type(self).__name__}.learn() ends at {self._last_step()} environment steps: {'; '.join(missing)}"
            )
            warnings.warn(message, stacklevel=6)

    def _missing_updates(self, planned_before: int) -> list[str]:
        """What happens at no gradient update, of all that are planned."""
        updates, last = self._updates_per_rollout(), self._last_step()
        if updates == 0 or (updates is not None and self._first_train_step() > last):
            settings = f"learning_starts={self.learning_starts}, gradient_steps={self.gradient_steps}"
            return [f"no gradient update is made ({settings})"]
        if updates is None:
            return []
        missing, anneals = [], False
        for name, evolver in attached_evolvers(self).items():
            if not evolver.layers and evolver.rule.evolves and budget_moves(evolver.rule.budget):
                settings = f"{self.network_sparsities[name]}={getattr(self, self.network_sparsities[name])}"
                missing.append(f"the {name} keeps all of its connections: none of its layers is sparse ({settings})")
            # In offline phases the updates that a delayed actor takes part in are others
            is_unknown = name == "actor" and self.offline_interval is not None and self._period(name) > 1
            if not (evolver.layers and evolver.rule.evolves) or is_unknown:
                continue
            if self._next_evolution(name, evolver) <= self._last_evolving_update(name, evolver):
                anneals |= type(evolver.rule.schedule) is Schedule
            elif not (planned_before > 0 and evolver.counters["evolutions"] > 0):  # or else it is over
                settings = f"topology_interval={self.topology_interval}, topology_end={self.topology_end}"
                missing.append(f"the {name}'s topology does not evolve ({settings})")
        # A training in many short calls: evolution begins each at two thirds of its end or later
        start, end = self.learning_starts, self._total_timesteps
        is_short = 2 * (end - start) <= 3 * (self._first_train_step() - start)
        if anneals and self.topology_end is None and start < planned_before <= self.num_timesteps and is_short:
            advice = "topology_end=None is the end of each call of learn(); give the environment steps of all calls"
            missing.append(f"topology evolution is nearly over from this call's first step on ({advice})")
        delay, unit = read_clock(self.n_steps_delay, "n_steps_delay")
        reached = last if unit == TIMESTEPS else self._n_updates + self._updates_by(last) - 1
        if self.n_steps > 1 and reached < delay:
            missing.append(f"targets stay 1-step (n_steps_delay={self.n_steps_delay})")
        return missing

    def _next_evolution(self, name: str, evolver: TopologyEvolver) -> int:
        """Update of a network, counted from its first, at which its topology is due to evolve next."""
        done = evolver.counters["updates"]
        interval, unit = read_clock(self.topology_interval, "topology_interval")
        if unit == UPDATES:
            return done + interval - done % interval
        # It does not evolve at the network's very first update; and environment steps begin again where a training does
        rollouts = math.ceil((self._period(name) - self._n_updates % self._period(name)) / self._online_updates())
        first = self._first_train_step() + (rollouts - 1) * self._steps_per_rollout()
        due = (min(evolver.counters.get("clock", first), first) // interval + 1) * interval
        return done + self._updates_by(due - 1, name) + 1

    def _last_evolving_update(self, name: str, evolver: TopologyEvolver) -> int:
        """The last update of a network, counted from its first, before evolution has annealed to nothing."""
        planned = self._total_timesteps if self.topology_end is None else self.topology_end
        end, unit = read_clock(planned, "topology_end")
        last = self._last_step() if unit == UPDATES else min(self._last_step(), end - 1)
        update = evolver.counters["updates"] + self._updates_by(last, name)
        return min(update, end - 1) if unit == UPDATES else update

    def _interval_in_updates(self, name: str) -> float:
        """ΔT in gradient updates of a network, one a step where their number depends on the length of episodes."""
        interval, unit = read_clock(self.topology_interval, "topology_interval")
        if unit == UPDATES:
            return interval
        updates = (self._updates_per_rollout(name) or 1.0) / self._steps_per_rollout()
        return max(1.0, interval * updates / self._period(name))

    def _share_of_updates(self, network: str) -> float:
        """Share of the gradient updates in which a network is not at rest, as the actor is in offline phases."""
        every = self._updates_per_rollout()
        return (self._updates_per_rollout(network) or 0.0) / every if every else 1.0

    def _period(self, network: str) -> int:
        """Every how many gradient updates a network is updated."""
        return self._describe_update().periods[network]

    def _steps_per_rollout(self) -> int:
        """Environment steps between two calls of ``train``; 1 if that depends on the length of episodes."""
        train_freq = cast(TrainFreq, self.train_freq)
        return train_freq.frequency * self.n_envs if train_freq.unit == TrainFrequencyUnit.STEP else 1

    def _first_train_step(self) -> int:
        """Environment step after which the next gradient updates are made."""
        rollout = self._steps_per_rollout()
        return self.num_timesteps + (max(self.learning_starts - self.num_timesteps, 0) // rollout + 1) * rollout

    def _last_step(self) -> int:
        """Environment step at which ``learn`` ends: all environments step together, for whole rollouts."""
        rollout = self._steps_per_rollout()
        return self.num_timesteps + math.ceil((self._total_timesteps - self.num_timesteps) / rollout) * rollout

    def _updates_by(self, step: int, network: str | None = None) -> int:
        """Gradient updates from now on until those after an environment step, these included.

        :param step: the environment step
        :param network: count those of a network; None: all
        """
        first, rollout = self._first_train_step(), self._steps_per_rollout()
        rollouts = max((step - first) // rollout + 1, 0)
        updates = rollouts * self._online_updates()
        if self.offline_interval is not None and network != "actor" and rollouts > 0:
            before = first if self._last_trained is None else min(self._last_trained, first)
            last = first + (rollouts - 1) * rollout
            updates += (last // self.offline_interval - before // self.offline_interval) * self.offline_updates
        if network is None:
            return updates
        return (self._n_updates + updates) // self._period(network) - self._n_updates // self._period(network)

    def _online_updates(self) -> int:
        """Gradient updates of each call of ``train``, without those of offline phases."""
        return self._steps_per_rollout() if self.gradient_steps < 0 else self.gradient_steps  # -1: one for each step

    def _updates_per_rollout(self, network: str | None = None) -> float | None:
        """Gradient updates of each call of ``train`` on average; None if that depends on the length of episodes.

        :param network: count those of a network; None: all
        """
        if self.gradient_steps == 0:  # ``train`` is not called, not for offline phases either
            return 0.0
        if cast(TrainFreq, self.train_freq).unit == TrainFrequencyUnit.EPISODE:
            return None
        rollout = self._steps_per_rollout()
        interval = None if network == "actor" else self.offline_interval  # it is at rest in offline phases
        return self._online_updates() + (0.0 if interval is None else self.offline_updates * rollout / interval)
