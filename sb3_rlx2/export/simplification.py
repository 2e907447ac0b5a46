"""Policies that compute the same with fewer and better sorted units: what C tables are made of.

At 98% sparsity many units have no inputs or no readers. Only those that matter are kept, and the rest is sorted so that
units with equally many connections follow one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sb3_rlx2.export.sparse_policy import Array, LayerNorm, Linear, SparsePolicy


def simplified(policy: SparsePolicy) -> SparsePolicy:
    """The policy without units that always have the same value, and without those that nobody reads.

    What constants add to the units that read them becomes part of their biases. Actions are the same beyond rounding.

    :param policy: any policy
    """
    return _without_unread_units(_without_constants(policy))


def _without_constants(policy: SparsePolicy) -> SparsePolicy:
    """Take connections away that always bring the same."""
    constants = {0: np.full(policy.n_obs, np.nan)}  # of each feature, NaN: it varies
    operations = []
    for operation in policy.operations:
        known = [constants[number] for number in operation.inputs]
        if isinstance(operation, Linear):
            operation = _with_constant_inputs(operation, known[0])
            found = np.where(operation.counts == 0, operation.bias.astype(np.float64), np.nan)
        elif isinstance(operation, LayerNorm):
            found = np.full(len(operation.weight), np.nan)
        else:
            found = operation(*known)
        constants[operation.output] = found
        operations.append(operation)
    return replace(policy, operations=tuple(operations))


def _with_constant_inputs(layer: Linear, constants: Array) -> Linear:
    is_constant = ~np.isnan(constants)[layer.columns]
    rows = layer.rows
    brought = layer.values[is_constant] * constants[layer.columns[is_constant]]
    bias = layer.bias + np.bincount(rows[is_constant], brought, minlength=layer.n_out)
    return _chosen(layer, ~is_constant, bias.astype(np.float32))


def _without_unread_units(policy: SparsePolicy) -> SparsePolicy:
    groups = _groups(policy)
    read = {group: np.zeros(policy.widths[number], bool) for number, group in groups.items()}
    for number in (0, policy.output):
        read[groups[number]][:] = True
    before = -1
    while before != (before := sum(int(units.sum()) for units in read.values())):
        for operation in reversed(policy.operations):
            units = read[groups[operation.output]]
            units[0] |= not units.any()  # tables without entries would need a code of their own
            if isinstance(operation, Linear):
                rows = operation.rows
                read[groups[operation.inputs[0]]][operation.columns[units[rows]]] = True
            elif isinstance(operation, LayerNorm):
                units[:] = True
    return _rearranged(policy, lambda number: np.flatnonzero(read[groups[number]]))


def sorted_by_connections(policy: SparsePolicy) -> SparsePolicy:
    """The policy with hidden units in the order of their numbers of connections.

    :param policy: any policy
    """
    groups = _groups(policy)
    orders = {group: np.arange(policy.widths[number]) for number, group in groups.items()}
    for layer in reversed(policy.layers):
        group = groups[layer.output]
        if group not in (groups[0], groups[policy.output]):
            orders[group] = orders[group][np.argsort(layer.counts[orders[group]], kind="stable")]
    return _rearranged(policy, lambda number: orders[groups[number]])


def _groups(policy: SparsePolicy) -> dict[int, int]:
    """Of each value the first of those that have its units: what is computed unit by unit keeps their order."""
    groups = {0: 0}
    for operation in policy.operations:
        groups[operation.output] = operation.output
        if not isinstance(operation, Linear):
            joined = {groups[number] for number in (*operation.inputs, operation.output)}
            groups = {number: min(joined) if group in joined else group for number, group in groups.items()}
    return groups


def _rearranged(policy: SparsePolicy, units_of: Callable[[int], Array]) -> SparsePolicy:
    """The policy with chosen units of each value, in the order given."""
    operations = []
    for operation in policy.operations:
        units = units_of(operation.output)
        if isinstance(operation, Linear):
            operation = _with_units(operation, units, units_of(operation.inputs[0]))
        elif isinstance(operation, LayerNorm):
            operation = replace(operation, weight=operation.weight[units], bias=operation.bias[units])
        operations.append(operation)
    return replace(policy, operations=tuple(operations))


def _with_units(layer: Linear, outputs: Array, inputs: Array) -> Linear:
    column_of = np.full(layer.n_in, -1)
    column_of[inputs] = np.arange(len(inputs))
    starts = layer.ends - layer.counts
    parts = [np.arange(starts[row], layer.ends[row]) for row in outputs]
    # Of equal rows those in the order of memory are faster to walk
    parts = [part[np.argsort(column_of[layer.columns[part]])] for part in parts]
    taken = np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)
    return replace(
        layer,
        n_in=len(inputs),
        values=layer.values[taken],
        columns=column_of[layer.columns[taken]].astype(np.min_scalar_type(len(inputs) - 1)),
        counts=layer.counts[outputs],
        bias=layer.bias[outputs],
    )


def _chosen(layer: Linear, kept: Array, bias: Array) -> Linear:
    rows = layer.rows
    counts = np.bincount(rows[kept], minlength=layer.n_out).astype(layer.counts.dtype)
    return replace(layer, values=layer.values[kept], columns=layer.columns[kept], counts=counts, bias=bias)
