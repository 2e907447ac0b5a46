"""Arguments that say when something happens: a plain number in the argument's own unit, or a number and its unit."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from sb3_rlx2.sparse.checks import check_count

Unit = Literal["updates", "timesteps"]
Interval = int | tuple[int, Unit]
"""``10_000``, or ``(10_000, "timesteps")``."""

UPDATES, TIMESTEPS = "updates", "timesteps"

UNITS: dict[str, Unit] = {
    "topology_interval": "updates",
    "topology_end": "timesteps",
    "n_steps_delay": "updates",
    "buffer_check_interval": "timesteps",
}
"""The unit of a plain number: gradient updates, or environment steps of all environments together."""

LEAST = {"topology_interval": 1, "topology_end": 1, "n_steps_delay": 0, "buffer_check_interval": 1}


class Clock(NamedTuple):
    """A number of gradient updates or environment steps.

    :param number: how many
    :param unit: ``"updates"`` or ``"timesteps"``
    """

    number: int
    unit: Unit


def read_clock(value: Any, name: str) -> Clock:
    """What an argument means.

    :param value: a whole number in the argument's own unit, or ``(number, "updates")`` or ``(number, "timesteps")``; a
        list is as good as a tuple, since YAML and JSON have no tuples
    :param name: the argument, one of ``UNITS``
    :raises ValueError: if it is neither
    """
    if not isinstance(value, (tuple, list)):
        return Clock(check_count(value, name, LEAST[name]), UNITS[name])
    if len(value) != 2 or value[1] not in (UPDATES, TIMESTEPS):
        raise ValueError(
            f"{name}={value!r} is not allowed: it must be a whole number of {UNITS[name]}, or (number, 'updates') or "
            "(number, 'timesteps')"
        )
    return Clock(check_count(value[0], f"{name}[0]", LEAST[name]), value[1])
