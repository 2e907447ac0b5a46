"""Which transitions make up the batches of some updates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class Samples(NamedTuple):
    """Which transitions make up the batches of some updates, and how.

    :param rows: rows in the replay buffer, [updates, batch] int64
    :param environments: environments, [updates, batch] int64; None: there is but one
    :param n_steps: number of rewards in the target
    :param newest: row of the newest transition
    """

    rows: Array
    environments: Array | None
    n_steps: int
    newest: int
