"""Policies as C99: ``NAME.h`` and ``NAME.c``, without allocation, library or state.

The code is written with MISRA C:2012 in mind: fixed-width types, braces everywhere, no recursion, no pointers beyond
array arguments, one return in each function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sb3_rlx2.export.c_functions import FUNCTIONS, Function, activation_call
from sb3_rlx2.export.c_layers import layer_code
from sb3_rlx2.export.c_text import Buffer, Call, number, offsets, table
from sb3_rlx2.export.quantization import LIMIT, Quantization, quantize, relu_readers
from sb3_rlx2.export.simplification import simplified, sorted_by_connections
from sb3_rlx2.export.sparse_policy import (
    Activation,
    Array,
    GreedyAction,
    LayerNorm,
    Linear,
    SparsePolicy,
    SquashedAction,
)
from sb3_rlx2.files import replacing
from sb3_rlx2.version import __version__

LEAST_ALLOWED = 2e-6
"""Of half the range of an action: another compiler may round otherwise than the one of the check."""


class WrittenC(NamedTuple):
    """What was written.

    :param path: the C file
    :param table_bytes: of its constant tables
    :param stack_bytes: of the numbers that a call keeps
    """

    path: Path
    table_bytes: int
    stack_bytes: int


def check_name(name: object) -> None:
    """Check that a name can begin names in C.

    :param name: such as ``"policy"``
    :raises ValueError: if it cannot
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"name={name!r} is not allowed: it must be a C identifier, such as 'policy'")


def prepared(policy: SparsePolicy) -> SparsePolicy:
    """The policy that is written: with the units that matter, sorted by their connections.

    :param policy: the policy as it was read
    """
    return sorted_by_connections(simplified(policy))


def write_c(policy: SparsePolicy, folder: Path, name: str, quantization: Quantization | None = None) -> WrittenC:
    """Write ``NAME.h`` and ``NAME.c``.

    :param policy: a policy that is ``prepared``
    :param folder: where
    :param name: of the files, and what their public names begin with
    :param quantization: of this policy; None (default): tables in float32
    :return: what was written
    """
    writer = _Writer(policy, quantization)
    body, memory = _program(writer)
    path = folder / f"{name}.c"
    stack_bytes = 4 * memory["float"] + 2 * memory["int16_t"]
    _write(path, _source(policy, name, writer.tables, writer.definitions, body))
    _write(path.with_suffix(".h"), _header(policy, name, quantization, stack_bytes))
    return WrittenC(path, writer.table_bytes, stack_bytes)


def write_main(policy: SparsePolicy, folder: Path, name: str, allowed: float) -> None:
    """Write ``NAME_main.c``, a program that tests the policy on its example.

    :param policy: the policy, with the example
    :param folder: where
    :param name: that ``write_c`` was given
    :param allowed: by how much actions may differ, as a share of their largest size; discrete ones may not
    """
    _write(folder / f"{name}_main.c", _main(policy, name, allowed))


def _write(path: Path, text: str) -> None:
    with replacing(path, "w", encoding="utf-8") as file:
        file.write(text)


def quantized(policy: SparsePolicy, observations: Array, precision: str) -> Quantization:
    """Integers for the tables of a policy.

    :param policy: a policy that is ``prepared``
    :param observations: raw observations to calibrate on, [n, ...]
    :param precision: of weights, ``"int8"`` or ``"int16"``
    """
    return quantize(policy, observations.reshape(len(observations), -1), precision)


