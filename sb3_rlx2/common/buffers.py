"""A replay buffer whose capacity follows the policy, with delayed n-step targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_rlx2.common.clocks import UPDATES, Interval, read_clock
from sb3_rlx2.common.finite import FLOAT32_MAX, check_transition
from sb3_rlx2.engine.samples import Samples, draw_samples
from sb3_rlx2.errors import ModelFileError
from sb3_rlx2.sparse.checks import check_count, check_number

Array = npt.NDArray[Any]

# Goes up when a buffer that one version saves can no longer be read by the one before
BUFFER_FORMAT = 1


class DynamicReplayBuffer(NStepReplayBuffer):
    """First-in-first-out replay buffer that can forget its oldest transitions (RLx2, sections 4.2 and 4.3).

    Beside what SB3's ``NStepReplayBuffer`` stores it keeps the behaviour policy's noise-free action at each state.
    Forgetting moves the oldest end forward; the buffer grows again as new transitions come. It works with stock
    SB3 algorithms: pass it as ``replay_buffer_class`` (with ``n_steps`` and ``gamma`` in ``replay_buffer_kwargs``) and
    add a ``DynamicBufferCallback``.

    Counts are in transitions, whatever the number of environments is; only ``size()`` is in rows, as in SB3.

    :param buffer_size: the maximum number of transitions
    :param observation_space: observation space; Dict is not supported
    :param action_space: action space
    :param device: where samples go, default ``"auto"``
    :param n_envs: number of parallel environments, default 1
    :param optimize_memory_usage: not supported, default False
    :param handle_timeout_termination: whether a time limit is no termination (bootstrap from the last state), default
        True
    :param n_steps: number of rewards in the TD target, default 3 (the paper's)
    :param gamma: discount factor, default 0.99
    :param n_steps_delay: number of gradient updates for which targets are 1-step, default 0; or ``(number,
        "timesteps")``, in environment steps. ``n_updates`` and ``num_timesteps`` count them, which RLx2's algorithms
        set, and ``DynamicBufferCallback`` for others
    :param min_size: ``shrink`` never leaves fewer transitions than this, default 0
    :param observation_dtype: type in which floating-point observations are stored, default float32; None: the space's
    :raises ValueError: for n_steps < 1, a negative n_steps_delay or min_size, a Dict observation space, or
        optimize_memory_usage
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 3,
        gamma: float = 0.99,
        n_steps_delay: Interval = 0,
        min_size: int = 0,
        observation_dtype: npt.DTypeLike | None = np.float32,
    ) -> None:
        check_count(buffer_size, "buffer_size", 1)
        check_count(n_steps, "n_steps", 1)
        check_number(gamma, "gamma", 0.0, 1.0)
        read_clock(n_steps_delay, "n_steps_delay")
        check_count(min_size, "min_size", 0)
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(f"{type(self).__name__} does not support Dict observation spaces: {observation_space}")
        if optimize_memory_usage:
            raise ValueError(f"{type(self).__name__} does not support optimize_memory_usage=True")
        super().__init__(
            buffer_size,
            _stored_as(observation_space, observation_dtype),
            action_space,
            device,
            n_envs=n_envs,
            handle_timeout_termination=handle_timeout_termination,
            n_steps=n_steps,
            gamma=gamma,
        )
        self.observation_space = observation_space
        self.n_steps_delay: Interval = n_steps_delay
        self.min_size = min_size
        self.n_updates = 0
        self.noise_free_actions = np.zeros_like(self.actions)
        self._next_noise_free_action: Array | None = None
        self._forgotten_rows = 0
        self._observation_max = FLOAT32_MAX
        if np.issubdtype(self.observations.dtype, np.floating):
            self._observation_max = min(FLOAT32_MAX, float(np.finfo(self.observations.dtype).max))
        self.num_timesteps: int | None = None  # of the model that stores here
        self.last_check = -1
        self.last_distance = math.nan
        self.state_bonus: Callable[[th.Tensor], th.Tensor] | None = None

    # --- how much it holds ---

    def size(self) -> int:
        """Number of rows (one transition of each environment) that it holds, as in SB3's ``ReplayBuffer``."""
        return super().size() - self._forgotten_rows

    @property
    def n_transitions(self) -> int:
        """Number of transitions that it holds: rows times environments."""
        return self.size() * self.n_envs

    @property
    def _oldest_row(self) -> int:
        return ((self.pos if self.full else 0) + self._forgotten_rows) % self.buffer_size

    def rows_held(self) -> Array:
        """Rows of the arrays that hold transitions now, oldest first, [rows]."""
        return (self._oldest_row + np.arange(self.size())) % self.buffer_size

    @property
    def capacity(self) -> int:
        """Number of transitions that it may hold now: the maximum less those forgotten and not yet replaced."""
        return (self.buffer_size - self._forgotten_rows) * self.n_envs

    def shrink(self, fraction: float) -> int:
        """Forget the oldest transitions, but never so many that fewer than ``min_size`` are left.

        :param fraction: fraction of the transitions now held that is to go, in [0, 1]
        :return: number of transitions that went
        :raises ValueError: if the fraction is out of range
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction={fraction!r} is not allowed: 0 <= fraction <= 1")
        spare = self.size() - math.ceil(self.min_size / self.n_envs)
        rows = max(min(int(fraction * self.size()), spare), 0)
        self._forgotten_rows += rows
        return rows * self.n_envs

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        self._forgotten_rows = 0

    # --- what comes in ---

    def set_noise_free_action(self, action: Array | None) -> None:
        """The behaviour policy's action without noise that belongs to the next ``add``.

        Where it is not set, the action itself is stored, which is right for the random first steps.

        :param action: [n_envs, action_dim], scaled to [-1, 1] as stored actions are; None: not set
        """
        self._next_noise_free_action = action

    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment, as in SB3's ``ReplayBuffer``.

        :param obs: observations, [n_envs, ...]
        :param next_obs: those after the step; of an episode that has ended its last ones, not those of the reset
        :param action: actions in [-1, 1], or discrete ones, [n_envs, ...]
        :param reward: [n_envs]
        :param done: whether the episode has ended, [n_envs]
        :param infos: of each environment what its step returned; ``TimeLimit.truncated`` is read
        :raises ValueError: if a number is NaN, infinite or larger than the type that it is stored in; nothing is
            stored then
        """
        check_transition(obs, next_obs, action, reward, step=self.num_timesteps, observation_max=self._observation_max)
        noise_free = action if self._next_noise_free_action is None else self._next_noise_free_action
        self._next_noise_free_action = None
        self.noise_free_actions[self.pos] = noise_free.reshape(self.n_envs, self.action_dim)
        if self.full and self._forgotten_rows:
            self._forgotten_rows -= 1
        self.timeouts[self.pos] = 0.0  # SB3 writes them only where it handles time limits; ``end_cut_episodes`` always
        super().add(obs, next_obs, action, reward, done, infos)

    def end_cut_episodes(self, observation: Array) -> None:
        """Mark episodes that were cut off as truncated, so that no n-step return reaches across the break.

        An environment's newest transition was cut off if it does not lead to ``observation``.

        :param observation: the observation from which collecting goes on, unnormalized, [n_envs, ...]
        """
        if self.size() == 0:
            return
        newest = self.pos - 1
        stored = self.next_observations[newest]
        same = (np.asarray(observation).reshape(stored.shape).astype(stored.dtype) == stored).reshape(self.n_envs, -1)
        cut = ~same.all(axis=1) & (self.dones[newest] == 0)
        self.timeouts[newest][cut] = 1.0

    # --- what goes out ---

    @property
    def n_steps_in_use(self) -> int:
        """Number of steps in the targets of the next update: 1 until ``n_steps_delay`` is over."""
        delay, unit = read_clock(self.n_steps_delay, "n_steps_delay")
        now = self.n_updates if unit == UPDATES else self.num_timesteps or 0
        return self.n_steps if now >= delay else 1

    @property
    def updates_until_delay_ends(self) -> int:
        """Updates after which targets have ``n_steps`` steps; 0 where updates change nothing."""
        delay, unit = read_clock(self.n_steps_delay, "n_steps_delay")
        return max(delay - self.n_updates, 0) if unit == UPDATES else 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Sample uniformly among the transitions held. Nothing changes but NumPy's random state.

        Rewards of n-step returns of ``RLx2SAC``, ``RLx2TQC`` and ``RLx2CrossQ`` have their entropy terms, for actions
        that PyTorch's random state draws.

        :param batch_size: number of transitions
        :param env: normalizes observations and rewards; None (default): they stay as they are
        """
        if self.size() == 0:
            raise ValueError("the replay buffer holds no transitions to sample")
        drawn = np.random.randint(0, self.size(), size=batch_size)
        return self._get_samples((drawn + self.first_drawn) % self.buffer_size, env)

    @property
    def first_drawn(self) -> int:
        """Row of the arrays that is meant where 0 is drawn of ``size()`` numbers."""
        # With nothing forgotten, the same numbers give the same rows as in SB3's own buffer
        return self._oldest_row if self._forgotten_rows else 0

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """n-step targets from the given rows, each with a random environment (RLx2, section 4.2).

        A return stops at a termination (no bootstrap), at a truncation and at the newest transition (both bootstrap
        from the last state reached).
        """
        n_steps = self.n_steps_in_use
        if n_steps == 1:
            return super(NStepReplayBuffer, self)._get_samples(batch_inds, env)
        envs = np.random.randint(0, self.n_envs, size=batch_inds.shape)
        rows = (batch_inds[:, None] + np.arange(n_steps)) % self.buffer_size
        columns = envs[:, None]
        newest = (self.pos - 1) % self.buffer_size
        ends = (self.dones[rows, columns] != 0) | (self.timeouts[rows, columns] != 0) | (rows == newest)
        alive = np.ones(rows.shape, dtype=bool)
        alive[:, 1:] = ~np.logical_or.accumulate(ends[:, :-1], axis=1)
        lengths = alive.sum(axis=1)
        last = rows[np.arange(len(rows)), lengths - 1]

        powers = self.gamma ** np.arange(n_steps + 1, dtype=np.float32)
        rewards = self._normalize_reward(self.rewards[rows, columns], env)
        returns = self.to_torch((rewards * powers[:-1] * alive).sum(axis=1, keepdims=True).astype(np.float32))
        if self.state_bonus is not None:
            sample, step = np.nonzero(alive[:, 1:])
            between = self._observations(self.next_observations[rows[sample, step], envs[sample]], env)
            bonus = self.state_bonus(between).reshape(-1) * self.to_torch(powers[step + 1])
            returns[:, 0].index_add_(0, self.to_torch(sample), bonus)
        terminated = self.dones[last, envs] * (1.0 - self.timeouts[last, envs])
        return ReplayBufferSamples(
            observations=self._observations(self.observations[batch_inds, envs], env),
            actions=self.to_torch(self.actions[batch_inds, envs]),
            next_observations=self._observations(self.next_observations[last, envs], env),
            dones=self.to_torch(terminated.reshape(-1, 1)),
            rewards=returns,
            discounts=self.to_torch(powers[lengths].reshape(-1, 1)),
        )

    def oldest(self, count: int, env: VecNormalize | None = None) -> tuple[th.Tensor, th.Tensor]:
        """The oldest transitions, to compare the current policy with the one that made them.

        :param count: how many transitions; fewer are returned if fewer are held
        :param env: normalizes observations; None (default): they stay as they are
        :return: observations [count, ...] and noise-free actions [count, action_dim], scaled to [-1, 1]
        """
        rows = self.rows_held()[: math.ceil(count / self.n_envs)]
        observations = self.observations[rows].reshape(-1, *self.obs_shape)[:count]
        actions = self.noise_free_actions[rows].reshape(-1, self.action_dim)[:count]
        return self._observations(observations, env), self.to_torch(actions)

    def _observations(self, stored: Array, env: VecNormalize | None) -> th.Tensor:
        return self.to_torch(cast(Array, self._normalize_obs(stored, env)))

    def __getstate__(self) -> dict[str, Any]:
        # The bonus and the count of steps belong to a model, which sets them anew
        of_model = {"state_bonus": None, "num_timesteps": None, "_next_noise_free_action": None}
        return {**self.__dict__, **of_model, "buffer_format": BUFFER_FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        found = state.get("buffer_format", 1)  # before 0.1.0 there was none
        if found != BUFFER_FORMAT:
            raise ModelFileError(
                f"the replay buffer has format {found}, and this version of sb3-rlx2 reads format {BUFFER_FORMAT}: "
                "update sb3-rlx2"
            )
        self.__dict__.update({name: value for name, value in state.items() if name != "buffer_format"})


def held_ranges(buffer: ReplayBuffer) -> list[tuple[int, int]]:
    """Rows of a replay buffer's arrays that hold something that is still needed, as ranges ``(first, end)`` in order.

    :param buffer: a replay buffer of Stable-Baselines3, or a ``DynamicReplayBuffer``
    """
    rows, forgotten = buffer.buffer_size, buffer.__dict__.get("_forgotten_rows", 0)
    first = (buffer.pos if buffer.full else 0) + forgotten
    # With optimize_memory_usage the newest transition leads to the observation of the next row
    end = buffer.pos + (rows if buffer.full else int(buffer.optimize_memory_usage))
    if end - first >= rows:
        return [(0, rows)]
    ranges = [(first, end)] if end <= rows else [(0, end - rows), (first, rows)]
    if first >= rows:
        ranges = [(first - rows, end - rows)]
    return [(start, stop) for start, stop in ranges if start < stop] or [(0, 0)]


def draw(buffer: ReplayBuffer, drawn: Array) -> Samples:
    """Draw the batches of some updates with the very random numbers that ``buffer.sample`` would use.

    :param buffer: a ``ReplayBuffer`` or a ``DynamicReplayBuffer``
    :param drawn: gets rows and environments, [2, updates, batch] int64; all updates have the same number of steps in
        their targets
    """
    newest = (buffer.pos - 1) % buffer.buffer_size
    oldest, n_steps = 0, 1
    if isinstance(buffer, DynamicReplayBuffer):
        oldest, n_steps = buffer.first_drawn, buffer.n_steps_in_use
    draw_samples(buffer.size(), buffer.n_envs, oldest, buffer.buffer_size, drawn)
    return Samples(n_steps, newest)


def _stored_as(space: spaces.Space[Any], dtype: npt.DTypeLike | None) -> spaces.Space[Any]:
    """A space that tells SB3's buffer in which type to store floating-point observations."""
    if dtype is None or not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    stored = np.dtype(dtype)
    if not np.issubdtype(stored, np.floating):
        raise ValueError(f"observation_dtype={dtype!r} is not allowed: it must be a floating-point type or None")
    return spaces.Box(-np.inf, np.inf, shape=space.shape, dtype=stored.type)
