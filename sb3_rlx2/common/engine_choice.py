"""Which code computes a model's updates."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_rlx2.common.buffers import DynamicReplayBuffer
from sb3_rlx2.engine.coverage import BUFFER_ARRAYS, why_not_updates
from sb3_rlx2.engine.updates import Updates
from sb3_rlx2.sparse import resolve_rule

Engine = Literal["auto", "compiled", "torch"]
ENGINES = ("auto", "compiled", "torch")
BUFFERS = (ReplayBuffer, DynamicReplayBuffer)


class EngineChoice:
    """The engine that computes a model's updates, by exact rule: the same model always gets the same one.

    :param model: an RLx2 algorithm
    :param trains: the class whose ``train`` chooses the engine, and the one whose ``train`` is what it stands for
    :raises ValueError: if the compiled engine was asked for and does not cover the model
    """

    def __init__(self, model: Any, trains: tuple[type, type]) -> None:
        self._parts, self._options = _parts(model), _options(model)
        self._updates_class: type[Updates] = model.updates_class
        self.reason: str | None
        """Why it is not the compiled engine; None if it is."""
        if model.engine == "torch":
            self.reason = "engine='torch'"
            return
        self.reason = _why_not_compiled(model, trains)
        if model.engine == "compiled" and self.reason is not None:
            raise ValueError(
                f"engine='compiled' does not cover this {type(model).__name__}: {self.reason}. "
                "With engine='auto' SB3's own train() computes what it does not cover"
            )

    def holds_for(self, model: OffPolicyAlgorithm) -> bool:
        """Whether the model still has the parts that the choice rests on."""
        parts = _parts(model)
        if self._options != _options(model):
            return False
        return len(parts) == len(self._parts) and all(x is y for x, y in zip(parts, self._parts, strict=True))

    @cached_property
    def updates(self) -> Updates:
        """The compiled updates; made when first needed, since that fills the optimizers' states."""
        policy, _, _, coefficient_optimizer, *_ = self._parts
        return self._updates_class.of(policy, coefficient_optimizer)


def _parts(model: OffPolicyAlgorithm) -> tuple[Any, ...]:
    known: Any = model  # its actor and critic are plain attributes, which are found faster than those of a module
    optimizers = (known.actor.optimizer, known.critic.optimizer, vars(model).get("ent_coef_optimizer"))
    settings = (known.engine, known.topology)
    return (
        model.policy,
        *optimizers,
        known.actor,
        known.critic,
        model.replay_buffer,
        model.get_vec_normalize_env(),
        *(vars(model.replay_buffer).get(name) for name in BUFFER_ARRAYS if model.replay_buffer is not None),
        *settings,
    )


def _options(model: Any) -> list[Any]:
    """What of a model's optimizers and parameters may change while it learns, and matters."""
    options: list[Any] = []
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        group = optimizer.param_groups[0]
        options += [len(optimizer.param_groups), len(optimizer._optimizer_step_pre_hooks)]
        options += [len(optimizer._optimizer_step_post_hooks), group.get("weight_decay"), group.get("amsgrad")]
        options += [parameter.requires_grad for parameter in group["params"]]
        options += [bool(parameter._backward_hooks) for parameter in group["params"]]
    return options


def _why_not_compiled(model: Any, trains: tuple[type, type]) -> str | None:
    if not resolve_rule(model.topology).sparse:
        return "topology='dense'"
    classes = [cls for cls in type(model).__mro__ if "train" in vars(cls)]
    if (*classes[:2],) != trains:
        return f"{classes[0].__name__} has a train of its own"
    return why_not_updates(model, model.covered_policy_class, BUFFERS)
