"""Tensors and states of optimizers that are put into a model: their kinds and shapes, and numbers that can be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, cast

import torch as th

NEVER_NEGATIVE = {"step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "sum"}
"""Entries of the state of PyTorch's optimizers that count, or average or sum squares or magnitudes."""

# Of an optimizer's options: float32 holds its square
MOST = math.sqrt(th.finfo(th.float32).max)


def tensor_problem(given: Any, own: th.Tensor) -> str | None:
    """Say why a tensor cannot take another one's place; None if it can.

    :param given: what is given
    :param own: the tensor whose place it is to take, of any shape; numbers may have another precision
    """
    if not isinstance(given, th.Tensor):
        return f"is a {type(given).__name__}, not a tensor"
    if given.layout != th.strided or given.is_quantized or given.device.type == "meta":
        return f"is no ordinary tensor ({given.layout}, {given.dtype}, on {given.device})"
    if given.shape != own.shape:
        return f"is {tuple(given.shape)}, expected {tuple(own.shape)}"
    if given.is_floating_point() != own.is_floating_point():
        expected = "a floating-point type" if own.is_floating_point() else "integers"
        return f"is of type {given.dtype}, expected {expected}"
    if not own.is_floating_point():
        return None
    # Not finite any more, too, if it does not fit into the other precision
    bad = int((~given.to(own.dtype).isfinite()).sum())
    return f"has {bad} of {given.numel()} numbers that are NaN or infinite" if bad else None


def optimizer_problems(name: str, optimizer: th.optim.Optimizer, given: Any, all_take_part: bool) -> Iterator[str]:
    """What of a state dict does not fit an optimizer, or cannot be.

    :param name: how to call the optimizer
    :param optimizer: the optimizer
    :param given: the state dict
    :param all_take_part: whether each of its parameters takes part in every step, so that all have a state or none has
    """
    problem = _form_problem(optimizer, given)
    if problem is not None:
        yield f"{name} {problem}"
        return
    groups, states = given["param_groups"], given["state"]
    problems = [f"{name}.param_groups{problem}" for problem in _option_problems(optimizer, groups)]
    yield from problems
    if problems:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with_state = {number for number, state in states.items() if state != {}}
    if all_take_part and with_state and len(with_state) < len(parameters):
        yield f"{name} has state of {len(with_state)} of {len(parameters)} parameters"
    expected = _state_after_a_step(optimizer, groups)
    for number, state in states.items():
        if number not in range(len(parameters)):
            yield f"{name} has state of parameter {number!r}, and there are {len(parameters)}"
        elif not isinstance(state, dict):
            yield f"{name} has state of parameter {number} that is a {type(state).__name__}, not a dict"
        elif expected is not None and set(state) != set(expected[number]):
            had = ", ".join(sorted(map(str, state))) or "no state"
            yield f"{name} has {had} of parameter {number}, expected {', '.join(sorted(expected[number]))}"
        else:
            for key, entry in state.items():
                own = parameters[number] if expected is None else expected[number][key]
                problem = _entry_problem(key, entry, own, is_known=expected is not None)
                if problem is not None:
                    yield f"{name}.{key} {problem} (of parameter {number})"


