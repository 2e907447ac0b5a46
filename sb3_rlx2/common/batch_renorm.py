"""Batch renormalization that has a gradient for units that are the same in all of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from sb3_rlx2.engine.programs import Program, batch_renorm


class BatchRenorm(BatchRenorm1d):
    """sb3-contrib's ``BatchRenorm1d``, bit for bit, but for the gradient where a feature does not vary in a batch.

    After the warm-up the result depends on the root of the batch's variance, whose slope is infinite at 0: there
    sb3-contrib's gradient is NaN. Dead units are like that, and so are units without inputs, of which sparse networks
    have many. Here the slope counts as 0.

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
        if not self.training or bool(self.steps <= self.warmup_steps):
            return super().forward(x)
        mean, variance = x.mean(dim=0), x.var(dim=0)
        running_std = (self.ra_var + self.eps).sqrt()
        with th.no_grad():
            r = ((variance + self.eps).sqrt() / running_std).clamp(1 / self.rmax, self.rmax)
            d = ((mean - self.ra_mean) / running_std).clamp(-self.dmax, self.dmax)
            self.ra_mean += self.momentum * (mean - self.ra_mean)
            self.ra_var += self.momentum * (variance - self.ra_var)
            self.steps += 1
            varies = variance > 0
        std = th.where(varies, variance, 1.0).sqrt() * varies
        normalized = (x - (mean - d * std / r)) / (variance / r**2 + self.eps).sqrt()
        return self.scale * normalized + self.bias if self.affine else normalized

    def add_to_program(self, program: Program, value: int) -> int:
        """Append it to a program, as it is in evaluation mode.

        :param program: the program so far
        :param value: number of the value that it reads
        :return: number of the value that it returns
        """
        return batch_renorm(program, self, value)


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


def with_gradients_everywhere(network: nn.Module) -> None:
    """Put ``BatchRenorm`` in the place of each ``BatchRenorm1d``, with the same parameters and statistics.

    :param network: such as an actor or a critic
    """
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if type(child) is BatchRenorm1d:
                renorm = BatchRenorm(child.num_features, child.eps, child.momentum, child.affine, child.warmup_steps)
                renorm._parameters, renorm._buffers = child._parameters, child._buffers
                parent._modules[name] = renorm
