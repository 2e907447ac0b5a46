"""How many connections each layer of a network gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from sb3_rlx2.sparse.checks import check_sparsity

Shape = tuple[int, int]
AllocationName = Literal["erdos_renyi", "uniform"]


def erdos_renyi(shapes: Sequence[Shape], total: int) -> list[int]:
    """Connections per layer in proportion to fan-in plus fan-out (Erdős-Rényi).

    Layer l gets the density ``ε (I_l + O_l) / (I_l O_l)``. A layer whose density would exceed 1 is kept dense and ε is
    solved again over the rest, until all fit (SET, Mocanu et al., 2018; RigL, Evci et al., 2020, section 3).

    :param shapes: ``(out_features, in_features)`` of each layer
    :param total: number of connections of the whole network; the result adds up to it exactly
    :return: number of connections of each layer
    """
    sizes = np.array([out * in_ for out, in_ in shapes], dtype=np.int64)
    fans = np.array([out + in_ for out, in_ in shapes], dtype=np.float64)
    dense = np.zeros(len(shapes), dtype=bool)
    ideal = np.zeros(len(shapes))
    while not dense.all():
        epsilon = (total - sizes[dense].sum()) / fans[~dense].sum()
        ideal = np.where(dense, sizes, epsilon * fans)
        overfull = ~dense & (ideal > sizes)
        if not overfull.any():
            break
        dense |= overfull
    return _round_to_total(np.where(dense, sizes, ideal), sizes, total)


def uniform(shapes: Sequence[Shape], total: int) -> list[int]:
    """Connections per layer at one density for all layers.

    :param shapes: ``(out_features, in_features)`` of each layer
    :param total: number of connections of the whole network; the result adds up to it exactly
    :return: number of connections of each layer
    """
    sizes = np.array([out * in_ for out, in_ in shapes], dtype=np.int64)
    return _round_to_total(sizes * (total / sizes.sum()), sizes, total)


def _round_to_total(ideal: np.ndarray, sizes: np.ndarray, total: int) -> list[int]:
    """Round so that the sum is ``total``: what is left after rounding down goes to the largest remainders."""
    counts = np.minimum(np.floor(ideal + 1e-9).astype(np.int64), sizes)
    remainders = np.where(counts < sizes, ideal - counts, -np.inf)
    for layer in np.argsort(-remainders, kind="stable")[: total - int(counts.sum())]:
        counts[layer] += 1
    return [int(count) for count in counts]


ALLOCATIONS: Mapping[str, Callable[[Sequence[Shape], int], list[int]]] = {
    "erdos_renyi": erdos_renyi,
    "uniform": uniform,
}


def allocate(
    shapes: Mapping[str, Shape],
    sparsity: float,
    allocation: AllocationName = "erdos_renyi",
    *,
    groups: Sequence[Sequence[str]] = (),
) -> dict[str, int]:
    """Distribute the connections of a network over its linear layers.

    Layers of one group get what one layer of their joint width would get (the two heads of SAC's actor are one layer in
    RLx2's experiments), divided in proportion to their sizes. How many each gets follows from shapes alone, so that
    networks of the same shapes can exchange their parameters.

    :param shapes: ``(out_features, in_features)`` by layer name
    :param sparsity: fraction of all weights that are missing, in [0, 1)
    :param allocation: ``"erdos_renyi"`` (default, the paper's) or ``"uniform"``
    :param groups: names of layers that read the same inputs and count as one layer; default: each layer for itself
    :return: number of connections by layer name; they add up to ``round((1 - sparsity) * weights)``
    :raises ValueError: for a sparsity outside [0, 1), an unknown allocation, no layer at all, a sparsity that would
        leave a layer without a single connection, or a group with an unknown layer, one of another group or layers of
        different ``in_features``
    """
    check_sparsity(sparsity)
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation={allocation!r} is unknown: allowed are {sorted(ALLOCATIONS)}")
    if not shapes:
        raise ValueError("there is no linear layer (torch.nn.Linear) to make sparse")
    total = round((1.0 - sparsity) * sum(out * in_ for out, in_ in shapes.values()))
    members = _members(shapes, groups)
    joint = [(sum(shapes[name][0] for name in names), shapes[names[0]][1]) for names in members]
    counts: dict[str, int] = dict.fromkeys(shapes, 0)
    for names, count in zip(members, ALLOCATIONS[allocation](joint, total), strict=True):
        counts |= dict(zip(names, uniform([shapes[name] for name in names], count), strict=True))
    for name, count in counts.items():
        if count < 1:
            out, in_ = shapes[name]
            raise ValueError(
                f"sparsity={sparsity} leaves layer {name!r} ({in_} -> {out}) without a single connection: "
                "choose a lower sparsity or wider layers"
            )
    return counts


def _members(shapes: Mapping[str, Shape], groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Names of the layers that count as one, in the order of ``shapes``; a layer of no group stands alone."""
    group_of: dict[str, Sequence[str]] = {}
    for group in groups:
        for name in group:
            if name not in shapes or name in group_of:
                reason = "is in another group too" if name in shapes else f"is unknown: allowed are {list(shapes)}"
                raise ValueError(f"groups={[list(group) for group in groups]}: layer {name!r} {reason}")
            group_of[name] = group
        if len({shapes[name][1] for name in group}) > 1:
            inputs = ", ".join(f"{name!r}: {shapes[name][1]}" for name in group)
            raise ValueError(f"groups: layers of one group must read the same inputs; their numbers differ ({inputs})")
    members: list[list[str]] = []
    for name in shapes:
        group = group_of.get(name, [name])
        if name == group[0]:
            members.append(list(group))
    return members