class _Writer:
    """Collects calls, tables and functions."""

    def __init__(self, policy: SparsePolicy, quantization: Quantization | None) -> None:
        self.policy, self.quantization = policy, quantization
        self.tables: list[str] = []
        self.table_bytes = 0
        self.definitions: dict[str, Function] = {}
        self.calls: list[Call] = []
        self.buffers: dict[int, Buffer] = {}
        self.floats: dict[int, int] = {}
        self.levels: dict[int, int] = {}

    def call(self, text: str, reads: Sequence[int], kind: str, size: int, is_in_place: bool = False) -> int:
        """Append a call; the buffer that it writes."""
        buffer = len(self.buffers) + 1
        self.buffers[buffer] = Buffer(kind, size)
        self.calls.append(Call(text, tuple(reads), buffer, is_in_place))
        return buffer

    def add_table(self, name: str, values: Array, comment: str = "") -> None:
        """Append a constant array."""
        self.tables.append(table(name, values, comment))
        self.table_bytes += values.nbytes

    def use(self, name: str, function: Function | None = None) -> None:
        """A function is needed, and those that it calls before it."""
        function = function or FUNCTIONS[name]
        for other in function.needs:
            if other not in self.definitions:
                self.use(other)
        known = self.definitions.setdefault(name, function)
        assert known == function, f"two functions are called {name}"

    def made(self, number_: int, buffer: int) -> None:
        """A value is there, as floats; layers may want levels of it."""
        self.floats[number_] = buffer
        if self.quantization is None or number_ not in self.quantization.levels:
            return
        levels = self.quantization.levels[number_]
        size, rates = self.policy.widths[number_], (1.0 / levels.units).astype(np.float32)
        limit = number(LIMIT)
        if len(rates) == 1:
            self.use("to_levels_of_one_unit")
            text = f"to_levels_of_one_unit({size}U, {number(rates[0])}, {limit}, {{0}}, {{out}})"
        else:
            self.use("to_levels")
            self.add_table("observation_rates", rates, "Levels of a unit of each observation")
            text = f"to_levels({size}U, observation_rates, {limit}, {{0}}, {{out}})"
        self.levels[number_] = self.call(text, [buffer], "int16_t", size)


def _program(writer: _Writer) -> tuple[list[str], dict[str, int]]:
    """Statements, and elements of memory by type; tables and functions go to the writer."""
    policy, quantization = writer.policy, writer.quantization
    _observation(writer)
    relus = {} if quantization is None else relu_readers(policy)
    done: set[int] = set()
    for operation in policy.operations:
        if operation.output in done:
            continue
        size = policy.widths[operation.output]
        if isinstance(operation, Linear):
            _layer(writer, operation, relus, done)
        elif isinstance(operation, Activation):
            result, needs = activation_call(operation.function, operation.parameter, "x[i]")
            name = f"{operation.function}_{operation.output}"
            text = _EACH.replace("@NAME", name).replace("@RESULT", result)
            writer.use(name, Function(text, needs))
            read = writer.floats[operation.inputs[0]]
            writer.made(operation.output, writer.call(f"{name}({size}U, {{0}}, {{out}})", [read], "float", size, True))
        elif isinstance(operation, LayerNorm):
            writer.use("layer_norm")
            name = f"norm_{operation.output}"
            writer.add_table(f"{name}_weights", operation.weight)
            writer.add_table(f"{name}_biases", operation.bias)
            arguments = f"{size}U, {name}_weights, {name}_biases, {number(operation.epsilon)}"
            read = writer.floats[operation.inputs[0]]
            text = f"layer_norm({arguments}, {{0}}, {{out}})"
            writer.made(operation.output, writer.call(text, [read], "float", size, True))
        else:
            writer.use("add")
            reads = [writer.floats[number_] for number_ in operation.inputs]
            writer.made(
                operation.output, writer.call(f"add({size}U, {{0}}, {{1}}, {{out}})", reads, "float", size, True)
            )
    last = _action(writer)
    places, memory = offsets(writer.calls, writer.buffers)

    def address(buffer: int) -> str:
        if buffer == 0:
            return "observation"
        return f"&{'memory' if writer.buffers[buffer].kind == 'float' else 'levels'}[{places[buffer]}]"

    body = [f"float memory[{memory['float']}];"] if memory["float"] else []
    body += [f"int16_t levels[{memory['int16_t']}];"] if memory["int16_t"] else []
    body += [""] if body else []
    for call in writer.calls:
        body.append(call.text.format(*map(address, call.reads), out=address(call.writes)) + ";")
    body.append(f"{last}({address(writer.floats[policy.output])}, action);")
    return body, memory


_EACH = """
static void @NAME(uint32_t n, const float *x, float *y)
{
    uint32_t i;

    for (i = 0U; i < n; i++)
    {
        y[i] = @RESULT;
    }
}
"""


def _observation(writer: _Writer) -> None:
    policy, buffer = writer.policy, 0
    if policy.normalization is not None:
        mean = policy.normalization.mean.astype(np.float32)
        rest = (policy.normalization.mean - mean).astype(np.float32)
        scale = (1.0 / policy.normalization.std).astype(np.float32)
        writer.add_table("observation_mean", mean, "VecNormalize's statistics")
        writer.add_table("observation_mean_rest", rest)
        writer.add_table("observation_scale", scale)
        text = FUNCTIONS["normalize"].text.replace("@CLIP", number(policy.normalization.clip))
        writer.use("normalize", Function(text.replace("@OBSERVATION_SIZE", f"{policy.n_obs}U")))
        buffer = writer.call("normalize({0}, {out})", [0], "float", policy.n_obs)
    writer.made(0, buffer)


