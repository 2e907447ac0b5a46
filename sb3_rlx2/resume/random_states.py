"""The states of the global random generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch as th


def random_states() -> dict[str, Any]:
    """Read the states of the global generators of Python, NumPy and PyTorch (CPU and GPUs in use)."""
    version, words, gauss = random.getstate()
    return {
        "python": [version, np.array(words, dtype=np.uint64), gauss],
        "numpy": np.random.get_state(legacy=False),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() and th.cuda.is_initialized() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what ``random_states`` read.

    :param states: what it returned
    """
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"])
    if states["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all(states["cuda"])
