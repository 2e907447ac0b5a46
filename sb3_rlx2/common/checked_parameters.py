"""Parameters that are put into a model: all of them fit, or nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from sb3_rlx2.errors import CheckpointMismatchError
from sb3_rlx2.sparse.layers import SparseLinear, index_problem

ADAM_ENTRIES = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
"""State of Adam and its relatives: the moments have the parameter's shape, and the count of steps is a scalar."""


class CheckedParameters(BaseAlgorithm):
    """Makes ``set_parameters`` of an algorithm check names, shapes and connections before it changes anything."""

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Load parameters in place, as in SB3, but only if all of them fit.

        :param load_path_or_dict: path of a saved model, or parameters as ``get_parameters`` returns them
        :param exact_match: whether every parameter must be given
        :param device: where to load to
        :raises CheckpointMismatchError: if they do not fit this model's networks; nothing is changed then
        """
        params = load_path_or_dict
        if not isinstance(params, dict):
            params = cast(dict[str, Any], load_from_zip_file(params, device=device, load_data=False)[1])
        problems = list(self._misfits(params, exact_match))
        if problems:
            raise CheckpointMismatchError(
                f"the parameters do not fit this {type(self).__name__} (another net_arch, sparsity, topology or "
                f"environment?): {'; '.join(problems[:3])}{' …' if len(problems) > 3 else ''}"
            )
        super().set_parameters(params, exact_match, device)
        for name in params:
            # Optimizer.load_state_dict shares the tensors that it is given
            optimizer = recursive_getattr(self, name)
            if isinstance(optimizer, th.optim.Optimizer):
                for state in optimizer.state.values():
                    state.update({key: entry.clone() for key, entry in state.items() if th.is_tensor(entry)})

    def _misfits(self, params: dict[str, Any], exact_match: bool) -> Iterator[str]:
        """What of the given parameters differs from the model's own in names, shapes or connections."""
        names = self._get_torch_save_params()[0]
        if exact_match:
            yield from (f"{name} is missing" for name in names if name not in params)
            yield from (f"{name} is unexpected" for name in params if name not in names)
        for name, given in params.items():
            own = recursive_getattr(self, name, None)
            if isinstance(own, th.optim.Optimizer):
                yield from _optimizer_misfits(name, own, given)
            elif isinstance(own, th.nn.Module):
                yield from _module_misfits(name, own, given, exact_match)
            else:
                yield f"{name} is no network or optimizer of this model"


def _module_misfits(name: str, module: th.nn.Module, given: dict[str, th.Tensor], exact: bool) -> Iterator[str]:
    own: dict[str, th.Tensor] = module.state_dict()
    if exact:
        yield from (f"{name}.{key} is missing" for key in own if key not in given)
        yield from (f"{name}.{key} is unexpected" for key in given if key not in own)
    shared = [key for key in own if key in given]
    for key in shared:
        if given[key].shape != own[key].shape:
            yield f"{name}.{key} is {tuple(given[key].shape)}, expected {tuple(own[key].shape)}"
    for layer_name, layer in module.named_modules(remove_duplicate=False):
        key = f"{layer_name}.indices"
        if not isinstance(layer, SparseLinear) or key not in own:
            continue
        problem = index_problem(given.get(key, own[key]), layer.nnz, layer.in_features * layer.out_features)
        if problem is not None:
            yield f"{name}.{key}: {problem}"
        network, _, rest = key.partition(".")
        target = f"{network}_target.{rest}"
        if target in own and not th.equal(given.get(key, own[key]).cpu(), given.get(target, own[target]).cpu()):
            yield f"{name}.{target} has other connections than {name}.{key}"


def _optimizer_misfits(name: str, optimizer: th.optim.Optimizer, given: dict[str, Any]) -> Iterator[str]:
    missing = [key for key in ("state", "param_groups") if key not in given]
    missing += ["param_groups' params" for group in given.get("param_groups", ()) if "params" not in group]
    if missing:
        yield f"{name} lacks its {' and its '.join(missing)}"
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sizes = [[len(group["params"]) for group in groups] for groups in (given["param_groups"], optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        yield f"{name} has parameter groups of sizes {sizes[0]}, expected {sizes[1]}"
        return
    for number, entries in given["state"].items():
        if number not in range(len(parameters)):
            yield f"{name} has state of parameter {number!r}, and there are {len(parameters)}"
            continue
        for key, entry in entries.items():
            problem = _entry_problem(key, entry, parameters[number].shape, is_adam="exp_avg" in entries)
            if problem is not None:
                yield f"{name}.{key} is {problem}"


def _entry_problem(key: str, entry: Any, shape: th.Size, is_adam: bool) -> str | None:
    """Say what is wrong with an entry of a parameter's optimizer state; None if it fits the parameter."""
    if not th.is_tensor(entry):
        return None
    if is_adam and key in ADAM_ENTRIES:
        expected = th.Size() if key == "step" else shape
        if entry.shape == expected and not entry.is_floating_point():
            return f"of type {entry.dtype}, expected a floating-point type"
    elif entry.dim() == len(shape) == 1:
        expected = shape  # state of vectors (values of sparse layers, biases); that of matrices may be factored
    else:
        return None
    return None if entry.shape == expected else f"{tuple(entry.shape)}, expected {tuple(expected)}"
