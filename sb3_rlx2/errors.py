"""Errors of this package. Every layer may import this module, which imports nothing of ours."""

from __future__ import annotations

import math

__all__ = ["CheckpointMismatchError", "DivergenceError", "ModelFileError"]


class ModelFileError(ValueError):
    """A file that is no model, is not whole, or was saved by a version or an algorithm that does not fit."""


class CheckpointMismatchError(ModelFileError, RuntimeError):
    """Parameters that do not fit the model. A RuntimeError too, as what ``torch.nn.Module.load_state_dict`` raises."""


class DivergenceError(ValueError):
    """Float32 cannot hold a loss, the gradients of one, or a parameter, moment or statistic after an optimizer's step.

    :param loss: name of the loss
    :param value: its value
    :param update: number of the update, counted from 1
    """

    def __init__(self, loss: str, value: float, update: int) -> None:
        self._arguments = (loss, value, update)
        overflow = ", and the step of its optimizer is not finite" if math.isfinite(value) else ""
        super().__init__(
            f"{loss} is {value} at update {update}{overflow}: training has diverged. "
            "Check the rewards and observations, or lower the learning rate"
        )

    def __reduce__(self) -> tuple[type[DivergenceError], tuple[str, float, int]]:
        return type(self), self._arguments


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its class if it says nothing.

    :param error: the exception
    """
    return (str(error) or type(error).__name__).splitlines()[0]
