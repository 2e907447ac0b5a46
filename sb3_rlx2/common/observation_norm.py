"""Observations normalized by statistics that run along with training, as part of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_rlx2.engine.programs import NotCoveredError, Program
from sb3_rlx2.kernels.observation_norm import update_statistics
from sb3_rlx2.sparse.checks import check_number

Array = npt.NDArray[Any]

LEAST = 1e-20
STATISTICS = ("mean", "variance", "count")


class ObservationNorm(FlattenExtractor):
    """A features extractor that normalizes observations by their running mean and variance.

    ``(x - mean) / sqrt(variance + epsilon)``, within ``-clip .. clip`` (Running Statistics Normalization, SimBa, Lee et
    al., 2025, https://arxiv.org/abs/2410.09754, section 4.1; the bound is that of ``VecNormalize``). The statistics are
    buffers in double precision, which a state dict holds. They change where ``update`` is called and nowhere else: a
    forward pass, training or not, reads them.

    :param observation_space: a ``Box`` that is no image
    :param epsilon: what is added to the variance, at least 1e-20, default 1e-8
    :param clip: the largest magnitude of a normalized observation, at least 1e-20, default 10
    :raises ValueError: for another space, or a number out of range
    """

    mean: th.Tensor
    variance: th.Tensor
    count: th.Tensor

    def __init__(self, observation_space: spaces.Space[Any], epsilon: float = 1e-8, clip: float = 10.0) -> None:
        if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
            raise ValueError(
                f"observation_space={observation_space} is not allowed: normalized by running statistics are vectors "
                "(Box, no images); take CnnPolicy or MultiInputPolicy for other observations"
            )
        super().__init__(observation_space)
        self.epsilon, self.clip = check_number(epsilon, "epsilon", LEAST), check_number(clip, "clip", LEAST)
        size = self.features_dim
        self.register_buffer("mean", th.zeros(size, dtype=th.float64))
        self.register_buffer("variance", th.ones(size, dtype=th.float64))
        self.register_buffer("count", th.zeros((), dtype=th.float64))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Normalize.

        :param observations: [n, ...]
        :return: [n, features_dim]
        """
        x = super().forward(observations)
        # Float32 could not tell apart observations far from zero
        normalized = (x.double() - self.mean) * (self.variance + self.epsilon).rsqrt()
        return normalized.clamp(-self.clip, self.clip).to(x.dtype)

    def add_to_program(self, program: Program, value: int) -> int:
        """Append it to a program of the compiled engine; what it reads may have further features, which are copied.

        :param program: the program so far
        :param value: number of the value that it reads
        :return: number of the value that it returns
        """
        if value != 0:
            raise NotCoveredError("a normalization of something else than observations")
        return program.add("observation_norm", [value], program.widths[value], self)

    def update(self, observations: Array) -> None:
        """Count some observations in.

        :param observations: [n, ...], finite
        """
        x = np.ascontiguousarray(observations, np.float64)
        held = [cast(th.Tensor, self._buffers[name]) for name in STATISTICS]
        on_cpu = [tensor.to("cpu", th.float64) for tensor in held]  # the very tensors, if they are there
        addresses = [tensor.data_ptr() for tensor in on_cpu]
        update_statistics(x.ctypes.data, x.size // self.features_dim, self.features_dim, *addresses)
        for tensor, updated in zip(held, on_cpu, strict=True):
            if updated is not tensor:
                tensor.copy_(updated)


def statistics_problem(name: str, module: nn.Module, given: Mapping[str, th.Tensor]) -> str | None:
    """Say why a state dict holds no statistics of observations that can be; None if it does.

    :param name: of the module, as keys begin with it
    :param module: whose state dict it is to be, and has the shapes of
    :param given: the state dict, which may lack some
    """
    found: dict[str, th.Tensor] = {}
    for prefix, norm in module.named_modules(remove_duplicate=False):
        for key in STATISTICS if isinstance(norm, ObservationNorm) else ():
            full = f"{prefix}.{key}".lstrip(".")
            tensor = given.get(full)
            if tensor is None:
                continue
            if key != "mean" and bool((tensor < 0).any()):
                return f"{name}.{full} has negative numbers"
            # All networks of a policy share them
            if not th.equal(found.setdefault(key, tensor).cpu(), tensor.cpu()):
                return f"{name}.{full} is not that of the other networks"
    return None
