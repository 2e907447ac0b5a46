"""Actions for exploring, from the policy's scale [-1, 1] to that of the action space, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_rlx2.kernels.compiled import compiled

Array = npt.NDArray[Any]

_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1.0), np.float32(2.0)


@compiled
def _explore(action: Array, noise: Array, is_noisy: bool, low: Array, width: Array, results: Array) -> None:
    for i in range(len(action)):
        bottom, range_ = low[i % len(low)], width[i % len(low)]
        # Stable-Baselines3 takes what ``predict`` returns back into [-1, 1], which rounds
        unscaled = bottom + (_HALF * (action[i] + _ONE)) * range_
        scaled = _TWO * ((unscaled - bottom) / range_) - _ONE
        if is_noisy:
            scaled = scaled + noise[i]
            if scaled < -_ONE:
                scaled = -_ONE
            elif scaled > _ONE:
                scaled = _ONE  # NaN stays NaN
        results[0, i] = bottom + (_HALF * (scaled + _ONE)) * range_
        results[1, i] = scaled


class Exploration:
    """What Stable-Baselines3's ``_sample_action`` makes of an action that a policy predicts, to the last bit.

    :param space: the action space
    """

    def __init__(self, space: spaces.Box) -> None:
        self._shape = space.shape
        low, width = space.low.ravel(), (space.high - space.low).ravel()
        # Compiled code knows no half precision, in which NumPy computes nothing here but the width
        self._low, self._width = (x.astype(np.float32) if x.dtype == np.float16 else x for x in (low, width))

    def __call__(self, action: Array, noise: Any) -> tuple[Array, Array]:
        """Actions for the environments, and the same in [-1, 1] for the replay buffer.

        :param action: [n_envs, action_dim], in [-1, 1]
        :param noise: an array or what becomes one, added in [-1, 1], by NumPy's rules, and clipped there; None: none
        :return: two arrays [n_envs, *action_space.shape]
        """
        shape, dtype = (len(action), *self._shape), np.result_type(action, self._low)
        is_usual = isinstance(noise, np.ndarray) and noise.dtype == dtype and noise.size == action.size
        if not (noise is None or is_usual):
            noise = np.subtract(noise, np.zeros(shape, dtype))  # in the shape and the type of the sum
            dtype = noise.dtype
        results = np.empty((2, *shape), dtype)
        flat = action.reshape(-1)
        _explore(
            flat,
            flat if noise is None else noise.reshape(-1),
            noise is not None,
            self._low,
            self._width,
            results.reshape(2, -1),
        )
        return results[0], results[1]