def _form_problem(optimizer: th.optim.Optimizer, given: Any) -> str | None:
    if not isinstance(given, dict):
        return f"is a {type(given).__name__}, not a state dict"
    missing = [key for key in ("state", "param_groups") if key not in given]
    groups = given.get("param_groups", [])
    are_dicts = isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    missing += ["param_groups' params" for group in groups if are_dicts and "params" not in group]
    if missing:
        return f"lacks its {' and its '.join(missing)}"
    if not are_dicts or not all(isinstance(group["params"], list) for group in groups):
        return "has param_groups that are no list of dicts with a list of params"
    sizes = [[len(group["params"]) for group in some] for some in (groups, optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        return f"has parameter groups of sizes {sizes[0]}, expected {sizes[1]}"
    numbers = [number for group in groups for number in group["params"]]
    if numbers != list(range(len(numbers))):
        return f"has params {numbers}, expected 0 .. {len(numbers) - 1} in order"
    if not isinstance(given["state"], dict):
        return f"has a state that is a {type(given['state']).__name__}, not a dict"
    return None


def _option_problems(optimizer: th.optim.Optimizer, groups: list[dict[str, Any]]) -> Iterator[str]:
    """Switches are the optimizer's own; numbers are ones that its constructor takes."""
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        bad = False
        for key, value in own.items():
            if key in ("params", "param_names"):
                continue
            is_switch = value is None or isinstance(value, bool)
            if key not in group:
                # load_state_dict sets switches that older versions did not have
                problem = None if is_switch else "is missing"
            elif is_switch:
                problem = None if group[key] is value else f"is {group[key]!r}, expected {value!r}"
            else:
                problem = _number_problem(group[key], value)
            if problem is not None:
                bad = True
                yield f"[{number}][{key!r}] {problem}"
        if not bad:
            try:
                cast(Any, type(optimizer))([th.zeros(1, requires_grad=True)], **_constructor_options(optimizer, group))
            except Exception as error:
                yield f"[{number}]: {error}"


def _number_problem(given: Any, own: Any) -> str | None:
    if isinstance(own, (tuple, list)):
        if not isinstance(given, (tuple, list)) or len(given) != len(own):
            return f"is {given!r}, expected {len(own)} numbers"
        return next(filter(None, map(_number_problem, given, own)), None)
    if isinstance(own, Real):
        is_number = not isinstance(given, bool) and isinstance(given, Real)
        if not (is_number and abs(given) <= MOST):
            return f"is {given!r}, expected a finite number that float32 can hold the square of"
    return None


def _constructor_options(optimizer: th.optim.Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(type(optimizer)).parameters
    options = {key: value for key, value in group.items() if key in known and key != "params"}
    if "lr" in options:  # where the last rollout goes beyond the planned steps, a linear schedule goes below 0
        options["lr"] = abs(options["lr"])
    return options


def _state_after_a_step(optimizer: th.optim.Optimizer, groups: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """What the optimizer's state of each parameter looks like once it has made a step; None if that is not known."""
    probes = [
        [th.zeros_like(parameter, requires_grad=True) for parameter in group["params"]]
        for group in optimizer.param_groups
    ]
    for probe in (probe for group in probes for probe in group):
        probe.grad = th.zeros_like(probe)
    try:
        options = [_constructor_options(optimizer, group) for group in groups]
        copy = cast(Any, type(optimizer))([{**a, "params": b} for a, b in zip(options, probes, strict=True)])
        with th.no_grad():
            # Without the hooks that listen to every optimizer's step
            inspect.unwrap(type(copy).step)(copy)
    except Exception:  # an optimizer that is made or takes steps in another way
        return None
    return [dict(copy.state[probe]) for group in probes for probe in group]


def _entry_problem(key: str, entry: Any, own: Any, is_known: bool) -> str | None:
    """Say what is wrong with an entry of a parameter's state; None if nothing is.

    :param key: name of the entry
    :param entry: what is given
    :param own: what the optimizer itself would have there; the parameter, if that is not known
    :param is_known: whether it is known
    """
    if isinstance(entry, th.Tensor):
        entry = entry.detach()
        # State of vectors (values of sparse layers, biases) has their shape; that of matrices may be factored
        compared = is_known or entry.dim() == own.dim() == 1
        problem = tensor_problem(entry, own if compared and isinstance(own, th.Tensor) else entry)
        if problem is not None:
            return problem
    elif type(entry) is not bool and isinstance(entry, Real):
        if is_known and isinstance(own, th.Tensor) and key != "step":
            return f"is {entry!r}, not a tensor"
        if not math.isfinite(entry):
            return f"is {entry!r}, expected a finite number"
    elif not (entry is None and (own is None or not is_known)):
        return f"is a {type(entry).__name__}, not a tensor or a number"
    if entry is not None and key in NEVER_NEGATIVE and bool((th.as_tensor(entry) < 0).any()):
        return "has negative numbers"
    if key == "step" and (step := float(th.as_tensor(entry).detach())) % 1 != 0:
        return f"is {step}, expected a whole number"
    return None
