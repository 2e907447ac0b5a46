"""From programs to the blocks that compiled code reads: values, connections, parameters and their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from sb3_rlx2.engine import operations as o
from sb3_rlx2.engine.programs import Operation, Program, parameters_of
from sb3_rlx2.engine.records import NETWORK, OPERATION, PARAMETER
from sb3_rlx2.kernels import activations as act
from sb3_rlx2.kernels.products import PADDING, ROW_BYTES
from sb3_rlx2.kernels.structure import Structure
from sb3_rlx2.kernels.vectors import LANES
from sb3_rlx2.sparse.layers import SparseLinear, values_of
from sb3_rlx2.sparse.units import LinearLayer

Array = npt.NDArray[Any]

ALIGNMENT = 64
KINDS = {
    "linear": o.LINEAR,
    "activation": o.ACTIVATION,
    "layer_norm": o.LAYER_NORM,
    "sum": o.SUM,
    "observation_norm": o.OBSERVATION_NORM,
}
MIN_DENSE_OUTPUTS = 8
"""A dense layer with fewer outputs is computed connection by connection: its input is not worth transposing."""


def aligned(size: int) -> Array:
    """Zeroed memory of ``size`` bytes that begins at a cache line."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.ctypes.data)


def activation_code(module: nn.Module | None) -> tuple[int, float]:
    """Number and parameter of an activation, as the kernels know it; NONE for None.

    :param module: the activation
    """
    if isinstance(module, nn.ELU):
        return act.ELU, float(module.alpha)
    if isinstance(module, nn.LeakyReLU):
        return act.LEAKY_RELU, float(module.negative_slope)
    if isinstance(module, nn.GELU):
        return (act.GELU if module.approximate == "none" else act.GELU_TANH), 0.0
    codes: Mapping[type, int] = {nn.ReLU: act.RELU, nn.Tanh: act.TANH, nn.SiLU: act.SILU}
    return (act.NONE if module is None else codes[type(module)]), 0.0


class Step(NamedTuple):
    """An operation as compiled code makes it: a linear layer and the activation or the sum behind it may be one.

    :param operation: the operation
    :param output: number of the value that it makes
    :param activation: the activation inside of it, or None
    :param residual: number of the value that a linear layer's output is added to, or None
    """

    operation: Operation
    output: int
    activation: nn.Module | None
    residual: int | None = None

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values that it reads."""
        return self.operation.inputs if self.residual is None else (*self.operation.inputs, self.residual)


def fused(program: Program) -> list[Step]:
    """The steps of a program: an activation whose derivative its output tells joins the linear layer before it.

    The derivative is applied by who reads the value, so an activation that makes an output of the network stays alone.
    The sum at the end of a residual block joins the sparse layer before it.
    """
    steps: list[Step] = []
    for operation in program.operations:
        joined = _joined(program, steps[-1], operation) if steps else None
        if joined is not None:
            steps[-1] = joined
        else:
            steps.append(
                Step(operation, operation.output, operation.module if operation.kind == "activation" else None)
            )
    return steps


def _joined(program: Program, last: Step, operation: Operation) -> Step | None:
    """One step that makes both the last one's linear layer and the operation behind it; None if they stay two."""
    layer = last.operation
    if layer.kind != "linear" or last.output != layer.output:
        return None
    if last.output not in operation.inputs or program.readers(last.output) > 1:
        return None
    if operation.kind == "activation" and operation.output not in program.outputs:
        is_told = activation_code(operation.module)[0] <= act.LAST_FROM_OUTPUT
        return Step(layer, operation.output, operation.module) if is_told else None
    if operation.kind == "sum" and not _is_dense(layer):
        residual = next(value for value in operation.inputs if value != last.output)
        return Step(layer, operation.output, None, residual) if _has_gradient(program, residual) else None
    return None


def _has_gradient(program: Program, value: int) -> bool:
    """Whether ``backward`` always computes a value's gradient: not that of the input, normalized or not."""
    maker = next((operation for operation in program.operations if operation.output == value), None)
    return maker is not None and maker.kind != "observation_norm"


class _Memory:
    """Gives out offsets; what is free again is used again."""

    def __init__(self) -> None:
        self.size = 0
        self._taken: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        at = 0
        for start, stop in sorted(self._taken):
            if start - at >= size:
                break
            at = max(at, stop)
        self._taken.append((at, at + size))
        self.size = max(self.size, at + size)
        return at

    def free(self, at: int) -> None:
        self._taken = [span for span in self._taken if span[0] != at]


