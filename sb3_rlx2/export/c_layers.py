"""Linear layers in C: tables, and the loops that walk them.

Rows with equally many connections follow one another, so a table of runs (rows, connections of each) takes the place of
row pointers, and the innermost loop has the same length for a whole run.
"""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

import numpy as np

from sb3_rlx2.export.c_functions import WITH_PARAMETER, Function, activation_call
from sb3_rlx2.export.c_text import TYPES, number, table
from sb3_rlx2.export.quantization import LIMIT, QuantizedLayer
from sb3_rlx2.export.sparse_policy import Array, Linear

MAX_WIDTH = 65535
DENSE_ABOVE = 0.8
"""Share of weights above which a table of all of them is smaller than one with columns."""


class LayerCode(NamedTuple):
    """A layer in C.

    :param tables: its constant tables
    :param table_bytes: their size
    :param function: name of the function that computes it
    :param definitions: that function and the type of its tables, by name
    """

    tables: str
    table_bytes: int
    function: str
    definitions: dict[str, Function]


def runs(counts: Array) -> Array:
    """Rows and connections of each, of rows that follow one another with equally many connections.

    :param counts: number of connections of each row
    :return: [2 * number of runs], uint16
    """
    starts = np.flatnonzero(np.diff(counts.astype(np.int64), prepend=-1))
    lengths = np.diff(starts, append=len(counts))
    return np.stack([lengths, counts[starts]], axis=1).ravel().astype(np.uint16)


def layer_code(
    name: str, layer: Linear, activation: str, parameter: float, quantized: QuantizedLayer | None
) -> LayerCode:
    """A linear layer and the activation behind it.

    :param name: of its tables
    :param layer: the layer
    :param activation: name of the activation, ``""`` for none
    :param parameter: its parameter
    :param quantized: its integer weights; None: float32
    :raises ValueError: if it is too wide for 16-bit columns
    """
    if max(layer.n_in, layer.n_out) > MAX_WIDTH:
        raise ValueError(f"a layer of {layer.n_in} -> {layer.n_out} is too wide for C: {MAX_WIDTH} is the most")
    is_dense = len(layer.values) > DENSE_ABOVE * layer.n_in * layer.n_out
    shape = "dense" if is_dense else {"uint8": "sparse", "uint16": "wide"}[layer.columns.dtype.name]
    makes_levels = quantized is not None and quantized.shifts is not None
    kind = f"{shape}_to_levels" if makes_levels else shape
    arrays, counts = _arrays(layer, is_dense, quantized), _counts(layer, is_dense)
    shown = f"{layer.n_in} inputs, {layer.n_out} outputs, {len(layer.values)} of {layer.n_in * layer.n_out} weights"
    tables = [table(f"{name}_{field}", _at_least_one(array)) for field, array in arrays.items()]
    values = ", ".join([*(f"{name}_{field}" for field in arrays), *(value for _, value in counts.values())])
    tables = [f"/* {shown} */", *tables, f"static const {kind}_layer {name} = {{\n    {values}\n}};\n"]
    fields = [f"    const {TYPES[array.dtype.name]} *{field};" for field, array in arrays.items()]
    fields += [f"    {of_type} {field};" for field, (of_type, _) in counts.items()]
    struct = "\ntypedef struct\n{\n" + "\n".join(fields) + f"\n}} {kind}_layer;\n"
    function = f"{kind}_{activation or 'linear'}"
    if activation in WITH_PARAMETER:
        function += "_" + re.sub(r"\W", "_", number(parameter))
    text, needs = _loop(function, kind, is_dense, quantized, activation, parameter)
    definitions = {f"{kind}_layer": Function(struct), function: Function(text, (f"{kind}_layer", *needs))}
    return LayerCode("\n".join(tables), sum(array.nbytes for array in arrays.values()), function, definitions)


def _arrays(layer: Linear, is_dense: bool, quantized: QuantizedLayer | None) -> dict[str, Array]:
    weights = layer.values if quantized is None else quantized.weights
    arrays: dict[str, Array] = {}
    if is_dense:
        dense = np.zeros((layer.n_out, layer.n_in), weights.dtype)
        dense[layer.rows, layer.columns] = weights
        arrays["weights"] = dense.ravel()
    else:
        arrays |= {"runs": runs(layer.counts), "weights": weights, "columns": layer.columns}
    arrays["biases"] = layer.bias if quantized is None else quantized.biases
    if quantized is not None and quantized.shifts is not None:
        arrays["shifts"] = quantized.shifts
    elif quantized is not None:
        arrays["scales"] = quantized.scales
    return arrays


def _counts(layer: Linear, is_dense: bool) -> dict[str, tuple[str, str]]:
    """Numbers beside the tables: type and value."""
    if is_dense:
        return {"n_in": ("uint16_t", f"{layer.n_in}U"), "n_out": ("uint16_t", f"{layer.n_out}U")}
    return {"n_runs": ("uint16_t", f"{len(runs(layer.counts)) // 2}U")}