def _action(writer: _Writer) -> str:
    """Name of the function that makes the action of the network's output."""
    action = writer.policy.action
    if isinstance(action, GreedyAction):
        writer.use("greedy", Function(FUNCTIONS["greedy"].text.replace("@ACTIONS", f"{action.n_in}U")))
        return "greedy"
    writer.use("rescale")
    writer.add_table("action_low", action.low, "Bounds of actions")
    writer.add_table("action_half_range", action.half_range)
    return "rescale"


def _layer(writer: _Writer, layer: Linear, relus: dict[int, int], done: set[int]) -> None:
    """A linear layer, with the activation behind it where nobody else reads what is between."""
    policy, quantization = writer.policy, writer.quantization
    readers = [operation for operation in policy.operations if layer.output in operation.inputs]
    function, parameter, output = "", 0.0, layer.output
    if len(readers) == 1 and isinstance(readers[0], Activation) and policy.output != layer.output:
        function, parameter, output = readers[0].function, readers[0].parameter, readers[0].output
        done.add(output)
    integers = None if quantization is None else quantization.layers[layer.output]
    place = policy.layers.index(layer) + 1
    code = layer_code(f"layer_{place}", layer, function, parameter, integers)
    writer.tables.append(code.tables)
    writer.table_bytes += code.table_bytes
    for name, definition in code.definitions.items():
        writer.use(name, definition)
    read = writer.floats if quantization is None else writer.levels
    text = f"{code.function}(&layer_{place}, {{0}}, {{out}})"
    if layer.output in relus:
        writer.levels[output] = writer.call(text, [read[layer.inputs[0]]], "int16_t", layer.n_out)
    else:
        writer.made(output, writer.call(text, [read[layer.inputs[0]]], "float", layer.n_out))


def _source(
    policy: SparsePolicy, name: str, tables: list[str], definitions: dict[str, Function], body: list[str]
) -> str:
    types = [function.text for key, function in definitions.items() if key.endswith("_layer")]
    functions = [function.text for key, function in definitions.items() if not key.endswith("_layer")]
    text = "".join(functions).replace("@ACTION_SIZE", f"{policy.n_act}U")
    statements = "\n".join(f"    {line}" if line else "" for line in body)
    return (
        f"/* Made by sb3-rlx2 {__version__} from a model of {policy.algorithm}: see {name}.h */\n"
        f'#include "{name}.h"\n\n#include <stdint.h>\n'
        + "".join(types)
        + "\n"
        + "\n".join(tables)
        + text
        + f"\n{_signature(policy, name)}\n{{\n{statements}\n}}\n"
    )


def _signature(policy: SparsePolicy, name: str) -> str:
    kind = "int32_t" if isinstance(policy.action, GreedyAction) else "float"
    return f"void {name}_act(const float *observation, {kind} *action)"


def _header(policy: SparsePolicy, name: str, quantization: Quantization | None, stack_bytes: int) -> str:
    upper, guard = name.upper(), f"{name}_H"  # names may differ in case only
    action, includes = policy.action, ""
    constants = [f"{upper}_OBSERVATION_SIZE {policy.n_obs}", f"{upper}_ACTION_SIZE {policy.n_act}"]
    if isinstance(action, GreedyAction):
        about = (
            f"{policy.n_obs} numbers in the units of the environment, and writes its number, 0 to {action.n_in - 1}."
        )
        includes = "#include <stdint.h>\n\n"
        constants.append(f"{upper}_ACTIONS {action.n_in}")
    else:
        about = (
            f"both in the units of the environment: {policy.n_obs} and {policy.n_act} numbers, which must not overlap."
        )
    notes = [
        f"A policy, made by sb3-rlx2 {__version__} from a model of {policy.algorithm}.",
        "",
        f"{name}_act(observation, action) computes the action for an observation, {about} It keeps no state and takes "
        f"{stack_bytes} bytes of stack for its numbers.",
    ]
    if policy.normalization is not None:
        notes += ["Observations are normalized inside, as VecNormalize does."]
    if quantization is None:
        notes += ["", "Computed in single precision: equal to the model's predict(deterministic=True) within rounding."]
        if isinstance(action, GreedyAction):
            notes[-1] += " Of actions whose values are equal within rounding it may be another one."
    else:
        notes += [
            "",
            f"Computed with weights of {quantization.bits} bits. Observations must be finite.",
            f"{quantization.measured.told(action)[0].upper()}{quantization.measured.told(action)[1:]}.",
            f"Proven is {quantization.bound:.3g} for all observations within the range of the calibration:",
            f"least:   {_listed(quantization.low)}",
            f"largest: {_listed(quantization.high)}",
        ]
    notes += [
        "",
        f"Example: observation {_listed(policy.example_observation)}",
        f"         action      {_listed(policy.example_action)}",
    ]
    comment = "\n".join(f" * {line}".rstrip() for note in notes for line in _wrapped(note))
    return (
        f"/*\n{comment}\n */\n"
        f"#ifndef {guard}\n#define {guard}\n\n{includes}"
        + "".join(f"#define {constant}\n" for constant in constants)
        + "\n"
        f'#ifdef __cplusplus\nextern "C" {{\n#endif\n\n'
        f"{_signature(policy, name)};\n\n"
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif\n"
    )