class NetworkBlocks:
    """The blocks of a network: its own and those of its operations.

    :param program: the network
    :param mirrored: the blocks of the network whose connections it has, such as those of a target's online network
    :param has_backward: whether ``backward`` will be called; if not, values that have been read make room for others
    """

    def __init__(self, program: Program, mirrored: NetworkBlocks | None = None, has_backward: bool = True) -> None:
        self.program, self._has_backward = program, has_backward
        self.steps = fused(program)
        self.operations = OPERATION.zeros(len(self.steps))
        self.network = NETWORK.zeros(1)
        self.sparse = [layer for layer in program.layers if isinstance(layer, SparseLinear)]
        self.versions = self._versions()
        self.structures: list[Structure | None] = []
        self.ordered: list[Array] = []
        for number, (block, step) in enumerate(zip(self.operations, self.steps, strict=True)):
            shared = None if mirrored is None else mirrored.structures[number]
            self.structures.append(_structure(step.operation, shared))
            self._describe(block, step)
        # Looking up a module's attribute takes ten times as long
        self._held: list[tuple[dict[str, Any], str]] = [
            (module._parameters, "values" if isinstance(module, SparseLinear) else "weight")
            for step in self.steps
            for module in [cast(Any, step.operation.module)]
            if step.operation.kind in ("linear", "layer_norm")
        ]
        self._parametric = [i for i, s in enumerate(self.steps) if s.operation.kind in ("linear", "layer_norm")]
        self._statistics: list[tuple[Any, dict[str, Any]]] = [
            (block, cast(Any, step.operation.module)._buffers)
            for block, step in zip(self.operations, self.steps, strict=True)
            if step.operation.kind == "observation_norm"
        ]
        network = self.network[0]
        network["operations"], network["n_operations"] = address(self.operations), len(self.steps)
        network["n_in"] = program.widths[0]
        network["n_out"] = sum(program.widths[value] for value in program.outputs)
        self._lay_out_activations()
        self._lay_out_value_gradients()
        self.place_gradients()

    def _versions(self) -> list[int]:
        return [layer.connections_version for layer in self.sparse]

    @property
    def is_current(self) -> bool:
        """Whether no layer has other connections than when the blocks were made."""
        return self.versions == self._versions()

    @property
    def address(self) -> int:
        """Where the network's block is."""
        return address(self.network)

    def _describe(self, block: Any, step: Step) -> None:
        operation, structure = step.operation, self.structures[len(self.structures) - 1]
        block["kind"] = o.DENSE if _is_dense(operation) else KINDS[operation.kind]
        block["activation"], block["activation_parameter"] = activation_code(step.activation)
        block["n_in"] = self.program.widths[operation.inputs[0]]
        block["n_out"] = self.program.widths[operation.output]
        block["adds_residual"] = step.residual is not None
        if isinstance(operation.module, nn.LayerNorm):
            block["epsilon"] = operation.module.eps
        if operation.kind == "observation_norm":
            norm: Any = operation.module
            block["n_normalized"], block["epsilon"], block["clip"] = norm.features_dim, norm.epsilon, norm.clip
        if structure is None:
            return
        self.ordered.append(aligned(structure.nnz * 4))
        block["nnz"], block["ordered"] = structure.nnz, address(self.ordered[-1])
        block["rows"] = block["gradient_rows"] = address(structure.rows)
        block["columns"] = block["gradient_columns"] = address(structure.columns)
        block["starts"], block["outputs"] = address(structure.column_starts), address(structure.outputs)
        block["sources"] = address(structure.sources)

    def _lay_out_activations(self) -> None:
        program, memory = self.program, _Memory()
        normalized = {step.output for step in self.steps if step.operation.kind == "observation_norm"}
        places = {0: -1, **self._take_outputs(memory)}
        self.network[0]["output"] = places[program.outputs[0]]
        unread = [value for step in self.steps for value in step.inputs]
        for block, step in zip(self.operations, self.steps, strict=True):
            if step.output not in places:
                places[step.output] = memory.take(program.widths[step.output] * ROW_BYTES)
            block["source"], block["second_source"] = places[step.inputs[0]], places[step.inputs[-1]]
            block["output"] = places[step.output]
            block["reads_normalized_input"] = step.inputs[0] in normalized
            if step.operation.kind == "layer_norm":
                block["statistics"] = memory.take(2 * ROW_BYTES)
                if not self._has_backward:
                    memory.free(int(block["statistics"]))
            del unread[: len(step.inputs)]
            for value in {*step.inputs} - {0, *unread, *program.outputs}:
                if not self._has_backward:
                    memory.free(places[value])
        self.network[0]["activation_bytes"] = memory.size

    def _take_outputs(self, memory: _Memory) -> dict[int, int]:
        """Room for the network's outputs, side by side: the place of each."""
        widths = [self.program.widths[value] * ROW_BYTES for value in self.program.outputs]
        starts = memory.take(sum(widths)) + np.cumsum([0, *widths[:-1]])
        return dict(zip(self.program.outputs, starts.tolist(), strict=True))

    def _lay_out_value_gradients(self) -> None:
        """Where gradients of values are while ``backward`` runs; each is free once its maker has read it."""
        program, memory = self.program, _Memory()
        places = self._take_outputs(memory)
        self.network[0]["output_gradient"] = places[program.outputs[0]]
        written = set(program.outputs)
        makers = {step.output: step for step in self.steps}
        readers: dict[int, int] = {}
        for step in self.steps:
            for value in step.inputs:
                readers[value] = readers.get(value, 0) + 1
        for block, step in zip(reversed(self.operations), reversed(self.steps), strict=True):
            block["output_gradient"] = places[step.output]
            is_kept = step.output in program.outputs
            for name, value in zip(("", "second_"), step.inputs, strict=False):
                readers[value] -= 1
                block["adds" if not name else "second_adds"] = value in written
                written.add(value)
                if value == 0:
                    continue
                if name and value not in places and value == step.residual and not is_kept:
                    # All of the output's gradient is the residual's, in the same place
                    places[value], is_kept = places[step.output], True
                if value not in places:
                    places[value] = memory.take(program.widths[value] * ROW_BYTES)
                block[f"{name}source_gradient"] = places[value]
                maker = makers[value]
                if readers[value] == 0 and maker.operation.kind == "linear":
                    code, parameter = activation_code(maker.activation)
                    block["second_activation" if name else "source_activation"] = code
                    block[f"{name or 'source_'}parameter"] = parameter
            if block["kind"] == o.DENSE:
                block["transposed"] = memory.take(-(-int(block["n_in"]) // LANES) * LANES * ROW_BYTES)
                memory.free(block["transposed"])
            if not is_kept:
                memory.free(places[step.output])
        self.network[0]["gradient_bytes"] = memory.size

    def place_gradients(self) -> int:
        """Lay out the gradients of parameters one after the other.

        :return: number of floats that they take
        """
        at = 0
        for number in self._parametric:
            block = self.operations[number]
            # Room for all positions is only taken while a topology evolves
            is_full = block["gradient_rows"] != block["rows"]
            size = block["n_in"] * block["n_out"] if is_full or block["kind"] == o.DENSE else block["nnz"]
            if block["kind"] == o.LAYER_NORM:
                size = block["n_out"]
            # Kernels write, or add zeros, to so many floats behind the last one
            block["weights_gradient"], at = at, at + int(size) + max(PADDING, LANES)
            block["bias_gradient"], at = at, at + int(block["n_out"]) + PADDING
        self.network[0]["n_gradients"] = at
        return at

    def gradient_offsets(self) -> Iterator[tuple[th.Tensor, int]]:
        """Each parameter with the offset of its gradient."""
        for number in self._parametric:
            block, step = self.operations[number], self.steps[number]
            offsets = (block["weights_gradient"], block["bias_gradient"])
            yield from zip(parameters_of(step.operation), map(int, offsets), strict=False)

    def refresh(self) -> None:
        """Read the addresses of weights and biases; PyTorch may have moved them since the last call."""
        self.operations["weights"][self._parametric] = [held[name].data_ptr() for held, name in self._held]
        self.operations["bias"][self._parametric] = [held["bias"].data_ptr() for held, _ in self._held]
        for block, buffers in self._statistics:
            block["weights"], block["bias"] = buffers["mean"].data_ptr(), buffers["variance"].data_ptr()

    def want_all_positions(self, wanted: bool) -> None:
        """Whether ``backward`` computes the gradient of weights at absent positions too.

        :param wanted: whether to
        """
        self._full: list[Structure] = []
        for number in self._parametric:
            layer, structure = self.steps[number].operation.module, self.structures[number]
            if not isinstance(layer, SparseLinear) or structure is None:
                continue
            if wanted:
                structure = Structure.full(layer.in_features, layer.out_features)
                self._full.append(structure)
            block = self.operations[number]
            block["gradient_rows"], block["gradient_columns"] = address(structure.rows), address(structure.columns)
        self.place_gradients()

    def parts(self) -> Array:
        """The blocks of the parts of this network that make its outputs, which must share no operation.

        Only that of the first output gives gradients with respect to the network's inputs. Its operations are the last
        of the network: what they write in ``backward`` is written for the first time then.

        :return: a network block for each output
        """
        parts, before = np.tile(self.network, len(self.program.outputs)), 0
        for number, part in enumerate(parts):
            program = self.program.part(number)
            chosen = {operation.output for operation in program.operations}
            steps = [i for i, step in enumerate(self.steps) if step.operation.output in chosen]
            part["operations"] = address(self.operations) + steps[0] * OPERATION.size
            part["n_operations"] = len(steps)
            part["n_out"] = program.widths[program.outputs[0]]
            for field in ("output", "output_gradient"):
                part[field] += before * ROW_BYTES
            before += int(part["n_out"])
        return parts


def _structure(operation: Operation, mirrored: Structure | None) -> Structure | None:
    layer = operation.module
    if isinstance(layer, SparseLinear):
        return mirrored or layer.structure
    if isinstance(layer, nn.Linear) and not _is_dense(operation):
        return mirrored or Structure.full(layer.in_features, layer.out_features)
    return None


def _is_dense(operation: Operation) -> bool:
    layer = operation.module
    return isinstance(layer, nn.Linear) and layer.out_features >= MIN_DENSE_OUTPUTS


class ParameterBlocks:
    """The blocks of the parameters that an optimizer and Polyak averaging work on.

    :param groups: each optimizer with its parameters and, for each of these, what is to follow it (None: nothing)
    :param layers: layers whose weights are among the parameters and are kept at unit norm
    """

    def __init__(
        self,
        groups: Sequence[tuple[th.optim.Optimizer, Sequence[th.Tensor], Sequence[th.Tensor | None]]],
        layers: Sequence[LinearLayer] = (),
    ) -> None:
        self.groups = groups
        self.ends: list[int] = np.cumsum([len(parameters) for _, parameters, _ in groups]).tolist()
        self.parameters = [parameter for _, parameters, _ in groups for parameter in parameters]
        self.blocks = PARAMETER.zeros(len(self.parameters))
        targets = [target for _, _, targets in groups for target in targets]
        self._followed = [i for i, target in enumerate(targets) if target is not None]
        self._targets = [target for target in targets if target is not None]
        self.blocks["size"] = [parameter.numel() for parameter in self.parameters]
        self._units: dict[th.Tensor, Array] = {values_of(layer): _unit_starts(layer) for layer in layers}
        for block, parameter in zip(self.blocks, self.parameters, strict=True):
            if (starts := self._units.get(parameter)) is not None:
                block["units"], block["n_units"] = address(starts), len(starts) - 1
        self.state_holders = [optimizer.state for optimizer, _, _ in groups]
        self.states = [_state(optimizer, parameter) for optimizer, parameters, _ in groups for parameter in parameters]
        self._holders_of = [optimizer.state for optimizer, parameters, _ in groups for _ in parameters]
        # What a step of Adam overwrites
        sizes = 3 * self.blocks["size"] + 1
        self._before = np.zeros(sizes.sum(), np.float32)
        self.blocks["before"] = address(self._before) + 4 * (np.cumsum(sizes) - sizes)
        self._moments = self._current_moments()
        for field, moments in zip(("mean", "square", "step"), self._moments, strict=True):
            self.blocks[field] = [moment.data_ptr() for moment in moments]

    def _current_moments(self) -> list[list[th.Tensor]]:
        return [[state[name] for state in self.states] for name in ("exp_avg", "exp_avg_sq", "step")]

    @property
    def is_current(self) -> bool:
        """Whether every optimizer still has the very moments that the blocks were made of."""
        holders = zip(self.state_holders, self.groups, strict=True)
        if not all(map(is_, map(dict.get, self._holders_of, self.parameters), self.states)):
            return False
        return all(holder is optimizer.state for holder, (optimizer, _, _) in holders) and all(
            all(map(is_, moments, current))
            for moments, current in zip(self._moments, self._current_moments(), strict=True)
        )

    def place_gradients(self, offsets: Mapping[th.Tensor, int]) -> None:
        """Say where in a shard's gradients those of each parameter are.

        :param offsets: in floats, by parameter; others stay
        """
        places = [offsets.get(parameter, 0) for parameter in self.parameters]
        self.blocks["gradient"] = places

    def refresh(self) -> None:
        """Read the addresses of parameters and targets; PyTorch may have moved them since the last call."""
        self.blocks["value"] = [parameter.data_ptr() for parameter in self.parameters]
        self.blocks["target"][self._followed] = [target.data_ptr() for target in self._targets]


def _unit_starts(layer: LinearLayer) -> Array:
    """Where each unit's weights begin in the parameter that holds them, and where the last one's end."""
    if isinstance(layer, SparseLinear):
        return layer.structure.rows
    return np.arange(layer.out_features + 1, dtype=np.int64) * layer.in_features


def _state(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> dict[str, th.Tensor]:
    """Adam's state of a parameter, made as Adam itself makes it at its first step."""
    state: dict[str, th.Tensor] = optimizer.state[parameter]
    if not state:
        step, mean, square = th.tensor(0.0, dtype=th.float32, device="cpu"), *(th.zeros_like(parameter) for _ in "mv")
        state.update(step=step, exp_avg=mean, exp_avg_sq=square)  # all at once: Ctrl-C may come at any time
    return state
