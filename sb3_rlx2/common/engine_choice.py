"""Which code computes a model's updates."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from stable_baselines3.common.buffers import ReplayBuffer

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.common.saving.buffer_checks import layout_problem
from sb3_rlx2.engine.description import UpdateDescription
from sb3_rlx2.engine.support import why_not_updates
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.sparse import resolve_rule

Engine = Literal["auto", "compiled", "torch"]
ENGINES = ("auto", "compiled", "torch")
BUFFERS = (ReplayBuffer, DynamicReplayBuffer)


class EngineChoice:
    """The engine that computes a model's updates, by exact rule: the same model always gets the same one.

    :param model: an RLx2 algorithm
    :param trains: the class whose ``train`` chooses the engine, and the one whose ``train`` is what it stands for
    :raises ValueError: if the replay buffer does not fit the model, or if the compiled engine was asked for and does
        not cover the model
    """

    def __init__(self, model: Any, trains: tuple[type, type]) -> None:
        self._watch = Watch()
        self._policy, self._updates_class, self._verbose = model.policy, model.updates_class, model.verbose
        self._description: UpdateDescription = model._describe_update()
        self._coefficient_optimizer = vars(model).get("ent_coef_optimizer")
        problem = layout_problem(self._watch, model)
        if problem is not None:
            raise ValueError(f"the replay buffer {problem}")
        engine = self._watch.item(vars(model), "engine")
        self.reason: str | None
        """Why it is not the compiled engine; None if it is."""
        self.reason = "engine='torch'" if engine == "torch" else _why_not_compiled(self._watch, model, trains)
        if engine == "compiled" and self.reason is not None:
            raise ValueError(
                f"engine='compiled' does not cover this {type(model).__name__}: {self.reason}. "
                "With engine='auto' SB3's own train() computes what it does not cover"
            )

    @property
    def holds(self) -> bool:
        """Whether everything that the choice rests on is still as it was."""
        return self._watch.holds

    @cached_property
    def updates(self) -> Updates:
        """The compiled updates; made when first needed, since that fills the optimizers' states."""
        further = {} if self._coefficient_optimizer is None else {"coefficient": self._coefficient_optimizer}
        updates: Updates = self._updates_class(self._policy, self._description, further, self._verbose)
        return updates

    def __str__(self) -> str:
        return "Engine: compiled" if self.reason is None else f"Engine: torch ({self.reason})"


def _why_not_compiled(watch: Watch, model: Any, trains: tuple[type, type]) -> str | None:
    is_asked_for = watch.item(vars(model), "engine") == "compiled"
    if not resolve_rule(watch.item(vars(model), "topology")).sparse and not is_asked_for:
        return "topology='dense'"
    classes = [cls for cls in watch.type_of(model).__mro__ if "train" in vars(cls)]
    stands_for = next(cls for cls in trains[1].__mro__ if "train" in vars(cls))
    if classes[:2] != [trains[0], stands_for]:
        return f"{classes[0].__name__} has a train of its own"
    return why_not_updates(watch, model, BUFFERS, is_asked_for)
