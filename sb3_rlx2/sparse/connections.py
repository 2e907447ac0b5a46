"""The one way to move connections: everything that is aligned with them moves along."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch as th

from sb3_rlx2.sparse.layers import SparseLinear, index_problem


class Relocation(NamedTuple):
    """What a change of topology did to one layer.

    :param dropped: number of connections that are gone
    :param grown: number of connections that are new; as many unless the layer's number of connections changes
    """

    dropped: int
    grown: int


@th.no_grad()
def relocate(
    layer: SparseLinear,
    indices: th.Tensor,
    *,
    mirrors: Sequence[SparseLinear] = (),
    optimizers: Iterable[th.optim.Optimizer] = (),
) -> Relocation:
    """Give a layer new connections.

    Connections that stay keep their value, gradient, optimizer moments and target values; those that go take all of
    that with them; new ones start with zeros everywhere (RigL, Evci et al., 2020, section 3). Values and indices are
    rewritten in place, unless there are more or fewer connections than before: the tensors get other memory then.
    Optimizer moments are replaced by new tensors, since ``load_state_dict`` lets two optimizers share them.

    A UserWarning says so where a deep copy of the layer is kept in step with it and is none of the mirrors: an average
    (``torch.optim.swa_utils.AveragedModel``) or a target network would from now on mix different connections.

    :param layer: the layer, changed in place
    :param indices: its new flat positions, int32 or int64, sorted and unique
    :param mirrors: layers with the same connections that are to follow, such as the target network's, default none
    :param optimizers: all optimizers that may hold state of these layers, default none
    :return: how many connections went and came
    :raises ValueError: if the indices are not sorted, unique and in range, or a mirror is the layer
        itself or given twice
    :raises RuntimeError: if a mirror's connections differ from the layer's, or an optimizer's state is not aligned
        with the connections; nothing is changed then
    """
    problem = index_problem(indices, max(len(indices), 1), layer.in_features * layer.out_features)
    if problem:
        raise ValueError(problem)
    holders = (layer, *mirrors)
    if len({id(holder) for holder in holders}) < len(holders):
        raise ValueError("mirrors: a layer is there twice, or is the layer itself, and would be changed twice")
    if not all(th.equal(layer.indices, mirror.indices) for mirror in mirrors):
        raise RuntimeError("the connections of a mirrored layer (target network) differ from the layer's own")
    _warn_of_averages(layer, mirrors)
    states = [
        optimizer.state[holder.values]
        for optimizer in optimizers
        for holder in holders
        if holder.values in optimizer.state
    ]
    for state in states:
        for name, entry in state.items():
            if th.is_tensor(entry) and entry.dim() > 0 and entry.shape != layer.values.shape:
                raise RuntimeError(
                    f"optimizer state {name!r} has shape {tuple(entry.shape)} where a layer with {layer.nnz} "
                    "connections needs one entry for each: this optimizer cannot be used with an evolving topology"
                )

    old, new = layer.indices.to(th.int64), indices.to(layer.indices.device, th.int64)
    shape = layer.values.shape
    source = th.searchsorted(old, new).clamp_(max=layer.nnz - 1)
    kept = old[source] == new

    def moved(aligned: th.Tensor) -> th.Tensor:
        taken = aligned[source]
        return th.where(kept, taken, th.zeros_like(taken))

    for holder in holders:
        gradient = None if holder.values.grad is None else moved(holder.values.grad)
        holder.values.grad = None
        overwrite(holder.values, moved(holder.values))
        holder.values.grad = gradient
        overwrite(holder.indices, new.to(holder.indices.dtype))
        holder.connections_changed()
    for state in states:
        for name, entry in state.items():
            if th.is_tensor(entry) and entry.shape == shape:
                state[name] = moved(entry)
    staying = int(kept.sum())
    return Relocation(dropped=len(old) - staying, grown=len(new) - staying)


def overwrite(tensor: th.Tensor, new: th.Tensor) -> None:
    """Write to a tensor, which gets other memory if the new numbers are more or fewer.

    :param tensor: a parameter or buffer, changed in place
    :param new: of the same type
    """
    if tensor.shape == new.shape:
        tensor.copy_(new)
        return
    # A change of type makes autograd forget the shape that gradients had
    tensor.data = new.to(th.float64)
    tensor.data = new.clone()


def _warn_of_averages(layer: SparseLinear, mirrors: Sequence[SparseLinear]) -> None:
    if any(all(twin is not mirror for mirror in mirrors) for twin in layer.copies_in_step()):
        warnings.warn(
            f"a layer of {layer.in_features} -> {layer.out_features} gets new connections, and a copy that is kept in "
            "step with it (AveragedModel, a target network) does not: it would mix values of different connections. "
            "Pass the copy's layers to TopologyEvolver(mirrors=...)",
            stacklevel=2,
        )
