"""Batch renormalization for sparse networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sb3_rlx2.engine.programs import Program, batch_renorm


class BatchRenorm(BatchRenorm1d):
    """Batch renormalization as in sb3-contrib's ``BatchRenorm1d``, in a third of the time, with a gradient everywhere.

    Results and gradients are those of ``BatchRenorm1d`` beyond rounding. After the warm-up they depend on the root of
    the batch's variance, whose slope is infinite at 0: there sb3-contrib's gradient is NaN. Dead units are like that,
    and so are units without inputs, of which sparse networks have many. Here the slope counts as 0.

    Source: Ioffe, "Batch Renormalization", 2017, https://arxiv.org/abs/1702.03275.

    :param num_features: number of features
    :param eps: what is added to variances, default 0.001
    :param momentum: how fast running statistics follow, default 0.01
    :param affine: whether scale and bias are applied, default True
    :param warmup_steps: forward passes in training mode in which it is a plain batch normalization, default 100,000
    """

    ra_mean: th.Tensor
    ra_var: th.Tensor
    steps: th.Tensor

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Normalize.

        :param x: [n, num_features]
        :return: [n, num_features]
        """
        scale, bias = (self.scale, self.bias) if self.affine else (th.ones_like(self.scale), th.zeros_like(self.bias))
        if not self.training:
            return F.batch_norm(x, self.ra_mean, self.ra_var, scale, bias, eps=self.eps)
        with th.no_grad():
            mean = x.mean(dim=0)
            centered = x - mean
            variance = centered.square().sum(dim=0) / (len(x) - 1)
            r, d = th.ones_like(mean), th.zeros_like(mean)
            if self.steps > self.warmup_steps:
                running_std = (self.ra_var + self.eps).sqrt()
                r = ((variance + self.eps).sqrt() / running_std).clamp(1 / self.rmax, self.rmax)
                d = ((mean - self.ra_mean) / running_std).clamp(-self.dmax, self.dmax)
            self.ra_mean += self.momentum * (mean - self.ra_mean)
            self.ra_var += self.momentum * (variance - self.ra_var)
            self.steps += 1
        return cast(th.Tensor, cast(Any, _Renormalized).apply(x, scale, bias, centered, variance, r, d, self.eps))

    def add_to_program(self, program: Program, value: int) -> int:
        """Append it to a program, as it is in evaluation mode.

        :param program: the program so far
        :param value: number of the value that it reads
        :return: number of the value that it returns
        """
        return batch_renorm(program, self, value)


class _Renormalized(th.autograd.Function):
    """``scale (x - mean + d σ / r) / sqrt(σ² / r² + ε) + bias``, where mean and σ are those of the batch x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: th.Tensor,
        scale: th.Tensor,
        bias: th.Tensor,
        centered: th.Tensor,
        variance: th.Tensor,
        r: th.Tensor,
        d: th.Tensor,
        eps: float,
    ) -> th.Tensor:
        std, root = variance.sqrt(), (variance / r**2 + eps).sqrt()
        shift = th.where(d == 0.0, 0.0, d * std / r)  # of an infinite variance too
        rate = scale / root
        ctx.save_for_backward(centered, rate, std, root, r, d, shift)
        return th.addcmul(bias + rate * shift, centered, rate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: th.Tensor) -> tuple[th.Tensor | None, ...]:
        centered, rate, std, root, r, d, shift = ctx.saved_tensors
        n = len(centered)
        of_bias = g.sum(dim=0)
        of_scale = ((g * centered).sum(dim=0) + shift * of_bias) / root
        slope = th.where(std > 0, d / (r * std), 0.0)  # of the shift by the variance, twice
        of_variance = rate * (slope * of_bias - of_scale / (root * r**2)) / 2
        of_centered = 2 / (n - 1) * of_variance
        of_x = th.addcmul(th.addcmul(-rate * of_bias / n, centered, of_centered), g, rate)
        return of_x, of_scale, of_bias, None, None, None, None, None


def renorm_problem(name: str, module: nn.Module, given: Mapping[str, th.Tensor]) -> str | None:
    """Say why a state dict holds no statistics of batch renormalization that can be; None if it does.

    :param name: of the module, as keys begin with it
    :param module: whose state dict it is to be, and has the shapes of
    :param given: the state dict, which may lack some
    """
    for prefix, renorm in module.named_modules(remove_duplicate=False):
        for key in ("ra_var", "steps") if isinstance(renorm, BatchRenorm1d) else ():
            tensor = given.get(f"{prefix}.{key}")
            if tensor is not None and bool((tensor < 0).any()):
                return f"{name}.{prefix}.{key} has negative numbers"
    return None


def replace_batch_renorm(network: nn.Module) -> None:
    """Put ``BatchRenorm`` in the place of each ``BatchRenorm1d``, with the same parameters and statistics.

    :param network: such as an actor or a critic
    """
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if type(child) is BatchRenorm1d:
                renorm = BatchRenorm(child.num_features, child.eps, child.momentum, child.affine, child.warmup_steps)
                renorm._parameters, renorm._buffers = child._parameters, child._buffers
                parent._modules[name] = renorm
