"""Parameters that are put into a model: all of them fit, or nothing is changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from sb3_rlx2.common.batch_renorm import renorm_problem
from sb3_rlx2.common.observation_norm import statistics_problem
from sb3_rlx2.common.saving.model_files import naming_model, opened_as_zip, read_saved_names
from sb3_rlx2.common.saving.state_checks import optimizer_problems, tensor_problem
from sb3_rlx2.engine.support import why_not_policy
from sb3_rlx2.engine.watch import Watch
from sb3_rlx2.errors import CheckpointMismatchError
from sb3_rlx2.sparse.layers import SparseLinear, index_problem


class CheckedParameters(BaseAlgorithm):
    """Makes ``set_parameters`` of an algorithm check names, shapes and connections before it changes anything."""

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
        trusted: bool | None = None,
    ) -> None:
        """Load parameters in place, as in SB3, but only if all of them fit.

        :param load_path_or_dict: path of a saved model, or parameters as ``get_parameters`` returns them
        :param exact_match: whether every parameter must be given, default True
        :param device: where to load to, default ``"auto"``
        :param trusted: as for ``load``, default None
        :raises CheckpointMismatchError: if they do not fit this model's networks, or hold numbers that cannot be;
            nothing is changed then
        :raises ModelFileError: if a file is no model, or not whole
        """
        if not isinstance(load_path_or_dict, dict):
            with naming_model(load_path_or_dict, type(self)), opened_as_zip(load_path_or_dict, trusted) as (file, _):
                read_saved_names(file)
                saved = load_from_zip_file(file, device=device, load_data=False)[1]
                self.set_parameters(cast(dict[str, Any], saved), exact_match, device)
            return
        params = load_path_or_dict
        before = copy.deepcopy(self.get_parameters()) if self._budgets_move() else None
        self._follow_budgets(params)
        problems = list(self._misfits(params, exact_match))
        if problems:
            if before is not None:
                self._follow_budgets(before)
                super().set_parameters(cast(dict[str, Any], before), True, device)
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
                    state.update({key: entry.detach().clone() for key, entry in state.items() if th.is_tensor(entry)})

    def _budgets_move(self) -> bool:
        """Whether a layer may have another number of connections than it was made with."""
        return False

    def _follow_budgets(self, params: dict[str, Any]) -> None:
        """Give layers as many connections as they have in the parameters, where a rule's budget moves."""

    def _misfits(self, params: dict[str, Any], exact_match: bool) -> Iterator[str]:
        """What of the given parameters differs from the model's own in names, shapes or connections."""
        names = self._get_torch_save_params()[0]
        # Of other networks some parameters may never have had a gradient
        is_plain = why_not_policy(Watch(), self.policy, type(self.policy)) is None
        if exact_match:
            yield from (f"{name} is missing" for name in names if name not in params)
            yield from (f"{name} is unexpected" for name in params if name not in names)
        for name, given in params.items():
            own = recursive_getattr(self, name, None)
            if isinstance(own, th.optim.Optimizer):
                yield from optimizer_problems(name, own, given, all_take_part=is_plain)
            elif isinstance(own, th.nn.Module) and not isinstance(given, dict):
                yield f"{name} is a {type(given).__name__}, not a state dict"
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
    problems = {key: problem for key in shared if (problem := tensor_problem(given[key], own[key])) is not None}
    yield from (f"{name}.{key} {problem}" for key, problem in problems.items())
    for find in (statistics_problem, renorm_problem) if not problems else ():
        if (problem := find(name, module, given)) is not None:
            yield problem
    for layer_name, layer in module.named_modules(remove_duplicate=False):
        key = f"{layer_name}.indices"
        if not isinstance(layer, SparseLinear) or key not in own or key in problems:
            continue
        problem = index_problem(given.get(key, own[key]), layer.nnz, layer.in_features * layer.out_features)
        if problem is not None:
            yield f"{name}.{key}: {problem}"
        network, _, rest = key.partition(".")
        target = f"{network}_target.{rest}"
        if (
            target in own
            and target not in problems
            and not th.equal(given.get(key, own[key]).cpu(), given.get(target, own[target]).cpu())
        ):
            yield f"{name}.{target} has other connections than {name}.{key}"