def _listed(values: Array) -> str:
    if values.dtype.kind == "i":
        return ", ".join(map(str, values))
    return ", ".join(np.format_float_positional(np.float32(value), trim="0") for value in values)


def _wrapped(text: str) -> list[str]:
    """A line in pieces that are not too long."""
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > 100:
            lines.append("")
        lines[-1] += word + " "
    return lines


def _main(policy: SparsePolicy, name: str, allowed: float) -> str:
    upper, action, expected = name.upper(), policy.action, policy.example_action
    if isinstance(action, SquashedAction):
        size = np.maximum(np.abs(action.low), np.abs(action.high)).astype(np.float64)
        of_each = np.maximum(allowed * size, LEAST_ALLOWED * action.half_range)
        # As a float, which may not be a smaller number
        differences = np.nextafter(of_each.astype(np.float32), np.float32(np.inf))
        kind, decimal, cast = "float", "%.9g", "(double)"
    else:
        expected, differences = expected.astype(np.int32), np.zeros(1, np.int32)
        kind, decimal, cast = "int32_t", "%ld", "(long)"
    return (
        f"/* Tests {name}.c. Without arguments: computes the example, returns 0 if its action is right, or else 1.\n"
        " * With any argument: prints an action for each observation, numbers in text, on standard input. */\n"
        f'#include "{name}.h"\n\n#include <stdio.h>\n\n'
        + table("example_observation", policy.example_observation)
        + table("example_action", expected)
        + table("allowed", differences, "Differences of actions that rounding may make")
        + _MAIN.replace("@UPPER", upper)
        .replace("@NAME", name)
        .replace("@KIND", kind)
        .replace("@NUMBER", decimal)
        .replace("@CAST", cast)
    )


_MAIN = """
static int check_example(void)
{
    @KIND action[@UPPER_ACTION_SIZE];
    int result = 0;
    int i;

    @NAME_act(example_observation, action);
    for (i = 0; i < @UPPER_ACTION_SIZE; i++)
    {
        const @KIND difference = action[i] - example_action[i];

        (void)printf("@NUMBER, expected @NUMBER\\n", @CASTaction[i], @CASTexample_action[i]);
        if (!((difference <= allowed[i]) && (difference >= -allowed[i])))
        {
            result = 1;
        }
    }
    return result;
}

static void act_on_input(void)
{
    float observation[@UPPER_OBSERVATION_SIZE];
    @KIND action[@UPPER_ACTION_SIZE];
    int n = 0;
    int i;

    while (scanf("%f", &observation[n]) == 1)
    {
        n++;
        if (n == @UPPER_OBSERVATION_SIZE)
        {
            @NAME_act(observation, action);
            for (i = 0; i < @UPPER_ACTION_SIZE; i++)
            {
                (void)printf("@NUMBER%c", @CASTaction[i], (i == (@UPPER_ACTION_SIZE - 1)) ? '\\n' : ' ');
            }
            n = 0;
        }
    }
}

int main(int argc, char **argv)
{
    int result = 0;

    (void)argv;
    if (argc > 1)
    {
        act_on_input();
    }
    else
    {
        result = check_example();
    }
    return result;
}
"""
