"""Gradient updates by SB3's own ``train``, each of them made wholly or not at all."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FrameType, TracebackType
from typing import Any, cast

import torch as th
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.topology import attached_evolvers
from sb3_rlx2.common.update_state import UpdateState
from sb3_rlx2.errors import DivergenceError


class WholeUpdates:
    """A context in which SB3's ``train`` makes each update wholly or not at all.

    An update begins with the first step of an optimizer in it, or before with the forward pass that changes running
    statistics. If it raises an exception from then on, all is as it was before that update, and the model's counts are
    those of the updates made. Whatever its numbers cannot hold is a divergence: a loss, and a parameter, moment or
    running statistic after a step of an optimizer.

    :param model: an off-policy algorithm
    :param optimizers: its optimizers in the order in which an update steps them, by the name of the loss
    :param state: where to keep a copy of the model
    :param code: of the ``train`` whose local variables of these names are the losses
    :param periods: every how many updates an optimizer is stepped, by the name of the loss; one that is not named: in
        each step that ``train`` asks for
    :param normalizations: modules with running statistics that updates change, all of them before the step of some
        optimizer; an update begins with the first forward pass of the first one in training mode
    """

    def __init__(
        self,
        model: OffPolicyAlgorithm,
        optimizers: dict[str, th.optim.Optimizer],
        state: UpdateState,
        code: CodeType,
        periods: Mapping[str, int],
        normalizations: Sequence[nn.Module] = (),
    ) -> None:
        self._optimizers = optimizers
        self._first_loss = next(iter(optimizers))
        self._model, self._state, self._code = model, state, code
        self._evolvers = {evolver.optimizer: evolver for evolver in attached_evolvers(model).values()}
        self._normalizations, self._has_begun = normalizations, False
        self._before, self._begun = model._n_updates, 0
        self._handles: list[RemovableHandle] = []
        self._periods = {loss: period for loss, period in periods.items() if loss in optimizers}
        self._own_steps: dict[str, Any] = {}
        self._losses: dict[str, list[float]] = {loss: [] for loss in self._periods}

    def __enter__(self) -> WholeUpdates:
        for loss, optimizer in self._optimizers.items():
            before = optimizer.register_step_pre_hook(partial(self._before_step, loss))
            # Evolution's own comes after it
            cast(Any, optimizer)._optimizer_step_pre_hooks.move_to_end(before.id, last=False)
            after = optimizer.register_step_post_hook(partial(self._after_step, loss))
            self._handles += [before, after]
        for module in self._normalizations[:1]:
            self._handles.append(module.register_forward_pre_hook(self._before_statistics))
        for loss in self._periods:
            attributes = vars(self._optimizers[loss])
            self._own_steps[loss] = attributes.get("step")  # a scheduler may have set one
            attributes["step"] = partial(self._step_if_due, loss, self._optimizers[loss].step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._end(error is not None)
        except KeyboardInterrupt:
            self._end(True)
            raise

    def _end(self, failed: bool) -> None:
        for handle in self._handles:
            handle.remove()
        for loss, step in self._own_steps.items():
            attributes = vars(self._optimizers[loss])
            attributes.pop("step", None)
            attributes |= {} if step is None else {"step": step}
        if failed:
            if self._begun:
                self._state.restore()
            n_updates, buffer = self._before + max(self._begun - 1, 0), self._model.replay_buffer
            self._model._n_updates = n_updates
            if isinstance(buffer, DynamicReplayBuffer):
                buffer.n_updates = n_updates

    def _before_step(self, loss: str, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if loss == self._first_loss:
            self._begin_update()
        value = self._value(loss)
        if not (math.isfinite(value) and _all_finite(self._grown_by(optimizer))):
            raise DivergenceError(loss, value, self._before + self._begun)

    def _before_statistics(self, module: nn.Module, _: Any) -> None:
        if module.training:
            self._begin_update(before_first_step=True)

    def _begin_update(self, before_first_step: bool = False) -> None:
        """Keep the model as it is, unless the update that is at its first step of an optimizer began before that."""
        has_begun, self._has_begun = self._has_begun, before_first_step
        if has_begun:
            return
        self._state.save(self._model, self._optimizers.values())
        self._begun += 1
        buffer = self._model.replay_buffer
        if isinstance(buffer, DynamicReplayBuffer):  # this update's batch has been drawn
            buffer.n_updates = self._before + self._begun

    def _step_if_due(self, loss: str, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        is_first = loss == self._first_loss
        if (self._before + self._begun + is_first) % self._periods[loss] == 0:
            self._losses[loss].append(self._value(loss))
            return step(*args, **kwargs)
        if is_first:
            self._begin_update()
        return None

    def log_losses(self, logger: Logger, before: Mapping[str, Any]) -> None:
        """Log the means of those losses by which an optimizer was stepped, as compiled updates do.

        :param logger: the model's, after ``train`` has logged all of them
        :param before: what it had before
        """
        for loss, values in self._losses.items():
            value = sum(values) / len(values) if values else before.get(f"train/{loss}")
            if value is None:
                logger.name_to_value.pop(f"train/{loss}", None)
            else:
                logger.record(f"train/{loss}", value)

    def _grown_by(self, optimizer: th.optim.Optimizer) -> list[th.Tensor]:
        """Gradients by which connections grow, if the topology evolves in place of an optimizer's step."""
        evolver = self._evolvers.get(optimizer)
        if evolver is None or not evolver.evolves_next:
            return []
        layers = evolver.layers.values()
        gradients = [gradient for layer in layers for gradient in (layer.values.grad, layer.dense_grad)]
        return [gradient for gradient in gradients if gradient is not None]

    def _after_step(self, loss: str, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state = [entry for p in parameters for entry in optimizer.state.get(p, {}).values() if th.is_tensor(entry)]
        statistics = [buffer for module in self._normalizations for buffer in module.buffers()]
        # Counts of steps may be on another device
        if not _all_finite([*parameters, *(entry for entry in [*state, *statistics] if entry.dim() > 0)]):
            raise DivergenceError(loss, self._value(loss), self._before + self._begun)

    def _value(self, loss: str) -> float:
        """A loss of the update that SB3's ``train`` is at, which it tells in no other way."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        value = None if frame is None else frame.f_locals.get(loss)
        return float(value.detach()) if th.is_tensor(value) else 0.0


@th.no_grad()
def _all_finite(tensors: list[th.Tensor]) -> bool:
    # Norms take a single look at all numbers, but they may overflow where the numbers do not
    return (
        not tensors
        or bool(th.stack(th._foreach_norm(tensors)).isfinite().all())
        or all(bool(tensor.isfinite().all()) for tensor in tensors)
    )
