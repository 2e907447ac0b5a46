"""What will happen within the planned environment steps: when topologies evolve, and what the steps are too few for."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import cast

from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from sb3_rlx2.common.clocks import TIMESTEPS, UPDATES, Interval, read_clock
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.sparse import TopologyEvolver


class PlannedSteps(OffPolicyAlgorithm):
    """Converts the clocks of RLx2 to environment steps, and warns of what comes too late."""

    topology_interval: Interval
    topology_end: Interval | None
    n_steps: int
    n_steps_delay: Interval
    dynamic_buffer: bool
    buffer_min_size: int
    offline_interval: int | None
    offline_updates: int

    @abstractmethod
    def _describe_update(self) -> UpdateDescription:
        """What one update consists of, by the current hyperparameters."""

    def _warn_of_what_will_not_happen(self) -> None:
        """A warning that names what the planned steps are too few for, each once."""
        total, first = self._total_timesteps, max(self.num_timesteps, self.learning_starts)
        missing = []
        if total <= self.learning_starts or self.gradient_steps == 0:
            settings = f"learning_starts={self.learning_starts}, gradient_steps={self.gradient_steps}"
            missing.append(f"no gradient update is made ({settings})")
        elif (all_updates := self._updates_per_step()) is not None:
            for name, evolver in attached_evolvers(self).items():
                rate = self._updates_per_step(name) or 0.0
                if not (evolver.layers and evolver.rule.evolves):
                    continue
                # Evolution ends before the step at which it has annealed to nothing
                end = self._end_of_evolution(name, evolver, first, rate)
                if self._next_evolution(name, evolver, first, rate) >= end:
                    settings = f"topology_interval={self.topology_interval}, topology_end={self.topology_end}"
                    missing.append(f"the {name}'s topology does not evolve ({settings})")
            delay, unit = read_clock(self.n_steps_delay, "n_steps_delay")
            last = total if unit == TIMESTEPS else self._n_updates + (total - first) * all_updates - 1
            if self.n_steps > 1 and last < delay:
                missing.append(f"targets stay 1-step (n_steps_delay={self.n_steps_delay})")
        if self.dynamic_buffer and self.buffer_min_size >= self.buffer_size:
            sizes = f"buffer_min_size={self.buffer_min_size}, buffer_size={self.buffer_size}"
            missing.append(f"the replay buffer forgets nothing ({sizes})")
        given = self.__dict__.setdefault("_warnings_given", set())
        missing = [reason for reason in missing if reason not in given]
        given.update(missing)
        if missing:
            message = f"{type(self).__name__}.learn() ends at {total} environment steps: {'; '.join(missing)}"
            warnings.warn(message, stacklevel=6)

    def _next_evolution(self, name: str, evolver: TopologyEvolver, first: int, rate: float) -> float:
        """Environment step at which a network's topology evolves next, if updates begin at the step ``first``."""
        interval, unit = read_clock(self.topology_interval, "topology_interval")
        if unit == TIMESTEPS:
            # Environment steps begin again where a training does
            last = min(evolver.counters["clock"], self.num_timesteps) if "clock" in evolver.counters else first
            return max(first, (last // interval + 1) * interval)
        left = interval - evolver.counters["updates"] % interval
        return first + left * self._describe_update().periods[name] / rate

    def _interval_in_updates(self, name: str) -> float:
        """ΔT in gradient updates of a network, one a step where their number depends on the length of episodes."""
        interval, unit = read_clock(self.topology_interval, "topology_interval")
        if unit == UPDATES:
            return interval
        return max(1.0, interval * (self._updates_per_step(name) or 1.0) / self._describe_update().periods[name])

    def _end_of_evolution(self, name: str, evolver: TopologyEvolver, first: int, rate: float) -> float:
        """Environment step at which the evolution of a network's topology ends."""
        if self.topology_end is None:
            return self._total_timesteps
        end, unit = read_clock(self.topology_end, "topology_end")
        step: float = end
        if unit == UPDATES:
            step = first + (end - evolver.counters["updates"]) * self._describe_update().periods[name] / rate
        return min(self._total_timesteps, step)

    def _updates_per_step(self, network: str | None = None) -> float | None:
        """Gradient updates per environment step; None if that depends on the length of episodes.

        :param network: count those of a network; None: all
        """
        interval = None if network == "actor" else self.offline_interval  # it is at rest in offline phases
        offline = 0.0 if interval is None else self.offline_updates / interval
        if self.gradient_steps < 0:
            return 1.0 + offline
        train_freq = cast(TrainFreq, self.train_freq)
        if train_freq.unit == TrainFrequencyUnit.EPISODE:
            return None
        return self.gradient_steps / (train_freq.frequency * self.n_envs) + offline
