"""Dense networks made sparse, and back."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import torch as th
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from sb3_rlx2.sparse.allocation import AllocationName, Shape, allocate
from sb3_rlx2.sparse.checks import check_sparsity
from sb3_rlx2.sparse.layers import ConnectionsName, SparseLinear, WeightScale, choose_connections
from sb3_rlx2.sparse.reachability import connect_outputs, stages_of, stages_problem
from sb3_rlx2.sparse.units import Stages, connection_mask, is_linear_layer

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def sparse_layers(module: nn.Module) -> dict[str, SparseLinear]:
    """The sparse layers of a module by name, each once, in the order of ``named_modules``.

    :param module: any network
    """
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, SparseLinear)}


def linear_layers(module: nn.Module, exclude: Collection[nn.Module] = ()) -> dict[str, nn.Linear | SparseLinear]:
    """The linear layers of a module by name, dense and sparse, each once, in the order of ``named_modules``.

    Subclasses of ``torch.nn.Linear`` are left out, as other code may read their ``weight`` (the output projection of
    ``torch.nn.MultiheadAttention`` is one). A parametrized ``torch.nn.Linear`` (``torch.nn.utils.parametrizations``) is
    not a subclass in this sense.

    :param module: any network
    :param exclude: submodules that are left out, with everything below them, default none
    :raises ValueError: if ``exclude`` holds something else than modules
    """
    return {name: layer for name, layer in _modules_without(module, exclude) if is_linear_layer(layer)}


def _modules_without(module: nn.Module, exclude: Collection[nn.Module]) -> list[tuple[str, nn.Module]]:
    tops = [exclude] if isinstance(exclude, nn.Module) else list(exclude)
    for top in tops:
        if not isinstance(top, nn.Module):
            raise ValueError(f"exclude: {top!r} is not a torch.nn.Module; it must hold modules, not their names")
    excluded = {id(below) for top in tops for below in top.modules()}
    return [(name, layer) for name, layer in module.named_modules() if id(layer) not in excluded]


def sparsify(
    module: ModuleT,
    sparsity: float,
    *,
    allocation: AllocationName = "erdos_renyi",
    connections: ConnectionsName = "magnitude",
    weight_scale: WeightScale = "dense",
    exclude: Collection[nn.Module] = (),
    stages: Stages | None = None,
) -> ModuleT:
    """Replace the linear layers of a network by sparse ones, in place.

    Only layers that are ``torch.nn.Linear`` become sparse. All else stays dense and is not counted: subclasses of it,
    recurrent layers, convolutions, embeddings, and the projections of ``torch.nn.MultiheadAttention`` (a parameter of
    its own and a subclass). A layer that gets all of its connections stays a ``torch.nn.Linear``. One that would lose
    something is an error: hooks, a parametrization (weight norm, spectral norm), a weight or bias shared with another
    module; so is a ``LazyLinear`` whose size is not known yet.

    Layers that are sparse already stay as they are and count: ``sparsity`` is that of all linear layers together when
    it is done. A second call with the same sparsity changes nothing.

    Make optimizers afterwards: the parameters are new ones.

    Where the order of the layers is known (``stages``), every output has a path from some input, which ``connections``
    alone does not promise: the fewest connections move that make it so. In each layer as many come, at positions of
    large weight, as go: of those on no path from an input to an output the ones of smallest weight, and where there is
    none, of those that no output needs. Values are always those of the dense layer. (The algorithm is that of
    ``sb3_rlx2.sparse.paths.reconnect``.)

    :param module: the network, changed in place; it must not be a ``torch.nn.Linear`` itself
        (for a single layer there is ``SparseLinear.from_dense``)
    :param sparsity: fraction of the weights of all linear layers together that are missing, in [0, 1); those of
        ``exclude`` do not count
    :param allocation: ``"erdos_renyi"`` (default) or ``"uniform"``; over the layers that are dense so far
    :param connections: ``"magnitude"`` (default) or ``"random"``, see ``SparseLinear``
    :param weight_scale: ``"dense"`` (default) or ``"fan_in"``, see ``SparseLinear``
    :param exclude: submodules that stay as they are, with everything below them, default none
    :param stages: the linear layers in the order in which data pass them; those of one stage read the same inputs, the
        outputs of the stage before, and count as one layer of their joint width (``allocate``). None (default): the
        order of an ``nn.Sequential`` (``stages_of``); for any other module it is not known
    :return: ``module``
    :raises ValueError: for a sparsity outside [0, 1), one that leaves a layer without a connection or the last stage
        with fewer connections than outputs, or one that cannot be had with the layers that are sparse already, for a
        module without linear layers, for stages that do not follow on one another or hold layers of other modules, or
        for a layer that would lose something or whose size is not known
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}, not a torch.nn.Module")
    if isinstance(module, nn.Linear):
        raise ValueError("`module` is a single torch.nn.Linear: use SparseLinear.from_dense(linear, nnz)")
    for lazy, layer in _modules_without(module, exclude):
        if isinstance(layer, nn.LazyLinear):
            raise ValueError(
                f"layer {lazy!r} is a LazyLinear, whose size is not known yet: run the network once before, "
                "or put it in `exclude`"
            )
    found = linear_layers(module, exclude)
    layers = {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}
    sparse = [layer for layer in found.values() if isinstance(layer, SparseLinear)]
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    stages = stages_of(module) if stages is None else _checked_stages(module, stages)
    name_of: dict[nn.Module, str] = {layer: name for name, layer in layers.items()}
    groups = [[name_of[layer] for layer in layers if layer in name_of] for layers in stages]
    counts = _allocate_beside(sparse, shapes, sparsity, allocation, [group for group in groups if group])
    for layer in stages[-1] if stages else ():
        if (name := name_of.get(layer)) is not None and counts[name] < layer.out_features:
            raise ValueError(
                f"sparsity={sparsity} leaves layer {name!r} {counts[name]} connections for {layer.out_features} "
                "outputs, so that some would depend on no input: choose a lower sparsity or wider layers, or put it in "
                "`exclude`"
            )
    chosen = {name: layer for name, layer in layers.items() if counts[name] < layer.weight.numel()}
    for name, layer in chosen.items():
        reason = _reason_to_stay_dense(layer, module)
        if reason:
            raise ValueError(f"layer {name!r} cannot be sparse: {reason}; put it in `exclude`")
    masks: dict[nn.Module, th.Tensor] = {
        layer: _initial_mask(layer, counts[name], connections) for name, layer in chosen.items()
    }
    _connect(masks, stages)
    replacements: dict[nn.Module, nn.Module] = {
        layer: SparseLinear.from_dense(layer, connections=masks[layer], weight_scale=weight_scale)
        for layer in chosen.values()
    }
    _replace(module, replacements)
    return module


