"""The random numbers of updates: those that Stable-Baselines3's ``train`` would draw, in its order."""

from __future__ import annotations

import torch as th

BLOCK = 16
"""PyTorch fills so many numbers at once: tensors of a multiple of it get the same numbers together and one by one."""


def fill_normal(noise: th.Tensor, std: float) -> None:
    """Draw normal noise for some updates, as if a tensor for each was drawn.

    :param noise: filled, [updates, batch, width] float32, contiguous
    :param std: standard deviation
    """
    if noise.size(0) == 1 or noise[0].numel() % BLOCK == 0:
        noise.normal_(0, std)
        return
    for of_update in noise:
        of_update.normal_(0, std)
