"""Paths from a network's inputs to its outputs, and the fewest connections that have to move so that there are some.

A network is a list of masks, bool [units, inputs], in the order in which data pass them. The inputs of the first are
the network's; what another reads are the units of the one before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Matrices = list[Array]

# The search takes three times as long with each further output
MOST_AT_ONCE = 6
# Among as few connections the preferred ones; summed over all that are added it must stay below one
PREFERENCE = 1e-5


def reached_units(masks: Sequence[Array]) -> list[Array]:
    """Which units a path leads to from some input.

    :param masks: of a network's layers
    :return: bool [inputs], all True, then bool [units] of each layer
    """
    reached = [np.ones(masks[0].shape[1], dtype=bool)]
    for mask in masks:
        reached.append(np.any(mask & reached[-1], axis=1))
    return reached


def leading_units(masks: Sequence[Array]) -> list[Array]:
    """Which units lead to some output.

    :param masks: of a network's layers
    :return: bool [inputs], then bool [units] of each layer, all True for the last
    """
    leading = [np.ones(masks[-1].shape[0], dtype=bool)]
    for mask in reversed(masks):
        leading.append(np.any(mask[leading[-1]], axis=0))
    return leading[::-1]


def strongest_paths(masks: Sequence[Array], strengths: Sequence[Array]) -> Matrices:
    """One path to each output that has any: from unit to unit the strongest connection that some input reaches.

    :param masks: of a network's layers
    :param strengths: of each connection, shapes as the masks'
    :return: masks of the connections on these paths, at most one for each unit
    """
    reached = reached_units(masks)
    used = reached[-1]
    paths: Matrices = []
    for mask, strength, sources in zip(reversed(masks), reversed(strengths), reversed(reached[:-1]), strict=True):
        units = np.flatnonzero(used)
        best = np.where(mask & sources, strength, -np.inf)[units].argmax(axis=1)
        path = np.zeros_like(mask)
        path[units, best] = True
        paths.append(path)
        used = np.any(path, axis=0)
    return paths[::-1]


def cheapest_additions(costs: Sequence[Array], reached: Sequence[Array], targets: Array) -> Matrices:
    """The connections that together cost least and give each of some outputs a path.

    A tree from the units that are reached to the targets: dynamic programming over sets of targets, from the outputs to
    the inputs (Dreyfus and Wagner, "The Steiner problem in graphs", Networks 1, 1971). Exact.

    :param costs: of each connection, shapes as the masks': 0 for one that is present, infinity for one that cannot be
    :param reached: as from ``reached_units``
    :param targets: the outputs, at most ``MOST_AT_ONCE``; the costs must allow a path to each
    :return: masks of the connections on the tree that cost anything
    """
    sets = 1 << len(targets)
    outputs = np.full((len(reached[-1]), sets), np.inf)
    outputs[:, 0] = 0.0
    outputs[targets, 1 << np.arange(len(targets))] = 0.0
    # Cost of leading on from each unit to each set of targets. No way needs to lead to what is reached: it begins there
    onward = [outputs]
    unreached = [np.flatnonzero(~level) for level in reached[1:]]
    for cost, children in zip(reversed(costs), reversed(unreached), strict=True):
        below, lead = onward[-1][children], cost[children]
        table = [(lead + below[:, s, None]).min(axis=0, initial=np.inf) for s in range(sets)]
        table[0][:] = 0.0
        onward.append(_with_splits(np.stack(table, axis=1)))
    onward.reverse()
    # The tree's root is connected to all that is reached. Of equals the layer nearest to the outputs changes
    units = [np.flatnonzero(level) for level in reached]
    best = np.array([table[chosen].min(axis=0, initial=np.inf) for table, chosen in zip(onward, units, strict=True)])
    root = _with_splits(best.min(axis=0)[None])[0]

    additions = [np.zeros(cost.shape, dtype=bool) for cost in costs]

    def follow(level: int, unit: int, s: int) -> None:
        if s == 0 or level == len(costs):
            return
        total, children = onward[level][unit], unreached[level]
        lead = costs[level][children, unit] + onward[level + 1][children, s]
        if lead.min(initial=np.inf) > total[s]:
            part = _split(total, s)
            follow(level, unit, part)
            follow(level, unit, s ^ part)
            return
        child = int(children[lead.argmin()])
        additions[level][child, unit] |= costs[level][child, unit] > 0
        follow(level + 1, child, s)

    def begin(s: int) -> None:
        if best[:, s].min() > root[s]:
            part = _split(root, s)
            begin(part)
            begin(s ^ part)
            return
        level = len(costs) - int(best[::-1, s].argmin())
        follow(level, int(units[level][onward[level][units[level], s].argmin()]), s)

    begin(sets - 1)
    return additions


def _with_splits(table: Array) -> Array:
    """Cost [units, sets] where the targets of a set may be led to in two parts; in place."""
    for s in range(1, table.shape[1]):
        for part in _parts(s):
            np.minimum(table[:, s], table[:, part] + table[:, s ^ part], out=table[:, s])
    return table


def _split(total: Array, s: int) -> int:
    """A part of a set of targets that costs with the rest of it what the whole set costs."""
    return next(part for part in _parts(s) if total[part] + total[s ^ part] == total[s])


def _parts(s: int) -> Iterator[int]:
    """Of each way to divide a set (bits of a number) in two, the part without its last member."""
    last = 1 << (s.bit_length() - 1)
    part = rest = s ^ last
    while part:
        yield part
        part = (part - 1) & rest


def price(preference: Array) -> Array:
    """What it costs to add a connection: one for each, and of as many the preferred ones.

    :param preference: 0 (worst) to 1 (best)
    """
    return 1.0 + PREFERENCE * (1.0 - preference)


def narrow_paths(costs: Sequence[Array]) -> Matrices:
    """One path to each output with the fewest connections: all go through the same unit of each hidden layer.

    :param costs: of each connection, 0 for one that is present
    :return: masks of the connections on the cheapest such paths
    """
    onward = [costs[-1].sum(axis=0)]
    for cost in reversed(costs[:-1]):
        onward.append((cost + onward[-1][:, None]).min(axis=0))
    onward.reverse()
    paths = [np.zeros(cost.shape, dtype=bool) for cost in costs]
    unit = int(onward[0].argmin())
    for cost, path, below in zip(costs[:-1], paths[:-1], onward[1:], strict=True):
        child = int((cost[:, unit] + below).argmin())
        path[child, unit] = True
        unit = child
    paths[-1][:, unit] = True
    return paths


def reconnect(
    masks: Sequence[Array],
    targets: Array,
    *,
    prices: Sequence[Array],
    strengths: Sequence[Array],
    heights: Sequence[Sequence[int]],
    last_resort: Callable[[Sequence[Array]], Matrices],
) -> Matrices:
    """Move the fewest connections that give some outputs a path; outputs that have one keep one.

    Each layer keeps its number of connections: one that is added takes the place of one on which no path to an output
    depends. Those on no path at all go first, then the weakest, of equals that at the lower position. The number of
    moves is the smallest possible for up to ``MOST_AT_ONCE`` targets if each layer has at least as many movable
    connections as there are outputs; more targets are connected so many at a time. What has given way to some of them
    may come back for others, and what has come may go.

    :param masks: of a network's layers
    :param targets: the outputs, int64
    :param prices: of connections that may move, see ``price``: what adding them costs while they are absent; infinity
        for those that stay present or absent
    :param strengths: of connections
    :param heights: how many rows of each mask belong to each of the layers side by side in it, which have their own
        numbers of connections
    :param last_resort: one path to each output where layers have no room for what is cheapest
    :return: the new masks; outputs to which no connection that may be added leads stay without a path
    """
    masks = list(masks)
    movable = [np.isfinite(cost) for cost in prices]
    possible = reached_units([mask | may_move for mask, may_move in zip(masks, movable, strict=True)])[-1]
    targets = targets[possible[targets]]
    while True:
        reached = reached_units(masks)
        lost = targets[~reached[-1][targets]][:MOST_AT_ONCE]
        if len(lost) == 0:
            return masks
        costs = [np.where(mask, 0.0, cost) for mask, cost in zip(masks, prices, strict=True)]
        extended = _union(masks, cheapest_additions(costs, reached, lost))
        moved = _exchange(masks, extended, strongest_paths(extended, strengths), strengths, movable, heights)
        if moved is None:
            paths = last_resort(costs)
            moved = _exchange(masks, _union(masks, paths), paths, strengths, movable, heights)
            if moved is None:
                return masks
        masks = moved


def _union(masks: Sequence[Array], others: Sequence[Array]) -> Matrices:
    return [mask | other for mask, other in zip(masks, others, strict=True)]


def _exchange(
    masks: Sequence[Array], extended: Sequence[Array], paths: Sequence[Array], strengths: Sequence[Array],
    movable: Sequence[Array], heights: Sequence[Sequence[int]],
) -> Matrices | None:  # fmt: skip
    """The extended masks without as many connections as were added; None where too few can go."""
    reached, leading = reached_units(extended), leading_units(extended)
    result = []
    for level, (mask, new, path) in enumerate(zip(masks, extended, paths, strict=True)):
        is_on_path = leading[level + 1][:, None] & reached[level]
        can_go, left = mask & movable[level] & ~path, new.copy()
        for end, height in zip(itertools.accumulate(heights[level]), heights[level], strict=True):
            rows = slice(end - height, end)
            count = int(new[rows].sum() - mask[rows].sum())
            candidates = np.flatnonzero(can_go[rows])
            if len(candidates) < count:
                return None
            keys = strengths[level][rows].flat[candidates], is_on_path[rows].flat[candidates]
            left[rows].flat[candidates[np.lexsort(keys)[:count]]] = False
        result.append(left)
    return result
