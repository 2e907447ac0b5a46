"""The tables that tell compiled updates where a model's networks, optimizer states and working memory are."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from sb3_rlx2.engine import adam as a
from sb3_rlx2.engine import networks as n
from sb3_rlx2.kernels.products import PADDING, ROW_BYTES
from sb3_rlx2.kernels.structure import Structure
from sb3_rlx2.sparse.layers import SparseLinear

Array = npt.NDArray[Any]
Layer = SparseLinear | nn.Linear

ALIGNMENT = 64


def aligned(size: int) -> Array:
    """Zeroed memory of ``size`` bytes that begins at a cache line."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.ctypes.data)


class NetworkTable:
    """The table of layers (``networks``) and of parameters (``adam``) of some networks.

    :param networks: the layers of each network in order
    :param mirrors: for each network the one whose connections it has, itself if it has its own
    """

    def __init__(self, networks: Sequence[Sequence[Layer]], mirrors: Sequence[int]) -> None:
        self.layers = [layer for network in networks for layer in network]
        self.firsts = np.cumsum([0, *map(len, networks)])[:-1].tolist()
        self.rows = np.zeros((len(self.layers), n.LAYER_FIELDS), np.int64)
        self._sparse = [layer for layer in self.layers if isinstance(layer, SparseLinear)]
        self.versions = self._versions()
        # Looking up a module's attribute takes ten times as long
        self._held: list[tuple[dict[str, Any], str]] = [
            (layer._parameters, "values" if isinstance(layer, SparseLinear) else "weight") for layer in self.layers
        ]
        self.structures: list[Structure] = []
        self.memory: list[Array] = []
        for network, mirror in zip(networks, mirrors, strict=True):
            for i, layer in enumerate(network):
                own = self.firsts[mirror] + i == len(self.structures)
                self.structures.append(_structure(layer) if own else self.structures[self.firsts[mirror] + i])
        for row, structure in zip(self.rows, self.structures, strict=True):
            self._describe(row, structure)
        for network, first in zip(networks, self.firsts, strict=True):
            self._place_outputs(first, len(network))

    def _versions(self) -> list[int]:
        return [layer.connections_version for layer in self._sparse]

    @property
    def is_current(self) -> bool:
        """Whether no layer has other connections than when the table was made."""
        return self.versions == self._versions()

    def _describe(self, row: Array, structure: Structure) -> None:
        ordered = aligned(structure.nnz * 4)
        self.memory.append(ordered)
        row[[n.N_IN, n.N_OUT, n.NNZ]] = structure.n_in, structure.n_out, structure.nnz
        row[[n.ROWS, n.COLUMNS]] = row[[n.GRADIENT_ROWS, n.GRADIENT_COLUMNS]] = [
            address(structure.rows),
            address(structure.columns),
        ]
        row[[n.STARTS, n.OUTPUTS, n.SOURCES, n.ORDERED]] = [
            address(structure.column_starts),
            address(structure.outputs),
            address(structure.sources),
            address(ordered),
        ]

    def _place_outputs(self, first: int, count: int) -> None:
        widths = self.rows[first : first + count, n.N_OUT] * (ROW_BYTES // 4)
        self.rows[first : first + count, n.ACTIVATIONS] = np.cumsum(widths) - widths

    def place_gradients(self, networks: Sequence[int], counts: Sequence[int]) -> int:
        """Lay out the gradients of some networks one after the other.

        :param networks: their numbers
        :param counts: their numbers of layers
        :return: number of floats that they take
        """
        at = 0
        for network, count in zip(networks, counts, strict=True):
            for row in self.rows[self.firsts[network] : self.firsts[network] + count]:
                # Room for all positions is only taken while a topology evolves
                positions = row[n.N_IN] * row[n.N_OUT] if row[n.GRADIENT_ROWS] != row[n.ROWS] else row[n.NNZ]
                row[n.VALUES_GRADIENT], at = at, at + positions + PADDING
                row[n.BIAS_GRADIENT], at = at, at + row[n.N_OUT] + PADDING
        return int(at)

    def refresh(self) -> None:
        """Read the addresses of weights and biases; PyTorch may have moved them since the last call."""
        self.rows[:, n.VALUES] = [held[name].data_ptr() for held, name in self._held]
        self.rows[:, n.BIAS] = [held["bias"].data_ptr() for held, _ in self._held]


class ParameterTable:
    """The table of parameters that Adam and Polyak averaging work on.

    :param groups: each optimizer with its parameters and, for each of these, what is to follow it (None: nothing)
    """

    def __init__(self, groups: Sequence[tuple[th.optim.Optimizer, Sequence[th.Tensor], Sequence[th.Tensor | None]]]):
        self.groups = groups
        self.ends = np.cumsum([len(parameters) for _, parameters, _ in groups]).tolist()
        self.rows = np.zeros((self.ends[-1], a.PARAMETER_FIELDS), np.int64)
        self.parameters = [parameter for _, parameters, _ in groups for parameter in parameters]
        targets = [target for _, _, targets in groups for target in targets]
        self._followed = [i for i, target in enumerate(targets) if target is not None]
        self._targets = [target for target in targets if target is not None]
        self.rows[:, a.SIZE] = [parameter.numel() for parameter in self.parameters]
        self.state_holders = [optimizer.state for optimizer, _, _ in groups]
        self.states = [_state(optimizer, parameter) for optimizer, parameters, _ in groups for parameter in parameters]
        self._holders_of = [optimizer.state for optimizer, parameters, _ in groups for _ in parameters]
        # What a step of Adam overwrites, see ``adam``
        blocks = 3 * self.rows[:, a.SIZE] + 1
        self._before = np.zeros(blocks.sum(), np.float32)
        self.rows[:, a.BEFORE] = address(self._before) + 4 * (np.cumsum(blocks) - blocks)
        self._moments = self._current_moments()
        for column, moments in zip((a.MEAN, a.SQUARE, a.STEP), self._moments, strict=True):
            self.rows[:, column] = [moment.data_ptr() for moment in moments]

    def _current_moments(self) -> list[list[th.Tensor]]:
        return [[state[name] for state in self.states] for name in ("exp_avg", "exp_avg_sq", "step")]

    @property
    def is_current(self) -> bool:
        """Whether every optimizer still has the very moments that the table was made of."""
        holders = zip(self.state_holders, self.groups, strict=True)
        if not all(map(is_, map(dict.get, self._holders_of, self.parameters), self.states)):
            return False
        return all(holder is optimizer.state for holder, (optimizer, _, _) in holders) and all(
            all(map(is_, moments, current))
            for moments, current in zip(self._moments, self._current_moments(), strict=True)
        )

    def refresh(self) -> None:
        """Read the addresses of parameters and targets; PyTorch may have moved them since the last call."""
        self.rows[:, a.PARAMETER] = [parameter.data_ptr() for parameter in self.parameters]
        self.rows[self._followed, a.TARGET] = [target.data_ptr() for target in self._targets]


def _state(optimizer: th.optim.Optimizer, parameter: th.Tensor) -> dict[str, th.Tensor]:
    """Adam's state of a parameter, made as Adam itself makes it at its first step."""
    state: dict[str, th.Tensor] = optimizer.state[parameter]
    if not state:
        step, mean, square = th.tensor(0.0, dtype=th.float32, device="cpu"), *(th.zeros_like(parameter) for _ in "mv")
        state.update(step=step, exp_avg=mean, exp_avg_sq=square)  # all at once: Ctrl-C may come at any time
    return state


def _structure(layer: Layer) -> Structure:
    if isinstance(layer, SparseLinear):
        return layer.structure
    return Structure.full(layer.in_features, layer.out_features)
