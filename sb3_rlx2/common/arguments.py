"""What algorithms are given: names that may be misspelt, and devices."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection
from typing import Any, cast

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import get_device

from sb3_rlx2.errors import first_line


def did_you_mean(given: str, allowed: Collection[str]) -> str:
    """The end of a message about a misspelt name: the nearest one that is allowed, or nothing.

    :param given: the name that was given
    :param allowed: the names that are allowed
    """
    close = difflib.get_close_matches(given, allowed, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


def is_number(text: str) -> bool:
    """Whether a text is that of a number, as Python reads it.

    :param text: the text
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def constructor_arguments(cls: type) -> set[str]:
    """Names of all arguments of a constructor, and of those that it passes the rest to.

    :param cls: the class
    """
    signatures = [inspect.signature(vars(base)["__init__"]) for base in cls.__mro__[:-1] if "__init__" in vars(base)]
    return {name for signature in signatures for name in signature.parameters}


def check_attributes(cls: type[BaseAlgorithm], given: Collection[str]) -> None:
    """Check the names that ``load`` is to set: arguments of the constructor, or attributes that it sets.

    :param cls: the algorithm's class
    :param given: the names
    :raises ValueError: for the first name that is neither; the message names it and what may have been meant
    """
    allowed = constructor_arguments(cls) - {"self", "args", "kwargs"}
    if allowed.issuperset(given):
        return
    policy = next(iter(cls.policy_aliases.values()))
    unbuilt = cast(Any, cls)(policy=policy, env=None, device="cpu", _init_setup_model=False)
    for name in given:
        if name not in allowed and name not in vars(unbuilt):
            raise ValueError(f"{cls.__name__}.load() got the unknown argument {name!r}{did_you_mean(name, allowed)}")


def check_device(device: th.device | str) -> None:
    """Check that networks can be put on a device. As in Stable-Baselines3, the CPU stands for a GPU that is not there.

    :param device: the device
    :raises ValueError: if there is no such device, or tensors on it hold no numbers
    """
    try:
        found = get_device(device)
        th.empty(1, device=found)
    except Exception as error:  # each backend has its own
        raise ValueError(_not_available(device, error)) from error
    if found.type == "meta":
        raise ValueError("device='meta' is not allowed: tensors on it hold no numbers, so that nothing can be computed")


def check_device_name(device: th.device | str) -> None:
    """Check that a device is one that PyTorch knows, before Stable-Baselines3 asks for it.

    :param device: the device, or ``"auto"``
    :raises ValueError: if it is none
    """
    try:
        th.device("cpu" if device == "auto" else device)
    except Exception as error:
        raise ValueError(_not_available(device, error)) from error


def _not_available(device: th.device | str, error: Exception) -> str:
    return f"device={str(device)!r} is not available: {first_line(error).partition('. ')[0]}"
