"""Collecting the gradient of a sparse layer's weight at all positions, present and absent."""

from __future__ import annotations

import torch as th


class DenseGradient:
    """The dense gradient that goes with the gradient now in ``values.grad``.

    It is summed over backward passes just as autograd sums ``values.grad``, and starts anew when the optimizer's
    ``zero_grad`` has cleared that. So what other losses send through the layer (an actor's loss through the critic) is
    not in it when the layer's own loss comes next.

    :param values: the layer's parameter, [nnz]
    """

    def __init__(self, values: th.nn.Parameter) -> None:
        self.values = values
        self.total: th.Tensor | None = None
        self._pass_is_over = True
        self._summed: tuple[th.Tensor | None, int] = (None, 0)  # the gradient after the last pass, and its version
        # Fires once per backward pass, after all uses of the layer in that pass
        self._handle = values.register_post_accumulate_grad_hook(self._end_pass)

    def watch(self, weight: th.Tensor) -> None:
        """Collect what flows back into ``weight``.

        :param weight: [out_features, in_features], made from ``values`` in this forward pass
        """
        weight.register_hook(self._collect)

    def close(self) -> None:
        """Stop collecting."""
        self._handle.remove()

    def _collect(self, grad: th.Tensor) -> None:
        if self._pass_is_over and self._is_cleared:
            self.total = None
        self._pass_is_over = False
        self.total = grad.detach().clone() if self.total is None else self.total + grad.detach()

    @property
    def _is_cleared(self) -> bool:
        """Whether ``values.grad`` was cleared since the last pass, and is not zero because the pass made it so."""
        grad, (summed, version) = self.values.grad, self._summed
        return grad is None or (not grad.any() and (grad is not summed or grad._version != version))

    def _end_pass(self, _: th.Tensor) -> None:
        self._pass_is_over = True
        grad = self.values.grad
        self._summed = grad, 0 if grad is None else grad._version