def _at_least_one(array: Array) -> Array:
    """C has no empty arrays."""
    return array if len(array) else np.zeros(1, array.dtype)


_SPARSE = """
static void @FUNCTION(const @KIND_layer *layer, const @IN *x, @OUT *y)
{
    uint32_t row = 0U;
    uint32_t connection = 0U;
    uint32_t run;

    for (run = 0U; run < layer->n_runs; run++)
    {
        const uint32_t end_of_run = row + layer->runs[2U * run];
        const uint32_t count = layer->runs[(2U * run) + 1U];

        /* Two rows at a time hide the latency of additions */
        for (; (row + 1U) < end_of_run; row += 2U)
        {
            const uint32_t end = connection + count;
            @SUM sum = layer->biases[row];
            @SUM next = layer->biases[row + 1U];

            for (; connection < end; connection++)
            {
                sum += @PRODUCT;
                next += @NEXT_PRODUCT;
            }
            connection += count;
            @STORE
            @NEXT_STORE
        }
        for (; row < end_of_run; row++)
        {
            const uint32_t end = connection + count;
            @SUM sum = layer->biases[row];

            for (; connection < end; connection++)
            {
                sum += @PRODUCT;
            }
            @STORE
        }
    }
}
"""
_DENSE = """
static void @FUNCTION(const @KIND_layer *layer, const @IN *x, @OUT *y)
{
    const uint32_t n_in = layer->n_in;
    const uint32_t in_fours = n_in - (n_in % 4U);
    uint32_t row;

    for (row = 0U; row < layer->n_out; row++)
    {
        const @WEIGHT *weights = &layer->weights[row * n_in];
        @SUM sums[4] = {0, 0, 0, 0};
        @SUM sum = layer->biases[row];
        uint32_t column;

        /* Four sums at a time hide the latency of additions */
        for (column = 0U; column < in_fours; column += 4U)
        {
            sums[0] += @PRODUCT0;
            sums[1] += @PRODUCT1;
            sums[2] += @PRODUCT2;
            sums[3] += @PRODUCT3;
        }
        for (; column < n_in; column++)
        {
            sum += @PRODUCT0;
        }
        sum += (sums[0] + sums[1]) + (sums[2] + sums[3]);
        @STORE
    }
}
"""
_STORE_LEVEL = """if (sum <= 0)
{
    y[row] = 0;
}
else
{
    const uint32_t level = (uint32_t)sum >> layer->shifts[row];
    y[row] = (int16_t)((level < @LIMIT) ? level : @LIMIT);
}""".replace("@LIMIT", f"{LIMIT}U")


def _loop(
    function: str, kind: str, is_dense: bool, quantized: QuantizedLayer | None, activation: str, parameter: float
) -> tuple[str, tuple[str, ...]]:
    """The loop over a layer, and the functions that it needs."""
    is_float, makes_levels = quantized is None, quantized is not None and quantized.shifts is not None
    result, needs = activation_call(activation, parameter, "sum" if is_float else "(float)sum * layer->scales[row]")
    store = f"y[row] = {result};"
    if makes_levels:
        store, needs = _STORE_LEVEL, ()
    stores = {"@STORE": store, "@NEXT_STORE": re.sub(r"\bsum\b", "next", store).replace("[row]", "[row + 1U]")}
    lines = []
    for line in (_DENSE if is_dense else _SPARSE).splitlines(keepends=True):
        indent, stored = line[: len(line) - len(line.lstrip())], stores.get(line.strip())
        lines.append(line if stored is None else textwrap.indent(stored, indent) + "\n")
    text = "".join(lines)
    cast = "" if is_float else "(int32_t)"
    after = "[connection + count]"
    text = text.replace("@NEXT_PRODUCT", f"{cast}layer->weights{after} * {cast}x[layer->columns{after}]")
    for i in range(4):
        at = f"column + {i}U" if i else "column"
        text = text.replace(f"@PRODUCT{i}", f"{cast}weights[{at}] * {cast}x[{at}]")
    text = text.replace("@PRODUCT", f"{cast}layer->weights[connection] * {cast}x[layer->columns[connection]]")
    text = text.replace("{0, 0, 0, 0}", "{0.0F, 0.0F, 0.0F, 0.0F}" if is_float else "{0, 0, 0, 0}")
    types = {
        "@FUNCTION": function,
        "@KIND": kind,
        "@IN": "float" if is_float else "int16_t",
        "@OUT": "int16_t" if makes_levels else "float",
        "@SUM": "float" if is_float else "int32_t",
        "@WEIGHT": "float" if quantized is None else TYPES[quantized.weights.dtype.name],
    }
    for marker, of_type in types.items():
        text = text.replace(marker, of_type)
    return text, needs
