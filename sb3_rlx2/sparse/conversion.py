"""Dense networks made sparse, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeVar

import torch as th
from torch import nn

from sb3_rlx2.sparse.allocation import AllocationName, allocate
from sb3_rlx2.sparse.layers import ConnectionsName, SparseLinear, WeightScale

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def sparse_layers(module: nn.Module) -> dict[str, SparseLinear]:
    """The sparse layers of a module by name, each once, in the order of ``named_modules``."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, SparseLinear)}


def linear_layers(module: nn.Module, exclude: Collection[nn.Module] = ()) -> dict[str, nn.Linear | SparseLinear]:
    """The linear layers of a module by name, dense and sparse, each once, in the order of ``named_modules``.

    Subclasses of ``torch.nn.Linear`` are left out: other code reads their ``weight`` (the output projection of
    ``torch.nn.MultiheadAttention`` is one).

    :param module: any network
    :param exclude: submodules that are left out, with everything below them
    """
    excluded = {id(below) for top in exclude for below in top.modules()}
    return {
        name: layer
        for name, layer in module.named_modules()
        if (type(layer) is nn.Linear or isinstance(layer, SparseLinear)) and id(layer) not in excluded
    }


def sparsify(
    module: ModuleT,
    sparsity: float,
    *,
    allocation: AllocationName = "erdos_renyi",
    connections: ConnectionsName = "magnitude",
    weight_scale: WeightScale = "dense",
    exclude: Collection[nn.Module] = (),
) -> ModuleT:
    """Replace the linear layers of a network by sparse ones, in place.

    A layer that gets all of its connections stays a ``torch.nn.Linear``. Make optimizers afterwards: the parameters
    are new ones.

    :param module: the network, changed in place; it must not be a ``torch.nn.Linear`` itself
        (for a single layer there is ``SparseLinear.from_dense``)
    :param sparsity: fraction of the weights of all linear layers together that are missing, in [0, 1)
    :param allocation: ``"erdos_renyi"`` (default) or ``"uniform"``
    :param connections: ``"magnitude"`` (default) or ``"random"``, see ``SparseLinear``
    :param weight_scale: ``"dense"`` (default) or ``"fan_in"``, see ``SparseLinear``
    :param exclude: submodules that stay as they are, with everything below them
    :return: ``module``
    :raises ValueError: for a sparsity outside [0, 1) or one that leaves a layer without a connection, for a module
        without linear layers, or for a layer with hooks, with a reparametrized weight or with one that another module
        shares
    """
    if isinstance(module, nn.Linear):
        raise ValueError("`module` is a single torch.nn.Linear: use SparseLinear.from_dense(linear, nnz)")
    layers = {name: layer for name, layer in linear_layers(module, exclude).items() if isinstance(layer, nn.Linear)}
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    counts = allocate(shapes, sparsity, allocation)
    chosen = {name: layer for name, layer in layers.items() if counts[name] < layer.weight.numel()}
    for name, layer in chosen.items():
        hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
        if "weight" not in layer._parameters or any(hooks):
            raise ValueError(
                f"layer {name!r} cannot be sparse: its hooks or the reparametrization of its weight would be lost; "
                "put it in `exclude`"
            )
        holders = [
            other for other in module.modules() if any(p is layer.weight for p in other.parameters(recurse=False))
        ]
        if len(holders) > 1:
            raise ValueError(f"layer {name!r} cannot be sparse: another module shares its weight; put it in `exclude`")
    replacements: dict[nn.Module, nn.Module] = {
        layer: SparseLinear.from_dense(layer, counts[name], connections=connections, weight_scale=weight_scale)
        for name, layer in chosen.items()
    }
    _replace(module, replacements)
    return module


def densify(module: ModuleT) -> ModuleT:
    """Replace the sparse layers of a network by dense ones with the same outputs, in place.

    :param module: the network, changed in place
    :return: ``module``
    """
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
