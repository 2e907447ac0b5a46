"""Which algorithm saved a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKAGE = __name__.partition(".")[0]

# Files of Stable-Baselines3 do not name their algorithm: what only this one keeps. DDPG is a TD3 with other settings
MARKS: Mapping[str, frozenset[str]] = {
    "QRDQN": frozenset({"exploration_rate", "max_grad_norm", "n_quantiles"}),
    "DQN": frozenset({"exploration_rate", "max_grad_norm"}),
    "TD3": frozenset({"policy_delay", "target_policy_noise", "target_noise_clip"}),
    "TQC": frozenset({"top_quantiles_to_drop_per_net"}),  # and all of SAC's
    "SAC": frozenset({"ent_coef", "target_entropy", "target_update_interval"}),
    "CrossQ": frozenset({"ent_coef", "target_entropy", "policy_delay"}),
}


def algorithm_name(algorithm: type) -> str:
    """The name that files give to an algorithm of this package: that of the first of its classes that is the package's.

    :param algorithm: the algorithm, or a class derived from it elsewhere
    :return: such as ``"RLx2TD3"``
    """
    return next(cls.__name__ for cls in algorithm.__mro__ if cls.__module__.partition(".")[0] == PACKAGE)


def algorithm_that_saved(attributes: Mapping[str, Any]) -> str | None:
    """The name of the algorithm that saved a model.

    :param attributes: what the file has in ``data``, as JSON
    :return: such as ``"RLx2TD3"`` or ``"TD3"``; None: an algorithm that is not known here
    """
    if "algorithm_name" in attributes:
        name = attributes["algorithm_name"]
        return name if isinstance(name, str) else None
    prefix = "RLx2" if "checkpoint_format" in attributes else ""  # saved before files named their algorithm
    return next((f"{prefix}{name}" for name, marks in MARKS.items() if marks <= attributes.keys()), None)