def _allocate_beside(
    sparse: Collection[SparseLinear],
    shapes: Mapping[str, Shape],
    sparsity: float,
    allocation: AllocationName,
    groups: Sequence[Sequence[str]],
) -> dict[str, int]:
    """Connections of the dense layers such that the network has the sparsity together with its sparse layers."""
    if not sparse:
        return allocate(shapes, sparsity, allocation, groups=groups)
    check_sparsity(sparsity)
    weights = sum(out * in_ for out, in_ in shapes.values())
    total = weights + sum(layer.in_features * layer.out_features for layer in sparse)
    kept, wanted = sum(layer.nnz for layer in sparse), round((1.0 - sparsity) * total)
    if not len(shapes) <= wanted - kept <= weights:
        raise ValueError(
            f"sparsity={sparsity} is {wanted} of {total} connections; layers that are sparse already have {kept}, "
            f"which allows {kept + len(shapes)} to {kept + weights}: call densify(module) first, or use `exclude`"
        )
    if not shapes:
        return {}
    try:
        return allocate(shapes, 1.0 - (wanted - kept) / weights, allocation, groups=groups)
    except ValueError as error:
        raise ValueError(
            f"sparsity={sparsity}, {kept} connections in layers that are sparse already: {error}"
        ) from error


def _reason_to_stay_dense(layer: nn.Linear, module: nn.Module) -> str | None:
    """What a layer would lose if a sparse one took its position; None: nothing."""
    parameters = {name: p for name, p in layer._parameters.items() if p is not None}
    if is_parametrized(layer) or "weight" not in parameters:
        return "the parametrization of its weight or bias would be lost"
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if any(hooks) or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters.values()):
        return "its hooks would be lost"
    for other in module.modules():
        for name, parameter in parameters.items():
            if other is not layer and any(p is parameter for p in other.parameters(recurse=False)):
                return f"another module shares its {name}"
    return None


def _checked_stages(module: nn.Module, stages: Stages) -> Stages:
    problem = stages_problem(stages)
    if problem is None and not {layer for layers in stages for layer in layers} <= set(module.modules()):
        problem = "a layer is none of the module's"
    if problem is not None:
        raise ValueError(f"stages: {problem}")
    return stages


def _initial_mask(layer: nn.Linear, nnz: int, connections: ConnectionsName) -> th.Tensor:
    shape = (layer.out_features, layer.in_features)
    mask = th.zeros(shape, dtype=th.bool, device=layer.weight.device)
    mask.view(-1)[choose_connections(layer.weight.detach().reshape(-1), nnz, shape, connections)] = True
    return mask


def _connect(masks: dict[nn.Module, th.Tensor], stages: Stages) -> None:
    """Move connections of layers that become sparse, in place, so that every output has a path."""
    if not (stages and masks):
        return
    arrays = [[masks.get(layer, connection_mask(layer)).cpu().numpy() for layer in layers] for layers in stages]
    weights = [[layer.weight.detach().cpu().double().numpy() for layer in layers] for layers in stages]
    movable = [[layer in masks for layer in layers] for layers in stages]
    connected = connect_outputs(arrays, weights, movable)
    for layer, array in zip(itertools.chain(*stages), itertools.chain(*connected), strict=True):
        if layer in masks:
            masks[layer].copy_(th.from_numpy(array))


def densify(module: ModuleT) -> ModuleT:
    """Replace the sparse layers of a network by dense ones with the same outputs, in place.

    :param module: the network, changed in place
    :return: ``module``
    :raises ValueError: if it is a sparse layer itself
    """
    if isinstance(module, SparseLinear):
        raise ValueError(
            "module is a SparseLinear, which cannot be replaced in place: its to_dense() is the dense layer"
        )
    _replace(module, {layer: layer.to_dense() for layer in sparse_layers(module).values()})
    return module


def dense_state_dict(module: nn.Module) -> dict[str, th.Tensor]:
    """The state dict that ``densify(module)`` would have; the module stays as it is.

    :param module: a network with sparse layers
    :return: detached tensors by name; those of sparse layers are copies
    """
    state = dict(module.state_dict())
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, SparseLinear):
            prefix = f"{name}." if name else ""
            del state[prefix + "values"], state[prefix + "indices"]
            state[prefix + "weight"] = layer.to_dense().weight.detach()
    return state


def _parents(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in module.modules():
        for name, child in parent._modules.items():
            if child is not None:
                yield parent, name, child


def _replace(module: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    for parent, name, child in list(_parents(module)):
        if child in replacements:
            setattr(parent, name, replacements[child].train(child.training))
