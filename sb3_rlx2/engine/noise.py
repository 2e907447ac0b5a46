"""The random numbers of updates: those that Stable-Baselines3's ``train`` would draw, in its order."""

from __future__ import annotations

import torch as th

from sb3_rlx2.engine.samples import Samples

BLOCK = 16
"""PyTorch fills so many numbers at once: tensors of a multiple of it get the same numbers together and one by one."""


def normal_noise(samples: Samples, width: int, std: float) -> th.Tensor:
    """Normal noise for some updates, as if a tensor for each was drawn.

    :param samples: transitions of the updates, [updates, batch]
    :param width: numbers for each transition
    :param std: standard deviation
    :return: [updates, batch, width] float32
    """
    updates, batch = samples.rows.shape
    noise = th.empty((updates, batch, width), dtype=th.float32, device="cpu")
    if updates == 1 or batch * width % BLOCK == 0:
        return noise.normal_(0, std)
    for of_update in noise:
        of_update.normal_(0, std)
    return noise
